"""How the rows of arrays that lie end to end belong to episodes (the layouts of this package)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from worldmodel.data.readers.arrays.axes import Batch
from worldmodel.data.readers.arrays.episode_counts import lengths_by_ends
from worldmodel.data.readers.arrays.fields import Arrays, Fields
from worldmodel.data.readers.arrays.next_observations import (
    Agreement,
    agreement,
    placeholder_ends,
)
from worldmodel.data.readers.arrays.padding import idle_rows, warn_of_padding
from worldmodel.data.readers.marks import NAMES, Marks, marked_rows, read_marks, truths
from worldmodel.errors import DataError

INNER = ("not_done", "not_terminal")  # may mark rows inside a record, which goes on
LATE = 2  # rows by which masks may be late beside lengths

RLDS = {"is_first", "is_terminal"}  # its marks beside `is_last`
ROWS_AT_ONCE = 65_536

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """How rows belong to episodes.

    Attributes:
        observations: name -> (N, ...), or (N + episodes, ...) if each episode has `extra_rows` = 1
        last: (episodes,) last row of each episode, ascending; the final one is N - 1
        terminated: (episodes,) whether the episode is terminal
        next_observations: name -> (N, ...) the observation after each row, if logged
        final_observations: name -> (episodes, ...) the observation after each last row, if logged
        known: (episodes,) whether the one after the last row is known, if any is logged
        complete: the last row of an episode is its final observation, and no transition
        continues: (episodes,) whether the next row is of the same record, so that its observation
            is the one after the last row
    """

    observations: Arrays
    last: np.ndarray
    terminated: np.ndarray
    known: np.ndarray
    continues: np.ndarray
    next_observations: Arrays = field(default_factory=dict)
    final_observations: Arrays = field(default_factory=dict)
    extra_rows: int = 0
    complete: bool = False


def layout_of(fields: Fields, batch: Batch | None, source: str, *, ogbench: bool = False) -> Layout:
    """Recognizes the layout of a file.

    Args:
        fields: laid end to end
        batch: what they were before that, if they were a batch of records
        source: the file, for warnings
        ogbench: whether the file is known as one of OGBench's

    Raises:
        DataError: arrays that do not fit together, and marks that contradict one another
    """
    fields = _ogbench(fields, source, known=ogbench)
    count, rows = len(fields.actions), len(next(iter(fields.observations.values())))
    _check_lengths(count, fields.label("action"), **{fields.label("reward"): fields.rewards})
    lengths = _lengths(fields, count)
    if lengths is None and fields.episodes is not None:
        lengths = _runs(fields.episodes, fields.label("episode"), count, rows)
        labels = {**fields.labels, "length": fields.label("episode")}
        fields = replace(fields, labels=labels, lengths=lengths)
    if lengths is None and rows > count and not fields.logs_next:
        lengths = _marked_lengths(fields, count, rows)
    elif lengths is not None and not _sums_fit(lengths, count, rows):
        total, label = int(lengths.sum()), fields.label("length")
        raise DataError(
            f"{label} sum to {total} in {len(lengths)} episodes, observations have {rows} rows, "
            f"actions {count}; accepted: observations {total + len(lengths)} and actions "
            f"{total} ({label} in transitions), or both {total} (in rows)"
        )
    if lengths is not None and rows > count:
        return _whole(_by_row(fields, count, lengths, rows), lengths)
    return _rows(_by_row(fields, count, lengths, rows), lengths, batch, source)


def _sums_fit(lengths: np.ndarray, count: int, rows: int) -> bool:
    return int(lengths.sum()) == count and rows in (count, count + len(lengths))


def _check_lengths(expected: int, of: str, **fields: Any) -> None:
    """Raises DataError for fields that have another number of rows; None is an absent field."""
    for name, value in fields.items():
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, part in parts:
            if part is not None and len(part) != expected:
                label = f"{name}/{key}" if key and len(parts) > 1 else name
                raise DataError(f"{label} has {len(part)} rows; accepted: {expected}, as {of} has")


def _ogbench(fields: Fields, source: str, *, known: bool) -> Fields:
    """The marks of OGBench by what they mean: without time-outs and rewards, `terminals` mark the
    last row of a record, which is its final observation; beside `valids`, the last two.
    """
    marks, own = dict(fields.marks), "terminals" in fields.marks and "terminals" not in fields.told
    if invalid := fields.marks_of("not_final"):
        if own:
            del marks["terminals"]
        marks |= {name: ~truths(mark, name) for name, mark in invalid.items()}
        return fields.with_marks(marks, **dict.fromkeys(invalid, "final"))
    if not own or len(marks) > 1 or fields.rewards is not None or fields.lengths is not None:
        return fields
    role = "end" if fields.logs_next else "final"
    if not known:
        alone = "" if fields.logs_next else ", which hold a final observation and no action"
        logger.warning(
            "%s: terminals without rewards and other marks are read as OGBench's: the last rows of "
            "%d records%s, and none terminal. data.roles={terminals: terminal} reads transitions "
            "after which the environment ended, data.roles={terminals: %s} ends this warning",
            source, np.count_nonzero(truths(marks["terminals"], "terminals")), alone, role,
        )  # fmt: skip
    return fields.with_marks(marks, terminals=role)


def _lengths(fields: Fields, rows: int) -> np.ndarray | None:
    """(episodes,) the lengths that the file states."""
    if (lengths := fields.lengths) is None:
        return None
    if (by_ends := _told_ends(fields, rows)) is not None:
        return by_ends
    column = math.prod(lengths.shape) == len(lengths)
    if not column or lengths.dtype.kind not in "iu" or ((lengths < 1) | (lengths > rows)).any():
        integers = lengths.dtype.kind in "iu" and lengths.size
        limits = f" from {lengths.min()} to {lengths.max()}" if integers else ""
        raise DataError(
            f"{fields.label('length')} is {lengths.dtype} of shape {lengths.shape}{limits}; "
            f"accepted: integers (episodes,), each 1 or more, in {rows} rows of actions"
        )
    return lengths.reshape(-1).astype(np.int64)


def _told_ends(fields: Fields, rows: int) -> np.ndarray | None:
    """(episodes,) lengths where `data.roles` gives that role to the ends of episodes."""
    lengths, label = fields.lengths, fields.label("length")
    if (
        lengths is None
        or label not in fields.told
        or lengths.dtype.kind not in "iu"
        or lengths.ndim != 1
    ):
        return None
    return None if int(lengths.sum()) == rows else lengths_by_ends(lengths, rows)


def _runs(episodes: np.ndarray, label: str, count: int, rows: int) -> np.ndarray:
    """(episodes,) lengths where each row names its episode."""
    if math.prod(episodes.shape) not in (count, rows) or len(episodes) not in (count, rows):
        raise DataError(
            f"{label} has shape {episodes.shape}; accepted: ({count},), the episode of each row "
            f"(data.roles={{{label}: ignore}} leaves it out)"
        )
    episodes = episodes.reshape(-1)
    begins = np.flatnonzero(np.concatenate([[True], episodes[1:] != episodes[:-1]]))
    if len(np.unique(episodes)) < len(begins):
        values, times = np.unique(episodes[begins], return_counts=True)
        row = begins[episodes[begins] == values[times.argmax()]][1]
        raise DataError(
            f"{label} is {episodes[row]} again in row {row}, after other episodes; accepted: the "
            f"rows of an episode one after the other (data.roles={{{label}: ignore}} leaves it out)"
        )
    return np.diff(begins, append=len(episodes)) - (len(episodes) > count)


def _marked_lengths(fields: Fields, count: int, rows: int) -> np.ndarray | None:
    """(episodes,) lengths where episodes have one more row of observations than of actions; by
    their marks, or a single episode. None if the rows do not fit that.
    """
    marks = {n: m for n, m in fields.marks.items() if m.shape[:1] == (count,)}
    ends = np.zeros(count, bool)
    if marks:
        ends |= marked_rows(marks, fields.roles)
    ends[-1] = True
    lengths = np.diff(np.flatnonzero(ends), prepend=-1)
    return lengths if rows == count + len(lengths) else None


def _by_row(fields: Fields, count: int, lengths: np.ndarray | None, rows: int) -> Fields:
    """Marks of episodes, and of observations, as marks of rows (N,)."""
    marks = {}
    for name, mark in fields.marks.items():
        mark = np.atleast_1d(mark)
        episodes = 1 if lengths is None else len(lengths)
        if len(mark) == episodes != count:
            positive = fields.roles[name] not in ("not_terminal", "not_end", "not_done")
            by_row = np.full(count, not positive)
            last = [count - 1] if lengths is None else np.cumsum(lengths) - 1
            by_row[last] = truths(mark, name)
            marks[name] = by_row
        elif lengths is not None and len(mark) == rows == count + len(lengths):
            marks[name] = np.delete(mark, np.cumsum(lengths + 1) - lengths - 1, axis=0)
        else:
            if len(mark) not in (count, episodes):
                shown = f"{count}" if lengths is None else f"{episodes} or {count}"
                raise DataError(
                    f"{name} has {len(mark)} rows; accepted: {shown}, as "
                    f"{fields.label('action')}{'' if lengths is None else ' or the episodes'} has"
                )
            marks[name] = mark
    return fields.with_marks(marks)


def _ends(count: int, lengths: np.ndarray | None) -> np.ndarray:
    """(N,) bool, the last rows by lengths."""
    ends = np.zeros(count, bool)
    if lengths is not None:
        ends[np.cumsum(lengths) - 1] = True
    return ends


def _check_inside(fields: Fields, ends: np.ndarray) -> None:
    """Raises DataError for marks inside the episodes that lengths give; masks may be there."""
    marks = {n: m for n, m in fields.marks.items() if fields.roles[n] not in INNER}
    marks |= {n: m for n, m in fields.marks_of(*INNER).items() if _are_late(fields, n, m, ends)}
    inside = marked_rows(marks, fields.roles) & ~ends if marks else np.zeros(1, bool)
    if inside.any():
        names = ", ".join(marks)
        raise DataError(
            f"{names} mark {inside.sum()} rows that are not the last of an episode by "
            f"{fields.label('length')} (first: {np.flatnonzero(inside)[0]}); accepted: last rows "
            f"(data.roles={{{fields.label('length')}: ignore}} reads the marks, "
            f"data.roles={{{', '.join(f'{n}: ignore' for n in marks)}}} the lengths)"
        )


def _are_late(fields: Fields, name: str, mark: np.ndarray, ends: np.ndarray) -> bool:
    """Whether most of the rows that masks mark are those just after an end."""
    marked = marked_rows({name: mark}, fields.roles)
    fitting = max(int((marked[by:] & ends[:-by]).sum()) for by in range(1, LATE + 1))
    return fitting > max(1, marked.sum() / 2)


def _outer(fields: Fields, lengths: np.ndarray | None) -> dict[str, np.ndarray]:
    """The marks of ends of records; masks are too, unless others mark all of these."""
    outer = {n: m for n, m in fields.marks.items() if fields.roles[n] not in INNER}
    cut = fields.marks_of("truncated")
    return dict(fields.marks) if lengths is None and outer.keys() == cut.keys() else outer


# ------------------------------------------------------------------------------- T + 1 observations


def _whole(fields: Fields, lengths: np.ndarray) -> Layout:
    rows, ends = int((lengths + 1).sum()), _ends(len(fields.actions), lengths)
    _check_lengths(rows, "observations", **{fields.label("observation"): fields.observations})
    _check_inside(fields, ends)
    kept = {n: m for n, m in fields.marks.items() if fields.roles[n] != "final"}
    marks = read_marks(kept, fields.roles, ends=ends)
    last = np.flatnonzero(marks.last)
    return Layout(
        fields.observations, last, marks.terminal[last], np.ones(len(last), bool),
        np.zeros(len(last), bool), extra_rows=1, complete=True,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- T rows


def _rows(fields: Fields, lengths: np.ndarray | None, batch: Batch | None, source: str) -> Layout:
    count, following = len(fields.actions), (fields.next_observations, fields.final_observations)
    names = [fields.label("next_observation"), fields.label("last_next")]
    checked = {fields.label("observation"): fields.observations, names[0]: following[0]}
    _check_lengths(count, fields.label("action"), **checked)
    for name, given in zip(names, following, strict=True):
        if given and given.keys() != fields.observations.keys():
            accepted = ", ".join(fields.observations)
            raise DataError(f"{name} holds {', '.join(given)}; accepted: {accepted}")
    ends = _ends(count, lengths)
    if lengths is not None and (batch is None or batch.one_episode):
        _check_inside(fields, ends)
    outer = _outer(fields, lengths)
    unknown = np.zeros(count, bool)
    if fields.next_observations:
        agreed = _agreement(fields, outer or fields.marks, ends, source)
        ends, unknown = ends | agreed.ends, agreed.unknown
    elif outer and (repeated := _repeated(marked_rows(outer, fields.roles))):
        logger.warning(
            "%s: %s mark %d rows directly after another: read as episodes of one transition",
            source, ", ".join(outer), repeated,
        )  # fmt: skip
    marks = read_marks(fields.marks, fields.roles, ends=ends)
    _check_final_rewards(fields, marks)
    last = np.flatnonzero(marks.last)
    _check_lengths(len(last), "the number of episodes", **{names[1]: fields.final_observations})
    record_ends = ends | (marked_rows(outer, fields.roles) if outer else marks.last)
    record_ends[-1] = True
    return Layout(
        fields.observations, last, marks.terminal[last], ~unknown[last], ~record_ends[last],
        fields.next_observations, fields.final_observations,
        complete=marks.final or _hold_finals(fields, marks.last, source),
    )  # fmt: skip


def _repeated(marked: np.ndarray) -> int:
    """Marked rows after a marked one, if most are: flags that stay on until the episode ends."""
    again = int((marked[1:] & marked[:-1]).sum())
    return again if again > marked.sum() / 2 else 0


def _hold_finals(fields: Fields, last: np.ndarray, source: str) -> bool:
    """Whether last rows hold the final observation alone, as RLDS has it, though no `is_last` says
    so: not one has an action or a reward other than 0, and most of the others do.
    """
    rlds = bool(RLDS & (fields.marks.keys() - fields.told))
    if fields.logs_next or not (rlds or fields.rewards is not None):
        return False
    idle, given = np.ones(len(last), bool), (fields.actions, fields.rewards)
    for begin in range(0, len(last), ROWS_AT_ONCE):
        part = slice(begin, begin + ROWS_AT_ONCE)
        idle[part] = idle_rows(*(values[part] for values in given if values is not None))
    padded = rlds and bool(idle[last].all()) and bool(idle[~last].mean() < 0.5)
    if not rlds:
        warn_of_padding(idle, last, source)
    if padded:
        logger.warning(
            "%s: no last row of the %d episodes has an action or a reward: read as their final "
            "observations, as RLDS has them",
            source, last.sum(),
        )  # fmt: skip
    return padded


def _agreement(
    fields: Fields, marks: Mapping[str, np.ndarray], ends: np.ndarray, source: str
) -> Agreement:
    """What next observations tell of ends; a warning says where that is more than marks do."""
    none, label = np.zeros(len(ends), bool), fields.label("next_observation")
    marked = ends | (marked_rows(marks, fields.roles) if marks else none)
    terminal = {n: m for n, m in marks.items() if fields.roles[n] == "terminal"}
    names = ", ".join([*marks, *([fields.label("length")] if fields.lengths is not None else [])])
    agreed = agreement(
        fields.observations, fields.next_observations, marked,
        marked_rows(terminal, fields.roles) if terminal else none, label, names,
        inside=all(fields.roles[name] in (*INNER, "truncated") for name in marks)
        and any(fields.roles[name] in INNER for name in marks),
    )  # fmt: skip
    complete = fields.marks_of("truncated", "end", "not_end", "done", "start", "final")
    if agreed.unmarked and (complete or fields.lengths is not None):
        logger.warning(
            "%s: after %d rows that %s do not mark, %s is not the observation of the next row; "
            "read as ends of truncated episodes",
            source, agreed.unmarked, names, label,
        )  # fmt: skip
    if agreed.unknown.any():
        logger.warning(
            "%s: %s is that of the next row at %d ends that %s mark, where the next episode "
            "begins: the observations after these are taken as not logged",
            source, label, agreed.unknown[:-1].sum(), names,
        )  # fmt: skip
    held, what = none, ""
    if not fields.marks_of("final"):
        every = agreed.ends | marked
        held, what = placeholder_ends(fields.observations, fields.next_observations, every)
    if held.any():
        logger.warning(
            "%s: %s %s at all %d ends of episodes, and hardly anywhere else: the observations "
            "after these are taken as not logged",
            source, label, what, held.sum(),
        )  # fmt: skip
        agreed = replace(agreed, unknown=agreed.unknown | held)
    return agreed


def _check_final_rewards(fields: Fields, marks: Marks) -> None:
    """Asks whether the rows that `is_last` marks are transitions, if some of them have rewards."""
    asked = [n for n in fields.marks_of("final") if n in NAMES["final"] and n not in fields.told]
    if not (marks.final and asked and fields.rewards is not None):
        return
    rewards = np.asarray(fields.rewards[:]).reshape(len(marks.last), -1)[marks.last]
    if earned := int((rewards != 0).any(1).sum()):
        name = asked[0]
        raise DataError(
            f"{name} marks {marks.last.sum()} rows, {earned} of them with a reward: "
            f"data.roles={{{name}: end}} reads each as a transition whose next observation was not "
            f"logged, data.roles={{{name}: final}} as the final observation alone and leaves its "
            "reward out (data=dreamer reads rewards that stand one row late)"
        )
