"""Checks the layout and the values of a dataset before anything is trained on it. Messages name
the source, the episode, the step and the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from worldmodel.data.episodes import observation_field, raise_data_errors
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories

LARGEST = 1e38  # of float32 numbers whose differences, too, are finite
MAX_STEPS_SHOWN = 3  # in one line
BOUND_TOLERANCE = 1e-4  # how far an action may exceed its bounds, as a share of their width


class InvalidEpisodes(NamedTuple):
    """One kind of error: its line in a message, and the episodes that have it."""

    line: str
    episodes: np.ndarray


def validate(trajectories: Trajectories) -> None:
    """Checks the layout of a dataset and, if that is valid, its values: finite numbers, actions
    within their bounds, padding of zeros.

    Raises:
        DataError: lists every error, with the first episodes and steps that have it

    Example:
        >>> import numpy as np
        >>> from worldmodel.data import Episode, stack_episodes, validate
        >>> episode = Episode({"x": np.full((4, 2), np.nan)}, np.ones((3, 1)), None, False)
        >>> validate(stack_episodes([episode], "one flight"))
        Traceback (most recent call last):
        worldmodel.errors.DataError: one flight: 1 error in the data
          - observation 'x' is not finite: episode 0, step 0; episode 0, step 1; ...
    """
    errors = list(_layout_errors(trajectories))
    errors = errors or [error.line for error in _value_errors(trajectories)]
    raise_data_errors(errors, trajectories.source)


def drop_invalid_episodes(trajectories: Trajectories) -> tuple[Trajectories, list[str]]:
    """Returns the episodes with valid values, and the errors of the others.

    Raises DataError if the layout is invalid, or if no episode is left.
    """
    raise_data_errors(list(_layout_errors(trajectories)), trajectories.source)
    errors = list(_value_errors(trajectories))
    lines = [error.line for error in errors]
    bad = np.unique(np.concatenate([error.episodes for error in errors])) if errors else []
    good = np.setdiff1d(np.arange(trajectories.num_episodes), bad)
    if len(good) == 0:
        raise_data_errors(lines, trajectories.source)
    return (trajectories.select(good) if errors else trajectories), lines


def _layout_errors(trajectories: Trajectories) -> Iterator[str]:
    t = trajectories
    if t.num_episodes == 0:
        yield "no episodes; accepted: at least one"
        return
    if len(t.terminated) != t.num_episodes:
        yield (
            f"terminated has {len(t.terminated)} entries; accepted: {t.num_episodes}, "
            "one per episode"
        )
    for episode in np.flatnonzero(t.lengths < 2):
        yield f"episode {episode} has {t.lengths[episode]} step(s); accepted: at least 2"
    if not t.observations:
        yield "no observations; accepted: at least one named observation"
    steps, reason = t.num_steps, "the sum of lengths"
    if t.episode_starts is not None:  # a selection: its arrays are those of the whole dataset
        steps, reason = len(t.actions), "as many as action"
    for field, value in _fields(t):
        if len(value) != steps:
            yield f"{field} has {len(value)} steps; accepted: {steps}, {reason}"
    for key, value in t.observations.items():
        if not _is_observation(value):
            yield (
                f"observation {key!r} is {value.dtype} of shape {value.shape}; "
                "accepted: float32 (steps, D) or uint8 images (steps, height, width, channels)"
            )
    if t.rewards is not None and not (t.rewards.dtype == np.float32 and t.rewards.ndim == 1):
        yield f"reward is {t.rewards.dtype} of shape {t.rewards.shape}; accepted: float32 (steps,)"
    yield from _action_layout_errors(t.actions, t.action_spec)


def _action_layout_errors(actions: np.ndarray, spec: ActionSpec) -> Iterator[str]:
    if spec.size < 1:
        yield f"action size is {spec.size}; accepted: at least 1"
    described = f"{actions.dtype} of shape {actions.shape}"
    if spec.discrete:
        if actions.dtype != np.int32 or actions.ndim != 1:
            yield f"action is {described}; accepted: int32 classes (steps,)"
        return
    if actions.dtype != np.float32 or actions.shape[1:] != (spec.size,):
        yield f"action is {described}; accepted: float32 (steps, {spec.size})"
    if not len(spec.low) == len(spec.high) == spec.size:
        yield f"action has {len(spec.low)} low, {len(spec.high)} high bounds; accepted: {spec.size}"
    for dimension, (low, high) in enumerate(zip(spec.low, spec.high, strict=False)):
        if not (np.isfinite([low, high]).all() and low < high):
            yield f"action {dimension} has low {low} and high {high}; accepted: finite, low < high"


def _value_errors(trajectories: Trajectories) -> Iterator[InvalidEpisodes]:
    t, spec = trajectories, trajectories.action_spec
    for field, value in _fields(t):
        if value.dtype.kind == "f":
            flat = value.reshape(len(value), -1)
            fits = np.asarray((np.abs(flat) <= LARGEST).all(axis=1))
            if not fits.all():
                finite = np.isfinite(flat).all(axis=1)
                yield from _step_errors(t, ~finite, f"{field} is not finite", "finite numbers")
                beyond = f"{field} is beyond {LARGEST:g}"
                yield from _step_errors(t, finite & ~fits, beyond, "numbers of smaller units")
    last = np.zeros(len(t.actions), bool)
    last[t.last_steps] = True
    if t.rewards is not None:
        yield from _step_errors(
            t, last & (t.rewards != 0), "reward after the last transition", "0, it is padding"
        )
    if spec.discrete:
        outside = (t.actions < 0) | (t.actions >= spec.size)
        accepted = f"0 to {spec.size - 1}"
        yield from _step_errors(t, outside & ~last, "action is not a class", accepted)
        return
    low, high = np.asarray(spec.low), np.asarray(spec.high)
    slack = BOUND_TOLERANCE * (high - low)
    # False for NaN, which was reported above.
    outside = (t.actions < low - slack) | (t.actions > high + slack)
    accepted = f"low {list(spec.low)} to high {list(spec.high)}"
    bad = outside.any(axis=1) & ~last
    yield from _step_errors(t, bad, "action is outside its bounds", accepted)


def _step_errors(
    trajectories: Trajectories, bad: np.ndarray, error: str, accepted: str
) -> Iterator[InvalidEpisodes]:
    """One line for all steps where `bad` (N,) holds, with the first few of them."""
    if not bad.any():
        return
    t, episodes, shown = trajectories, [], []
    for episode, (first, length) in enumerate(zip(t.offsets, t.lengths, strict=True)):
        steps = np.flatnonzero(bad[first : first + length])
        if len(steps):
            episodes.append(episode)
            room = MAX_STEPS_SHOWN - len(shown)
            shown += [f"{t.name(episode)}, step {step}" for step in steps[:room]]
    more = int(sum(bad[run].sum() for run in t.contiguous_slices())) - len(shown)
    rest = f"; and {more} more steps" if more > 0 else ""
    if episodes:
        line = f"{error}: {'; '.join(shown)}{rest}; accepted: {accepted}"
        yield InvalidEpisodes(line, np.array(episodes))


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
