"""Arrays with two axes before those of a step: (episodes, time, ...), (environments, time, ...) or
(time, environments, ...). They are laid end to end, as all other layouts are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from worldmodel.data.readers.arrays.fields import Fields
from worldmodel.data.readers.marks import truths
from worldmodel.data.readers.sizes import check_memory
from worldmodel.errors import DataError

ROWS, EPISODES = "rows", "episodes_time"
ENVIRONMENTS, TIME = "environments_time", "time_environments"
AXES = (ROWS, EPISODES, ENVIRONMENTS, TIME)


@dataclass(frozen=True)
class Batch:
    """Fields laid end to end, and what their first axis was.

    Attributes:
        fields: with one axis before those of a step
        lengths: (records,) transitions of each record; a record has one more observation, or not
        one_episode: whether a record is one episode, whatever marks it has
    """

    fields: Fields
    lengths: np.ndarray
    one_episode: bool


def laid_end_to_end(fields: Fields, axes: str | None) -> Batch | None:
    """Returns the fields of a batch of records, or None if their rows lie end to end already.

    Args:
        fields: as they are in the file
        axes: one of `AXES`, or None to recognize them

    Raises:
        DataError: arrays that do not fit `axes`, or whose axes cannot be told
    """
    axes = axes or _recognized(fields)
    if axes == ROWS:
        return None
    fields = _swapped(fields) if axes == TIME else fields
    records, time = _batch_shape(fields, axes)
    extra = next(iter(fields.observations.values())).shape[1] - time
    if extra not in (0, 1):
        raise DataError(_shapes(fields, f"accepted for data.axes={axes}: as many, or one more"))
    lengths = np.full(records, time, np.int64)
    if fields.lengths is not None:
        given = fields.lengths.reshape(-1)
        whole = given.dtype.kind in "iu" and given.shape == (records,)
        if not whole or ((given < 1) | (given > time)).any():
            label = fields.label("length")
            accepted = f"accepted: {records} integers, each 1 to {time}"
            raise DataError(f"{label} is {given.dtype} of shape {given.shape}; {accepted}")
        lengths = given.astype(np.int64)

    def flat(name: str, value: Any, plus: int = 0) -> Any:
        if value.shape[:2] != (records, time + plus):
            raise DataError(
                f"{name} has shape {value.shape}; accepted: {(records, time + plus)} and more, as "
                f"observations and actions have with data.axes={axes}"
            )
        return _Records(value, lengths + plus)

    marks = {n: m if m.ndim == 1 and len(m) == records else flat(n, m) for n, m in
             fields.marks.items()}  # fmt: skip
    fields = replace(
        fields,
        observations={k: flat(k, v, extra) for k, v in fields.observations.items()},
        next_observations={k: flat(k, v) for k, v in fields.next_observations.items()},
        actions=flat("actions", fields.actions),
        rewards=None if fields.rewards is None else flat("rewards", fields.rewards),
        marks={name: np.asarray(value[:]) for name, value in marks.items()},
        lengths=lengths,
        episodes=None,
    )
    return Batch(fields, lengths, axes == EPISODES)


def _recognized(fields: Fields) -> str:
    """The axes by the shapes and the marks. Raises DataError where these do not tell."""
    actions, observations = fields.actions.shape, [v.shape for v in fields.observations.values()]
    marks = [mark.shape for mark in fields.marks.values()]
    rewards = [] if fields.rewards is None else [fields.rewards.shape]
    if len(actions) < 2 or any(math.prod(shape) == actions[0] for shape in rewards):
        return ROWS
    wide = len(actions) > 2 or (len(observations[0]) > 2 and bool(rewards + marks))
    more = all(shape[:2] == (actions[0], actions[1] + 1) for shape in observations)
    if more and wide and all(shape[:2] in (actions[:1], actions[:2]) for shape in rewards + marks):
        return EPISODES
    if any(math.prod(shape) == actions[0] for shape in marks):
        return ROWS
    same = all(shape[:2] == actions[:2] for shape in (*rewards, *marks, *observations))
    swapped = all(shape[:2] == (actions[0] + 1, actions[1]) for shape in observations)
    if not (wide and (same or swapped)):
        return ROWS
    ends = [truths(m.reshape(-1), n).reshape(m.shape) for n, m in
            fields.marks_of("terminal", "truncated", "end", "done").items()]  # fmt: skip
    marked = np.logical_or.reduce(ends) if ends else np.zeros((1, 1), bool)
    if same and marked.any() and marked[:, -1].all() and not marked[:, :-1].any():
        return EPISODES  # every record ends where its array does, and nowhere before
    first, second = actions[:2]
    raise DataError(
        _shapes(
            fields,
            f"accepted: rows, one per action, or data.axes={EPISODES} for {first} episodes of "
            f"{second} steps, data.axes={ENVIRONMENTS} for {first} environments with resets, "
            f"data.axes={TIME} for {first} steps of {second} environments, data.axes={ROWS} for "
            f"{first} steps",
        )
    )


def _batch_shape(fields: Fields, axes: str) -> tuple[int, int]:
    shape = fields.actions.shape
    shallow = any(len(v.shape) < 2 for v in fields.observations.values())
    if len(shape) < 2 or shallow or fields.final_observations:
        raise DataError(_shapes(fields, f"accepted for data.axes={axes}: two axes or more in all"))
    return shape[0], shape[1]


def _shapes(fields: Fields, accepted: str) -> str:
    shapes = {f"observations {k!r}": v.shape for k, v in fields.observations.items()}
    shapes["actions"] = fields.actions.shape
    if fields.rewards is not None:
        shapes["rewards"] = fields.rewards.shape
    shapes |= {name: mark.shape for name, mark in fields.marks.items()}
    return f"{', '.join(f'{name} {shape}' for name, shape in shapes.items())}; {accepted}"


def _swapped(fields: Fields) -> Fields:
    """Time second. Whole arrays are loaded, since each record needs all of their rows."""

    def swap(value: Any) -> Any:
        if value.ndim < 2:
            return value
        check_memory(math.prod(value.shape) * value.dtype.itemsize, "an array")
        return np.swapaxes(np.asarray(value[:]), 0, 1)

    return replace(
        fields,
        observations={k: swap(v) for k, v in fields.observations.items()},
        next_observations={k: swap(v) for k, v in fields.next_observations.items()},
        actions=swap(fields.actions),
        rewards=None if fields.rewards is None else swap(fields.rewards),
        marks={k: swap(v) for k, v in fields.marks.items()},
    )


class _Records:
    """An array (records, time, ...) as (sum of lengths, ...), of which slices are read."""

    def __init__(self, value: Any, lengths: np.ndarray):
        self.value, self.starts = value, np.concatenate([[0], np.cumsum(lengths)])
        self.shape = (int(self.starts[-1]), *value.shape[2:])
        self.ndim, self.dtype = len(self.shape), value.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        begin, end, _ = rows.indices(len(self))
        parts, row = [np.empty((0, *self.shape[1:]), self.dtype)], begin
        while row < end:
            record = int(np.searchsorted(self.starts, row, side="right")) - 1
            first, until = int(self.starts[record]), min(end, int(self.starts[record + 1]))
            whole = np.asarray(self.value[record : record + 1])[0]
            parts.append(whole[row - first : until - first])
            row = until
        return np.concatenate(parts)
