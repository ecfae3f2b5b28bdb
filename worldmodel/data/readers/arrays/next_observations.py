"""Logged next observations beside the marks of ends: do they tell of the same episodes?

Where the next observation of a row is not the observation of the next row, an episode ends. Where
an end is marked and it is, either the record goes on (it was only cut), or next observations were
made by shifting, and the one after the end is that of the next episode.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.data.readers.arrays.placeholders import Placeholders
from worldmodel.errors import DataError

BYTES_AT_ONCE = 2**24
MAX_SHIFT = 50  # rows by which marks may be late or early
FURTHER = 1.5  # times any ordinary step
JUMPS = 0.1  # share of the marked rows that step further than that

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Agreement:
    """What next observations tell of ends, of N rows.

    Attributes:
        ends: (N,) bool, rows after which the next row is of another episode
        unknown: (N,) bool, marked rows whose next observation is that of the next episode
        unmarked: number of ends that no field marks
    """

    ends: np.ndarray
    unknown: np.ndarray
    unmarked: int


def agreement(
    observations: Arrays,
    next_observations: Arrays,
    marked: np.ndarray,
    terminal: np.ndarray,
    label: str,
    marks: str,
    *,
    inside: bool = False,
) -> Agreement:
    """Compares next observations with the marks.

    Args:
        observations: name -> (N, ...)
        next_observations: name -> (N, ...)
        marked: (N,) bool, rows that any field marks as the last of an episode
        terminal: (N,) bool, those that are marked as terminal
        label: the name of the next observations, for messages
        marks: the names of the marks, for messages
        inside: whether marks may be inside a record, as masks are

    Raises:
        DataError: marks at rows after which the record goes on, and ends without a mark; several
            marks in a row for one end
    """
    ends = _discontinuities(observations, next_observations)
    inner = marked.copy()
    inner[-1] = False
    silent, unmarked = inner & ~ends, ends & ~marked
    unknown = np.zeros(len(ends), bool)
    if silent.any() and unmarked.any():
        by, fitting = _best_shift(inner, ends)
        fits = fitting > max(1, inner.sum() / 2)  # one may fit by chance
        if fits or not inside:
            raise _contradiction(silent, unmarked, by, fitting if fits else 0, label, marks)
    elif (repeated := silent[:-1] & marked[1:]).any() and not inside:
        raise DataError(
            f"{marks} mark {repeated.sum()} rows (first: {np.flatnonzero(repeated)[0]}) before "
            f"another marked row, where {label} shows that the record goes on; accepted: one mark "
            f"for each end. {_remedies(label, marks)}"
        )
    elif silent.any():
        ended = (silent & terminal).sum()
        # Not by chance: they were made by shifting, also those after ends that are not terminal.
        if ended > (terminal & inner).sum() / 2 or _jumps(observations, next_observations, silent):
            unknown = silent.copy()
        unknown[-1] = unknown.any() and not ends.any()  # nothing is known of any end
    return Agreement(ends, unknown, int(unmarked.sum()))


def placeholder_ends(
    observations: Arrays, next_observations: Arrays, ends: np.ndarray
) -> tuple[np.ndarray, str]:
    """Returns (N,) bool, the ends whose next observations are placeholders, and what they are.

    `ends` are (N,) bool, all that are known; the last row is one, whether they say so or not.
    """
    none, last, counted = np.zeros(len(ends), bool), len(ends) - 1, Placeholders()
    widest = max(observations.values(), key=_row_bytes)
    now = then = {}
    for begin, end in _chunks(widest, len(ends)):
        now, then = (
            {key: np.asarray(values[key][begin:end]) for key in observations}
            for values in (observations, next_observations)
        )
        inside = slice(0, end - begin - (end > last and not ends[last]))
        counted.add(
            {k: v[inside] for k, v in now.items()},
            {k: v[inside] for k, v in then.items()},
            ends[begin:end][inside],
        )
        if not counted.possible:
            return none, ""
    if (kind := counted.kind()) is None:
        return none, ""
    held = ends.copy()
    if not ends[last]:
        alone = Placeholders()
        alone.add(
            {k: v[-1:] for k, v in now.items()}, {k: v[-1:] for k, v in then.items()}, ~none[:1]
        )
        held[last] = alone.is_like(kind)
    return held, kind


def _contradiction(
    silent: np.ndarray, unmarked: np.ndarray, by: int, fitting: int, label: str, marks: str
) -> DataError:
    rows = f"{abs(by)} row{'s' * (abs(by) > 1)} {'late' if by > 0 else 'early'}"
    hint = f"; {fitting} of the marks fit {label} if they are {rows}" if fitting else ""
    return DataError(
        f"{label} and {marks} contradict each other: {silent.sum()} marked rows (first: "
        f"{np.flatnonzero(silent)[0]}) are followed by their next observation, and "
        f"{unmarked.sum()} rows (first: {np.flatnonzero(unmarked)[0]}) are not, without a mark"
        f"{hint}. {_remedies(label, marks)}"
    )


def _remedies(label: str, marks: str) -> str:
    ignored = ", ".join(f"{name}: ignore" for name in marks.split(", "))
    return (
        f"data.roles={{{ignored}}} reads the ends that {label} tells, none of them terminal; "
        f"data.roles={{{label}: ignore}} reads the marks"
    )


def _best_shift(marked: np.ndarray, ends: np.ndarray) -> tuple[int, int]:
    """By how many rows the marks are late if most of them fit, and how many then do."""
    most = min(MAX_SHIFT, len(ends) - 1)
    shifts = {by: _fitting(marked, ends, by) for by in range(-most, most + 1) if by}
    by = max(shifts, key=lambda shift: (shifts[shift], -abs(shift)))
    return by, shifts[by]


def _fitting(marked: np.ndarray, ends: np.ndarray, by: int) -> int:
    """How many ends are marked `by` rows later."""
    late = marked[by:] & ends[:-by] if by > 0 else marked[:by] & ends[-by:]
    return int(late.sum())


def _discontinuities(observations: Arrays, next_observations: Arrays) -> np.ndarray:
    """(N,) bool: rows whose logged next observation is not that of the next row."""
    count = len(next(iter(observations.values())))
    ends = np.zeros(count, bool)
    for key, value in observations.items():
        after = next_observations[key]
        dtype = min(value.dtype, after.dtype, key=lambda dtype: dtype.itemsize)
        floats = value.dtype.kind == "f" and after.dtype.kind == "f"
        for begin, end in _chunks(value, count - 1):
            now, then = np.asarray(value[begin + 1 : end + 1]), np.asarray(after[begin:end])
            if floats and value.dtype != after.dtype:  # one of them was rounded
                now, then = now.astype(dtype), then.astype(dtype)
            now, then = (x.reshape(end - begin, -1) for x in (now, then))
            both_nan = (now != now) & (then != then)
            ends[begin:end] |= ~((now == then) | both_nan).all(1)
    return ends


def _jumps(observations: Arrays, next_observations: Arrays, marked: np.ndarray) -> bool:
    """Whether marked rows step much further than any other row does, in some number."""
    jumped, others = np.zeros(int(marked.sum()), bool), ~marked
    others[-1] = False  # always an end
    for key, value in observations.items():
        if value.dtype.kind not in "fiub":
            continue
        size = math.prod(value.shape[1:])
        largest, steps = np.zeros(size), []
        for begin, end in _chunks(value, len(marked)):
            now = np.asarray(value[begin:end], np.float64).reshape(end - begin, -1)
            then = np.asarray(next_observations[key][begin:end], np.float64)
            step = np.abs(then.reshape(end - begin, -1) - now)
            ordinary = step[others[begin:end]]
            largest = np.fmax(largest, ordinary.max(0, initial=0.0))
            steps.append(step[marked[begin:end]])
        jumped |= (np.concatenate(steps) > FURTHER * largest).any(1)
    return bool(jumped.mean() >= JUMPS)


def _chunks(value: Any, count: int) -> Iterator[tuple[int, int]]:
    at_once = max(1, min(65_536, BYTES_AT_ONCE // max(1, _row_bytes(value))))
    for begin in range(0, count, at_once):
        yield begin, min(begin + at_once, count)


def _row_bytes(value: Any) -> int:
    return math.prod(value.shape[1:]) * value.dtype.itemsize
