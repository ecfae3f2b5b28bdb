"""From the rows of a table to its episodes: where they end, and what their last row is.

A row is an observation, the action taken there and its reward. Whether the last row of an episode
is such a transition too, or the final observation alone with padding, is told by `data.last_row`;
by default by the table: rows with rewards or marks of ends are transitions, as a loop writes them,
unless the last action or reward is blank; rows of inputs and outputs alone end in an observation.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from worldmodel.data.episodes import Episode
from worldmodel.data.readers.marks import read_marks
from worldmodel.data.readers.tables.columns import classes, quoted
from worldmodel.data.readers.tables.options import TableData
from worldmodel.errors import DataError, bullet_list

logger = logging.getLogger(__name__)

UNEVEN = 5.0  # a time step so many times longer than the median causes a warning
MOST_ENDS = 0.5  # share of the rows whose next observation may be another than the next row's

Which = np.ndarray | slice  # selects rows of a file


@dataclass(frozen=True)
class Rows:
    """The rows of a file or of one episode, in the order of the file.

    observations: name -> (rows, ...)
    actions: (rows, A)
    rewards: (rows, 1), or None
    time: (rows,) seconds, or None
    following: (rows, D) the observation after the action, or None
    """

    observations: Mapping[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray | None = None
    time: np.ndarray | None = None
    following: np.ndarray | None = None

    def select(self, which: Which) -> Rows:
        optional = (self.rewards, self.time, self.following)
        return Rows(
            {name: value[which] for name, value in self.observations.items()},
            self.actions[which],
            *(None if x is None else x[which] for x in optional),
        )

    def blank(self) -> np.ndarray:
        """(rows,) bool, where no action is given."""
        return np.all(np.isnan(self.actions), axis=1)


class Span(NamedTuple):
    """One episode of a file: its label in it, its rows, and what is wrong with its marks."""

    label: str
    rows: Which
    terminal: bool = False
    final: bool = False  # the last row is the final observation, by its marks
    error: str = ""


# ---------------------------------------------------------------------------------- where they end


def spans(
    options: TableData,
    rows: Rows,
    marks: dict[str, np.ndarray],
    groups: Sequence[tuple[str, np.ndarray]] | None,
) -> list[Span]:
    """The episodes of a file, by the values of a column (`groups`), by marks, or all rows as one.

    Raises DataError, without the file's name, for marks and next observations that contradict.
    """
    roles = {name: role.removeprefix("not_") for name, role in options.mark_roles.items()}
    ends = np.zeros(len(rows.actions), bool)
    if groups is None and rows.following is not None and "truncated" not in roles.values():
        ends = _discontinuities(rows)
    if not marks and groups is None and not ends.any():
        return [Span("", slice(None))]
    found = read_marks(marks, roles, ends=ends)
    last, terminal = found.last.copy(), found.terminal.copy()
    if groups is None:
        _check_consecutive(marks, rows)
        _move_to_blank_rows(rows, last, terminal)
        begins = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1]).tolist()
        parts = [
            slice(b, e + 1) for b, e in zip(begins, np.flatnonzero(last).tolist(), strict=True)
        ]
        labels = [str(i) for i in range(len(parts))] if len(parts) > 1 else [""]
        named = list(zip(labels, parts, strict=True))
    else:
        named = [(value, _contiguous(which)) for value, which in groups]
    blank = rows.blank()
    one = groups is None
    return [
        _span(label, part, last[part], terminal[part], blank[part], found.final, marks, one)
        for label, part in named
    ]


def _span(
    label: str,
    part: Which,
    last: np.ndarray,
    terminal: np.ndarray,
    blank: np.ndarray,
    final: bool,
    marks: Mapping[str, np.ndarray],
    one: bool,
) -> Span:
    """An episode; its marks may be true in its last row, or before a last row without action."""
    allowed = 2 if blank[-1] else 1
    if last[:-allowed].any():
        early = np.flatnonzero(last)
        name = next((n for n, values in marks.items() if values[part][early[0]]), next(iter(marks)))
        hint = "; data.episode names a column that identifies the episode" if one else ""
        error = (
            f"column {quoted(name)} is true at row {early[0]} of rows 0 to {len(last) - 1}; "
            f"accepted: true at the last row only{hint}"
        )
        return Span(label, part, error=error)
    return Span(label, part, bool(terminal[-allowed:].any()), final)


def _contiguous(which: np.ndarray) -> Which:
    """A slice of the same rows where they lie side by side: it selects without copying."""
    first, last = int(which[0]), int(which[-1])
    return slice(first, last + 1) if last - first + 1 == len(which) else which


def _check_consecutive(marks: Mapping[str, np.ndarray], rows: Rows) -> None:
    """Raises DataError for a mark that is true in consecutive rows, each of which would be an
    episode.
    """
    for name, values in marks.items() if rows.following is None else ():
        twice = np.flatnonzero(values[:-1] & values[1:] & ~rows.blank()[1:])
        if twice.size:
            raise DataError(
                f"column {quoted(name)} is true at rows {twice[0]} and {twice[0] + 1}; accepted: "
                "true at the last row of an episode only; data.episode names a column that "
                "identifies the episode"
            )


def _move_to_blank_rows(rows: Rows, last: np.ndarray, terminal: np.ndarray) -> None:
    """Where a row without action follows a marked one, it is the final observation."""
    moved = last[:-1] & rows.blank()[1:]
    for mark in (last, terminal):
        mark[1:] |= moved & mark[:-1]
        mark[:-1] &= ~moved


def _discontinuities(rows: Rows) -> np.ndarray:
    """(rows,) bool, where the next observation is not that of the next row. Raises DataError if
    that is so in most rows.
    """
    differs = ~_follows(rows, np.arange(len(rows.actions) - 1))
    if (count := int(differs.sum())) > MOST_ENDS * len(differs):
        raise DataError(
            f"data.next_observations differ from the observation of the next row in {count} of "
            f"{len(differs)} rows; accepted: the same but where an episode ends"
        )
    return np.append(differs, True)


def _follows(rows: Rows, which: np.ndarray, after: np.ndarray | None = None) -> np.ndarray:
    """(n,) bool, whether the next observation of each row is that of the row `after` it."""
    assert rows.following is not None
    one = rows.following[which]
    other = rows.observations["observation"][which + 1 if after is None else after]
    return ((one == other) | (np.isnan(one) & np.isnan(other))).all(1)


def check_next(rows: Rows, found: Sequence[Span], file: str, told: Told) -> bool:
    """Whether the next observations of last rows are final observations, rather than the first of
    the next episode, or placeholders, which is `told`. Raises DataError if others are not those of
    the next row.
    """
    if rows.following is None:
        return False
    index = np.arange(len(rows.actions))
    inside = [index[span.rows] for span in found]
    before, after = (
        np.concatenate([x[part] for x in inside]) for part in (slice(-1), slice(1, None))
    )
    wrong = before[~_follows(rows, before, after)]
    if wrong.size:
        raise DataError(
            f"data.next_observations differ from the observation of the next row in {wrong.size} "
            f"of {len(before)} rows inside episodes, first at row {wrong[0]}; accepted: the same. "
            "data.episode or data.truncated names where episodes end; without "
            "data.next_observations they are not read"
        )
    last = np.array([x[-1] for x in inside if x[-1] + 1 < len(index)], int)
    if len(last) and _follows(rows, last).all():
        told.shifted.append(file)
        return False
    every = np.array([x[-1] for x in inside], int)
    zero = (rows.following == 0).all(1)
    repeated = _follows(rows, index, index)
    grid = (rows.following == np.round(rows.following)).all()  # 0 may be a state as any other
    kinds = () if grid else (("0", zero), ("those of their own row", repeated))
    for name, placeholder in kinds:
        if placeholder[every].all() and not placeholder[before].any():
            line = f"{file}: {name} in the last rows of {len(every)} episodes"
            told.placeholders.append(line)
            return False
    return True


# ------------------------------------------------------------------------------------- one episode


@dataclass
class Told:
    """What the last rows of episodes were read as, to be said once for all.

    episodes, marked, kept, blank, zero: numbers of episodes: all, those found by marks in a file,
        those whose last row is a transition, those whose last action or reward is blank, and those
        where both are 0
    shifted: files whose next observations were made by shifting rows
    placeholders: lines on files whose next observations of last rows are placeholders
    lost_rewards: rewards other than 0 of last rows that are left out
    uneven: lines on time steps
    """

    path: str
    episodes: int = 0
    marked: int = 0
    kept: int = 0
    blank: int = 0
    zero: int = 0
    shifted: list[str] = field(default_factory=list)
    placeholders: list[str] = field(default_factory=list)
    lost_rewards: list[float] = field(default_factory=list)
    uneven: list[str] = field(default_factory=list)

    def say(self) -> None:
        if self.marked:
            logger.info(
                "%s: %d episodes by marks of ends inside files; data.episode names a column that "
                "identifies them otherwise", self.path, self.marked,
            )  # fmt: skip
        if self.kept:
            logger.info(
                "%s: the last row of %d of %d episodes is a transition: its action and reward are "
                "kept, and the observation after it was not logged; data.last_row=observation "
                "reads it as the final observation, without action and reward",
                self.path, self.kept, self.episodes,
            )  # fmt: skip
        if self.kept and self.kept == self.zero:
            logger.warning(
                "%s: actions and rewards are 0 in the last row of %d episodes; if this is padding, "
                "set data.last_row=observation; data.last_row=transition says that it is none",
                self.path, self.episodes,
            )  # fmt: skip
        if self.blank:
            logger.info(
                "%s: the last row of %d of %d episodes lacks action or reward: it is the final "
                "observation", self.path, self.blank, self.episodes,
            )  # fmt: skip
        if self.lost_rewards:
            logger.warning(
                "%s: the last rows are final observations, and their rewards are left out: %d are "
                "not 0, %g in all; data.last_row=transition keeps them",
                self.path, len(self.lost_rewards), sum(self.lost_rewards),
            )  # fmt: skip
        self._warn(
            "next observations at the ends of episodes are the first of the next episode, as if "
            "made by shifting rows; they are left out",
            self.shifted,
        )
        self._warn(
            "next observations at the ends of episodes are placeholders, as those of no other row "
            "are; they are left out",
            self.placeholders,
        )
        self._warn(
            f"time steps longer than {UNEVEN:g} times the median in {len(self.uneven)} of "
            f"{self.episodes} episodes; models assume a constant time step",
            self.uneven,
        )

    def _warn(self, head: str, lines: list[str]) -> None:
        if lines:
            logger.warning("%s", bullet_list(f"{self.path}: {head}", lines))


def build_episode(
    options: TableData, name: str, rows: Rows, span: Span, follows: bool, told: Told
) -> Episode:
    """Converts the rows of an episode. Raises DataError, without its name."""
    observations, actions, time = dict(rows.observations), rows.actions, rows.time
    final_logged = True
    told.episodes += 1
    told.marked += bool(span.label) and not options.episode
    if rows.following is not None and follows:
        key = "observation"
        observations[key] = np.concatenate([observations[key], rows.following[-1:]])
        time = None if time is None else np.append(time, 2 * time[-1] - time[-2:][0])
    elif options.feedthrough:
        actions = actions[1:]
    elif _is_observation(options, rows, span, told):
        actions = actions[:-1]
    else:
        final_logged = False
    time = None if time is None else time - time[0]
    told.uneven += _long_steps(name, time)
    return Episode(
        observations=observations,
        actions=classes(options.actions[0], actions[:, 0]) if options.discrete else actions,
        rewards=rows.rewards,
        terminated=span.terminal,
        name=name,
        time=time,
        final_logged=final_logged,
    )


def _is_observation(options: TableData, rows: Rows, span: Span, told: Told) -> bool:
    """Whether the last row is the final observation, whose action and reward are padding."""
    earned = [] if rows.rewards is None else rows.rewards[-1].tolist()
    given = rows.actions[-1].tolist() + earned  # lists: this runs for every episode
    if span.final or not options.logs_transitions:
        told.lost_rewards += [reward for reward in earned if reward and math.isfinite(reward)]
        return True
    if options.last_row == "auto" and any(map(math.isnan, given)):
        told.blank += 1
        return True
    told.kept += 1
    told.zero += options.last_row == "auto" and not any(given)
    return False


def _long_steps(name: str, time: np.ndarray | None) -> Iterator[str]:
    """Yields a line if a time step is much longer than the median."""
    steps = np.zeros(0) if time is None else np.diff(time)
    if len(steps) == 0 or not np.isfinite(steps).all():
        return
    median, row = float(np.median(steps)), int(steps.argmax())
    if steps[row] > UNEVEN * median and median > 0:  # 0: the resolution is too coarse
        yield f"{name}: {steps[row]:.3g} s after row {row}, the median is {median:.3g} s"
