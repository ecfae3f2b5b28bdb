"""Episodes from named arrays whose rows lie end to end, as in NumPy archives and HDF5 files.

All hold `observations` and `actions`, and optionally `rewards`; several observations are
`observations/NAME` each. They differ in how rows belong to episodes:

- T+1 rows of observations per episode: `lengths` (episodes,) in transitions, and optionally
  `terminated`, `truncated` (episodes,)
- T rows, as in D4RL: `terminals`, `timeouts` (N,), and optionally the observation after the last
  action in `next_observations` (N, ...) or `last_next` (episodes, ...). A row marked as both is
  terminal. Without `timeouts`, an episode also ends where the logged next observation is not that
  of the next row. The rows after the last mark are a truncated episode.
- T rows without a next observation of the last: `episode_lengths` (episodes,) in rows, and
  optionally `episode_names`
- OGBench: `terminals` without `timeouts` and `rewards` mark the last row of an episode, which is
  its final observation and not a terminal state
- Stable-Baselines: `obs`, and `episode_starts` (N,)
- one episode, with as many observations as actions, or one more

`lengths` and `episode_lengths` are distinguished by their sums, so either name works. If the
observation after the last action was not logged, the last transition is left out, and with it a
terminal state.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.data.episodes import Episode
from worldmodel.data.readers.sizes import check_memory
from worldmodel.errors import DataError, did_you_mean

logger = logging.getLogger(__name__)

MARKS = (
    *("lengths", "terminated", "truncated", "terminals", "timeouts"),
    *("episode_lengths", "episode_names", "episode_starts"),
)
KEYS = ("actions", "rewards", *MARKS)
NAMED = ("observations", "next_observations", "last_next", "obs")  # may be several: KEY/NAME

Arrays = Mapping[str, Any]  # name -> (N, ...), anything that can be sliced, in memory or on disk


@dataclass(frozen=True)
class _Layout:
    """How rows belong to episodes.

    observations: name -> (N, ...), or (N + episodes, ...) if each episode has `extra_rows` = 1
    last: (episodes,) last row of each episode, ascending; the final one is N - 1
    terminated: (episodes,) whether the episode is terminal
    next_observations: name -> (N, ...) the observation after each row, if logged
    final_observations: name -> (episodes, ...) the observation after each last row, if logged
    complete: the last row of observations of an episode is its final observation
    """

    observations: Arrays
    last: np.ndarray
    terminated: np.ndarray
    next_observations: Arrays = field(default_factory=dict)
    final_observations: Arrays = field(default_factory=dict)
    extra_rows: int = 0
    complete: bool = False


def episodes(
    arrays: Arrays, source: str, prefix: str = "", *, ogbench: bool = True
) -> Iterator[Episode]:
    """Yields the episodes; warns at the end about what was left out.

    Args:
        arrays: those of `KEYS` and `NAMED` that are present
        source: their file, for the warning
        prefix: of the names of episodes
        ogbench: read `terminals` without `timeouts` and `rewards` as OGBench writes them

    Raises:
        DataError: arrays that do not fit together
    """
    _check(arrays)
    arrays = {key: value[:] if key in MARKS else value for key, value in arrays.items()}
    layout = _whole(arrays) or _rows(arrays, ogbench)
    names, rewards = _names(arrays, prefix, len(layout.last)), arrays.get("rewards")
    begins = np.concatenate([[0], layout.last[:-1] + 1]).tolist()
    row_bytes = sum(map(_row_bytes, layout.observations.values()))
    lost_terminals = short = 0
    for index, (begin, last) in enumerate(zip(begins, layout.last.tolist(), strict=True)):
        part, shift = slice(begin, last + 1), layout.extra_rows * index
        rows = slice(begin + shift, last + 1 + shift + layout.extra_rows)
        check_memory(row_bytes * (last - begin), names[index])
        observations = {key: np.asarray(value[rows]) for key, value in layout.observations.items()}
        final = _final(layout, index, last)
        if final:
            observations = {k: np.concatenate([v, final[k]]) for k, v in observations.items()}
        if len(next(iter(observations.values()))) < 2:
            short += 1
            continue
        complete = bool(final) or layout.complete
        lost_terminals += bool(layout.terminated[index]) and not complete
        yield Episode(
            observations,
            actions=_classes(np.asarray(arrays["actions"][part])),
            rewards=None if rewards is None else np.asarray(rewards[part]),
            terminated=bool(layout.terminated[index]) and complete,
            name=names[index],
        )
    if lost_terminals:
        logger.warning(
            "%s: %d terminal episodes lack the observation after their last action; they count as "
            "truncated, and nothing is learned from their terminal states",
            source, lost_terminals,
        )  # fmt: skip
    if short:
        logger.warning("%s: %d episodes without a complete transition left out", source, short)


def _check(arrays: Arrays) -> None:
    """Raises DataError for arrays that are not rows of numbers, and marks that are not one each."""
    if scalars := [key for key, value in arrays.items() if value.ndim == 0]:
        raise DataError(f"{', '.join(scalars)} is a single number; accepted: arrays of rows")
    for key, value in arrays.items():
        if value.dtype.kind not in "fiub" and key != "episode_names":
            raise DataError(f"{key} is {value.dtype}; accepted: numbers")
        if key in MARKS and math.prod(value.shape) != len(value):
            raise DataError(f"{key} has shape {value.shape}; accepted: one number per row")
    if len(arrays["actions"]) == 0:
        raise DataError("actions has no rows; accepted: at least one transition")


def require(keys: Iterable[str], present: Iterable[str], accepted: str) -> None:
    """Raises DataError if a key is missing among the names that are `present`."""
    names = [name.partition("/")[0] for name in present]
    absent = [k for k in keys if k not in names and not (k == "observations" and "obs" in names)]
    if absent:
        hint = did_you_mean(absent[0], names)
        raise DataError(
            f"has no {' and no '.join(absent)}{hint}; present: {', '.join(present) or 'none'}; "
            f"accepted: {accepted}"
        )


def _final(layout: _Layout, index: int, last: int) -> dict[str, np.ndarray]:
    """The observation after the last row of an episode, (1, ...) each; empty if not logged."""
    given, row = layout.next_observations, last
    if not given:
        given, row = layout.final_observations, index
    return {key: np.asarray(value[row : row + 1]) for key, value in given.items()}


def _row_bytes(array: Any) -> int:
    return math.prod(array.shape[1:]) * array.dtype.itemsize


def _classes(actions: np.ndarray) -> np.ndarray:
    """Turns (T, 1) integers into classes (T,); leaves everything else unchanged."""
    single = actions.dtype.kind in "iu" and actions.shape[1:] == (1,)
    return actions[:, 0] if single else actions


def _named(arrays: Arrays, key: str) -> dict[str, Any]:
    """The arrays KEY/NAME, or the array KEY with a default name; empty if there are none."""
    if key in arrays:
        image = arrays[key].dtype == np.uint8 and arrays[key].ndim == 4
        return {"image" if image else "observation": arrays[key]}
    prefix = f"{key}/"
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _names(arrays: Arrays, prefix: str, count: int) -> list[str]:
    names = arrays.get("episode_names")
    if names is None or names.shape != (count,):
        return [f"{prefix}episode {index}" for index in range(count)]
    return [f"{prefix}{name}" for name in names]


def _lengths(arrays: Arrays) -> np.ndarray | None:
    lengths = arrays.get("lengths", arrays.get("episode_lengths"))
    if lengths is None:
        return None
    rows = len(arrays["actions"])
    if lengths.dtype.kind not in "iu" or ((lengths < 1) | (lengths > rows)).any():
        integers = lengths.dtype.kind in "iu" and lengths.size
        limits = f" from {lengths.min()} to {lengths.max()}" if integers else ""
        raise DataError(
            f"lengths is {lengths.dtype} of shape {lengths.shape}{limits}; "
            f"accepted: integers (episodes,), each 1 or more, in {rows} rows of actions"
        )
    return lengths.reshape(-1).astype(np.int64)


def _check_lengths(expected: int, of: str, **fields: Any) -> None:
    """Raises DataError for fields that have another number of rows; None is an absent field."""
    for name, value in fields.items():
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, part in parts:
            if part is not None and len(part) != expected:
                label = f"{name}/{key}" if key and len(parts) > 1 else name
                raise DataError(f"{label} has {len(part)} rows; accepted: {expected}, as {of} has")


# ------------------------------------------------------------------------------- T + 1 observations


def _whole(arrays: Arrays) -> _Layout | None:
    """The layout with T+1 rows of observations, or None if there are T rows."""
    observations = _named(arrays, "observations") or _named(arrays, "obs")
    count, lengths = len(arrays["actions"]), _lengths(arrays)
    rows = len(next(iter(observations.values())))
    if lengths is None:
        marked = arrays.keys() & {"terminals", "timeouts", "episode_starts", "next_observations"}
        if marked or rows != count + 1:
            return None
        lengths = np.array([count])
    total = int(lengths.sum())
    if rows == total and count == total:
        return None
    if rows != total + len(lengths) or count != total:
        raise DataError(
            f"lengths sum to {total} in {len(lengths)} episodes, observations have {rows} rows, "
            f"actions {count}; accepted: observations {total + len(lengths)} and actions "
            f"{total} (lengths in transitions), or both {total} (in rows)"
        )
    _check_lengths(rows, "observations", observations=observations)
    _check_lengths(total, "actions", rewards=arrays.get("rewards"))
    ends = {key: arrays.get(key) for key in ("terminated", "truncated")}
    _check_lengths(len(lengths), "lengths", **ends)
    terminated = arrays.get("terminated", np.zeros(len(lengths), bool))
    return _Layout(observations, np.cumsum(lengths) - 1, terminated, extra_rows=1, complete=True)


# ------------------------------------------------------------------------------------------- T rows


def _rows(arrays: Arrays, ogbench: bool) -> _Layout:
    observations = _named(arrays, "observations") or _named(arrays, "obs")
    following = {key: _named(arrays, key) for key in ("next_observations", "last_next")}
    next_observations, final_observations = following.values()
    count, rewards = len(arrays["actions"]), arrays.get("rewards")
    marks = {key: arrays.get(key) for key in ("terminals", "timeouts", "episode_starts")}
    _check_lengths(
        count, "actions", rewards=rewards, observations=observations,
        next_observations=next_observations, **marks,
    )  # fmt: skip
    for name, given in following.items():
        if given and given.keys() != observations.keys():
            raise DataError(f"{name} holds {', '.join(given)}; accepted: {', '.join(observations)}")
    last = _last_rows(arrays, observations, next_observations, count)
    _check_lengths(len(last), "the number of episodes", last_next=final_observations)
    ended = marks["terminals"]
    only_ends = ogbench and rewards is None and marks["timeouts"] is None and ended is not None
    terminated = np.zeros(len(last), bool)
    if ended is not None and not only_ends:
        terminated = ended.reshape(-1)[last] != 0
    return _Layout(
        observations, last, terminated, next_observations, final_observations,
        complete=only_ends and not any(following.values()),
    )  # fmt: skip


def _last_rows(
    arrays: Arrays, observations: Arrays, next_observations: Arrays, count: int
) -> np.ndarray:
    """(episodes,) the last row of each episode, from lengths, starts or marks."""
    lengths = _lengths(arrays)
    if lengths is not None:
        return np.cumsum(lengths) - 1
    if "episode_starts" in arrays:
        marks = [np.roll(arrays["episode_starts"].reshape(-1), -1)]
    else:
        marks = [arrays[key] for key in ("terminals", "timeouts") if key in arrays]
        if next_observations and "timeouts" not in arrays:
            marks.append(_discontinuities(observations, next_observations))
    ends = np.zeros(count, bool)
    for mark in marks:
        ends |= mark.reshape(-1).astype(bool)
    ends[-1] = True
    return np.flatnonzero(ends)


def _discontinuities(
    observations: Arrays, next_observations: Arrays, rows_at_once: int = 65_536
) -> np.ndarray:
    """(N,) bool: rows whose logged next observation is not that of the next row, so an episode ends
    there.
    """
    count = len(next(iter(observations.values())))
    ends = np.zeros(count, bool)
    for key, value in observations.items():
        for begin in range(0, count - 1, rows_at_once):
            end = min(begin + rows_at_once, count - 1)
            after = np.asarray(next_observations[key][begin:end]).reshape(end - begin, -1)
            next_row = np.asarray(value[begin + 1 : end + 1]).reshape(end - begin, -1)
            both_nan = (after != after) & (next_row != next_row)
            ends[begin:end] |= ~((after == next_row) | both_nan).all(1)
    return ends
