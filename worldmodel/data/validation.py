"""Faults in logs, found before anything trains on them, by source, episode, row and field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from worldmodel.data.episodes import observation_field, raise_data_errors
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories

MOST_ROWS = 3  # rows named in one line
BOUND_TOLERANCE = 1e-4  # how far outside its bounds an action may lie, as a share of their width


class InvalidEpisodes(NamedTuple):
    """One kind of fault: its line in a message, and the episodes that have it."""

    line: str
    episodes: np.ndarray


def validate(trajectories: Trajectories) -> None:
    """Raises DataError with every fault in the logs; values are looked at if the layout fits."""
    faults = list(_layout_faults(trajectories))
    faults = faults or [fault.line for fault in _value_faults(trajectories)]
    raise_data_errors(faults, trajectories.source)


def drop_invalid_episodes(trajectories: Trajectories) -> tuple[Trajectories, list[str]]:
    """The episodes whose values have no fault, and the faults of the others.

    Raises DataError where the layout does not fit, or where no episode is left.
    """
    raise_data_errors(list(_layout_faults(trajectories)), trajectories.source)
    faults = list(_value_faults(trajectories))
    lines = [fault.line for fault in faults]
    bad = np.unique(np.concatenate([fault.episodes for fault in faults])) if faults else []
    good = np.setdiff1d(np.arange(trajectories.num_episodes), bad)
    if len(good) == 0:
        raise_data_errors(lines, trajectories.source)
    return (trajectories.select(good) if faults else trajectories), lines


def _layout_faults(trajectories: Trajectories) -> Iterator[str]:
    t = trajectories
    if t.num_episodes == 0:
        yield "no episodes; accepted: at least one"
        return
    if len(t.terminated) != t.num_episodes:
        yield f"terminated has {len(t.terminated)} entries; accepted: {t.num_episodes}, the lengths"
    for episode in np.flatnonzero(t.lengths < 2):
        yield f"episode {episode} has {t.lengths[episode]} row(s); accepted: at least 2"
    if not t.observations:
        yield "no observations; accepted: at least one named observation"
    rows, why = t.num_steps, "the sum of lengths"
    if t.episode_starts is not None:  # a selection: its arrays are those of the whole
        rows, why = len(t.actions), "those of action"
    for field, value in _fields(t):
        if len(value) != rows:
            yield f"{field} has {len(value)} rows; accepted: {rows}, {why}"
    for key, value in t.observations.items():
        if not _is_observation(value):
            yield (
                f"observation {key!r} is {value.dtype} of shape {value.shape}; "
                "accepted: float32 (rows, D) or uint8 images (rows, height, width, channels)"
            )
    if t.rewards is not None and not (t.rewards.dtype == np.float32 and t.rewards.ndim == 1):
        yield f"reward is {t.rewards.dtype} of shape {t.rewards.shape}; accepted: float32 (rows,)"
    yield from _action_layout_faults(t.actions, t.action_spec)


def _action_layout_faults(actions: np.ndarray, spec: ActionSpec) -> Iterator[str]:
    if spec.size < 1:
        yield f"action size is {spec.size}; accepted: at least 1"
    described = f"{actions.dtype} of shape {actions.shape}"
    if spec.discrete:
        if actions.dtype != np.int32 or actions.ndim != 1:
            yield f"action is {described}; accepted: int32 classes (rows,)"
        return
    if actions.dtype != np.float32 or actions.shape[1:] != (spec.size,):
        yield f"action is {described}; accepted: float32 (rows, {spec.size})"
    if not len(spec.low) == len(spec.high) == spec.size:
        yield f"action has {len(spec.low)} low, {len(spec.high)} high bounds; accepted: {spec.size}"
    for dimension, (low, high) in enumerate(zip(spec.low, spec.high, strict=False)):
        if not (np.isfinite([low, high]).all() and low < high):
            yield f"action {dimension} has low {low} and high {high}; accepted: finite, low < high"


def _value_faults(trajectories: Trajectories) -> Iterator[InvalidEpisodes]:
    t, spec = trajectories, trajectories.action_spec
    for field, value in _fields(t):
        if value.dtype.kind == "f":
            finite = np.isfinite(value.reshape(len(value), -1)).all(axis=1)
            yield from _row_faults(t, ~finite, f"{field} is not finite", "finite numbers")
    last = np.zeros(len(t.actions), bool)
    last[t.last_steps] = True
    if t.rewards is not None:
        yield from _row_faults(
            t, last & (t.rewards != 0), "reward after the last transition", "0, it is padding"
        )
    if spec.discrete:
        outside = (t.actions < 0) | (t.actions >= spec.size)
        yield from _row_faults(t, outside & ~last, "action is no class", f"0 to {spec.size - 1}")
        return
    low, high = np.asarray(spec.low), np.asarray(spec.high)
    slack = BOUND_TOLERANCE * (high - low)
    outside = (t.actions < low - slack) | (
        t.actions > high + slack
    )  # False for NaN, which is named above
    accepted = f"low {list(spec.low)} to high {list(spec.high)}"
    yield from _row_faults(t, outside.any(axis=1) & ~last, "action is outside its bounds", accepted)


def _row_faults(
    trajectories: Trajectories, bad: np.ndarray, fault: str, accepted: str
) -> Iterator[InvalidEpisodes]:
    """One line for all rows where `bad` (N,) holds, with the first few of them."""
    if not bad.any():
        return
    t, found, named = trajectories, [], []
    for episode, (first, length) in enumerate(zip(t.offsets, t.lengths, strict=True)):
        rows = np.flatnonzero(bad[first : first + length])
        if len(rows):
            found.append(episode)
            named += [f"{t.name(episode)} row {row}" for row in rows[: MOST_ROWS - len(named)]]
    more = int(sum(bad[run].sum() for run in t.contiguous_slices())) - len(named)
    rest = f", and {more} more rows" if more > 0 else ""
    if found:
        line = f"{fault}: {', '.join(named)}{rest}; accepted: {accepted}"
        yield InvalidEpisodes(line, np.array(found))


def _fields(trajectories: Trajectories) -> Iterator[tuple[str, np.ndarray]]:
    for key, value in trajectories.observations.items():
        yield observation_field(key), value
    yield "action", trajectories.actions
    if trajectories.rewards is not None:
        yield "reward", trajectories.rewards


def _is_observation(value: np.ndarray) -> bool:
    vector = value.dtype == np.float32 and value.ndim == 2
    image = value.dtype == np.uint8 and value.ndim == 4
    return (vector or image) and 0 not in value.shape[1:]
