"""What the fields of a log mean by their names, and which rows end an episode.

The same names mean the same in every format. Where a name has two meanings, and no other field
settles which, it is asked: `data.roles={dones: terminal}` answers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.errors import DataError, did_you_mean

logger = logging.getLogger(__name__)

# Names of each role, the most common first; `done` and `not_done` are terminal or only ends.
NAMES: dict[str, tuple[str, ...]] = {
    "observation": ("observations", "observation", "obs", "states", "state"),
    "next_observation": (
        *("next_observations", "next_observation", "next_obs", "next_states", "next_state"),
        *("observations_next", "observation_next", "obs_next", "new_obs", "s_next", "next_s"),
    ),
    "action": ("actions", "action"),
    "reward": ("rewards", "reward"),
    "terminal": (
        *("terminals", "terminal", "terminated", "terminations", "termination"),
        *("is_terminal", "is_terminals"),
    ),
    "not_terminal": ("discount", "discounts"),
    "truncated": (
        *("timeouts", "timeout", "truncated", "truncations", "truncation", "is_truncated"),
        *("time_outs", "time_out"),
    ),
    "end": ("dones_float", "episode_end"),
    "final": ("is_last",),
    "start": ("episode_starts", "episode_start", "is_first"),
    "length": ("lengths", "episode_lengths", "episode_length"),
    "done": ("dones", "done", "is_done"),
    "not_done": ("masks", "mask"),
}
MARKS = (
    *("terminal", "not_terminal", "truncated", "end", "not_end", "final", "start"),
    *("done", "not_done"),
)
_ROLE_OF = {name: role for role, names in NAMES.items() for name in names}


def role_of(name: str, roles: Mapping[str, str] | None = None) -> str | None:
    """Returns what a field means: a key of `config.ROLES`, `done` or `not_done`; None if unknown.

    Args:
        name: the name of the field; a dot, slash or other prefix is the caller's to remove
        roles: `data.roles`, which come first

    Example:
        >>> role_of("truncations"), role_of("dones"), role_of("dones", {"dones": "terminal"})
        ('truncated', 'done', 'terminal')
    """
    return (roles or {}).get(name) or _ROLE_OF.get(name)


def check_roles(roles: Mapping[str, str], names: Collection[str]) -> None:
    """Raises DataError for a role, other than `ignore`, of a field that is none of `names`."""
    names = list(dict.fromkeys([*names, *(name.partition("/")[0] for name in names)]))
    for name, role in roles.items():
        if name not in names and role != "ignore":
            hint = did_you_mean(name, names)
            raise DataError(
                f"data.roles names {name}{hint}; accepted: the fields {', '.join(names) or 'none'}"
            )


def truths(values: Any, name: str, first_row: int = 0) -> np.ndarray:
    """Returns bool (N,).

    Args:
        values: (N,) or (N, 1) bool, or numbers 0 and 1
        name: the field, for messages
        first_row: the row of the first value in the log, for messages

    Raises:
        DataError: any other value (NaN, -1, 0.5, text), with its row; another shape

    Example:
        >>> truths([0.0, 1.0], "dones").tolist()
        [False, True]
        >>> truths([0.0, float("nan")], "dones")
        Traceback (most recent call last):
        worldmodel.errors.DataError: dones is nan in row 1; accepted: true or false, as bool or as 0
        and 1 (data.roles={dones: ignore} leaves it out)
    """
    values = _column(values, name)
    if values.dtype == bool:
        return values
    if values.dtype.kind == "O":
        good = np.array([isinstance(v, bool | int | float) and v in (0, 1) for v in values], bool)
    else:
        good = (values == 0) | (values == 1) if values.dtype.kind in "fiu" else np.zeros(1, bool)
    if not good.all() and len(values):
        row = int(np.flatnonzero(~good)[0])
        raise _not_a(name, values[row], row + first_row, "true or false, as bool or as 0 and 1")
    return values.astype(bool)


def discounts(values: Any, name: str, first_row: int = 0) -> np.ndarray:
    """Returns bool (N,): where a discount is 0, so that nothing follows.

    Raises DataError for values outside 0 to 1, with their row.
    """
    values = _column(values, name)
    values = values.astype(np.float64) if values.dtype.kind in "fiub" else values
    numeric = values.dtype.kind == "f"
    good = (values >= 0) & (values <= 1) if numeric else np.zeros(len(values), bool)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise _not_a(name, values[row], row + first_row, "numbers from 0 to 1, 0 where it ended")
    return values == 0


def _column(values: Any, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim == 0 or math.prod(values.shape) != len(values):
        raise DataError(f"{name} has shape {values.shape}; accepted: one number per row")
    return values.reshape(-1)


def _not_a(name: str, value: Any, row: int, accepted: str) -> DataError:
    shown = repr(value.item() if isinstance(value, np.generic) else value)
    return DataError(
        f"{name} is {shown} in row {row}; accepted: {accepted} (data.roles={{{name}: ignore}} "
        "leaves it out)"
    )


@dataclass(frozen=True)
class Marks:
    """Where episodes end by the marks of a log of N rows, the last row included.

    Attributes:
        last: (N,) bool, the last row of each episode
        terminal: (N,) bool, those of them after which the environment had really ended
        final: whether these rows hold the final observation alone, as in RLDS, and no transition
        named: whether any field marks ends
    """

    last: np.ndarray
    terminal: np.ndarray
    final: bool = False
    named: bool = True


def read_marks(
    fields: Mapping[str, Any],
    roles: Mapping[str, str] | None = None,
    *,
    ends: np.ndarray | None = None,
) -> Marks:
    """Reads all marks of a log by what they mean.

    Args:
        fields: name -> (N,), the fields of the log whose role is one of `MARKS`, and no others
        roles: `data.roles`
        ends: (N,) bool, last rows that are known otherwise: by files, lengths, an episode column,
            or where the next observation is not that of the next row; None if nothing is known

    Raises:
        DataError: values that are not true or false, and marks with two meanings between which no
            other field decides

    Example:
        >>> marks = read_marks({"terminals": [0, 1, 0, 0], "timeouts": [0, 0, 0, 1]})
        >>> marks.last.tolist(), marks.terminal.tolist()
        ([False, True, False, True], [False, True, False, False])
    """
    found = _Found.of(fields, roles or {})
    if not found.fields and ends is None:
        raise ValueError("no fields and no ends")
    count = len(ends) if ends is not None else len(next(iter(found.fields.values())))
    none = np.zeros(count, bool)
    for name, values in found.fields.items():
        if len(values) != count:
            raise DataError(f"{name} has {len(values)} rows; accepted: {count}")
    terminal, truncated, final = (found.any(r) for r in ("terminal", "truncated", "final"))
    last = _or(none, terminal, truncated, final, found.any("end"))
    if (start := found.any("start")) is not None:
        last = last | np.roll(start, -1)
    if ends is not None:
        last = last | ends
    terminal = _settled(found, last, terminal, truncated)
    last = _or(last, found.any("done"), found.any("not_done"))
    last[-1] = True
    return Marks(last, _or(none, terminal) & last, final is not None, bool(found.fields))


def marked_rows(fields: Mapping[str, Any], roles: Mapping[str, str] | None = None) -> np.ndarray:
    """Returns (N,) bool: rows after which an episode ends by any of the marks, whatever they mean.

    Args:
        fields: name -> (N,), fields whose role is one of `MARKS`, at least one
        roles: `data.roles`
    """
    found = _Found.of(fields, roles or {})
    starts = [np.roll(v, -1) for n, v in found.fields.items() if found.roles[n] == "start"]
    return _or(*starts, *(v for n, v in found.fields.items() if found.roles[n] != "start"))


@dataclass(frozen=True)
class _Found:
    """The marks of a log, each true where its role says so."""

    fields: dict[str, np.ndarray] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Mapping[str, Any], roles: Mapping[str, str]) -> _Found:
        found = cls()
        for name, values in fields.items():
            role = role_of(name, roles)
            if role == "not_terminal":
                found.fields[name], role = discounts(values, name), "terminal"
            elif role in ("not_end", "not_done"):
                found.fields[name] = ~truths(values, name)
                role = "end" if role == "not_end" else role
            elif role in MARKS:
                found.fields[name] = truths(values, name)
            else:
                raise ValueError(f"{name} marks no rows")
            found.roles[name] = role
        return found

    def any(self, role: str) -> np.ndarray | None:
        """(N,) where any field of a role is true; None without such a field."""
        return _or_none(*(v for name, v in self.fields.items() if self.roles[name] == role))


def _or_none(*marks: np.ndarray | None) -> np.ndarray | None:
    given = [mark for mark in marks if mark is not None]
    return np.logical_or.reduce(given) if given else None


def _or(*marks: np.ndarray | None) -> np.ndarray:
    return np.logical_or.reduce([mark for mark in marks if mark is not None])


def _settled(
    found: _Found, last: np.ndarray, terminal: np.ndarray | None, truncated: np.ndarray | None
) -> np.ndarray | None:
    """(N,) the terminal rows, by `dones` and `masks` where no field names them; asks if these
    cannot be told from mere ends of records.
    """
    done, masked = found.any("done"), found.any("not_done")
    if truncated is not None:
        named = terminal if terminal is not None else _or_none(done, masked)
        return named if terminal is not None or named is None else named & ~truncated
    if masked is not None and terminal is not None:  # as in OGBench, where `terminals` end records
        return masked
    if terminal is not None or (done is None and masked is None):
        return terminal
    if done is not None and masked is not None and (done != masked).any():
        _check_opposite(found, done, masked)
        return masked
    marked = _or(*(mark for mark in (done, masked) if mark is not None))
    ends_unmarked = (last & ~marked)[:-1].any()  # so the marks cannot be those of all ends
    if marked.any() and not ends_unmarked:
        raise _question(found, marked)
    return marked


def _check_opposite(found: _Found, done: np.ndarray, masked: np.ndarray) -> None:
    """Raises DataError where masks are 0 in most rows, and in none of those that `dones` marks."""
    if masked.mean() <= 0.5 or (done & masked).any() or not done.any():
        return
    name = next(n for n, role in found.roles.items() if role == "not_done")
    other = next(n for n, role in found.roles.items() if role == "done")
    raise DataError(
        f"{name} is 0 in {masked.sum()} of {len(masked)} rows, and in none of the {done.sum()} "
        f"that {other} marks; accepted: 0 where an episode ended. data.roles={{{name}: terminal}} "
        f"reads its 1 as the ends, data.roles={{{name}: ignore}} reads {other} alone"
    )


def _question(found: _Found, done: np.ndarray) -> DataError:
    """Asks what `dones` or `masks` means, with both readings counted."""
    name = next(n for n, role in found.roles.items() if role in ("done", "not_done"))
    negated = "not_" if found.roles[name] == "not_done" else ""
    count = int(done.sum())
    return DataError(
        f"{name} marks {count} of {len(done)} rows, and no field tells what that means: "
        f"data.roles={{{name}: {negated}terminal}} reads {count} terminal episodes, "
        f"data.roles={{{name}: {negated}end}} reads {count} that were only cut there (a time limit)"
    )


class FieldNames:
    """The fields of a data set that were not read, each told once, however many files have it."""

    def __init__(self, source: str):
        self.source, self.told = source, set[str]()

    def warn(self, unread: Iterable[str], rows: int) -> None:
        """Names the fields that have as many rows as there are actions and no known meaning."""
        new = [name for name in unread if name not in self.told]
        if not new:
            return
        self.told |= {*new}
        logger.warning(
            "%s: %s: as long as the actions (%d rows), but not read. data.roles={%s: observation} "
            "(or reward, terminal, ...) reads it, data.roles={%s: ignore} ends this warning",
            self.source, ", ".join(new), rows, new[0], new[0],
        )  # fmt: skip
