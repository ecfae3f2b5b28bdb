"""Checks the values of a dataset before anything is trained on it. Messages name the source, the
episode, the step and the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from worldmodel.data.spec import LARGEST
from worldmodel.data.trajectories import NUMBERS_AT_ONCE, Trajectories, check_dataset
from worldmodel.errors import raise_data_errors

MAX_STEPS_SHOWN = 3  # in one line
BOUND_TOLERANCE = 1e-4  # how far an action may exceed its bounds, as a share of their width


class InvalidEpisodes(NamedTuple):
    """One kind of error: its line in a message, and the episodes that have it."""

    line: str
    episodes: np.ndarray


def validate(trajectories: Trajectories) -> None:
    """Checks the values of a dataset: finite numbers, actions within their bounds, padding of
    zeros. `Trajectories` has checked its layout.

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
    check_dataset(trajectories)
    errors = (error.line for error in _value_errors(trajectories))
    raise_data_errors(errors, trajectories.source)


def drop_invalid_episodes(trajectories: Trajectories) -> tuple[Trajectories, list[str]]:
    """Returns the episodes with valid values, and the errors of the others.

    Raises DataError if no episode is left.
    """
    errors = list(_value_errors(trajectories))
    lines = [error.line for error in errors]
    bad = np.unique(np.concatenate([error.episodes for error in errors])) if errors else []
    good = np.setdiff1d(np.arange(trajectories.num_episodes), bad)
    if len(good) == 0:
        raise_data_errors(lines, trajectories.source)
    return (trajectories.select(good) if errors else trajectories), lines


def _value_errors(trajectories: Trajectories) -> Iterator[InvalidEpisodes]:
    t, spec = trajectories, trajectories.action_spec
    for field, value in t.labelled_fields():
        if value.dtype.kind == "f":
            large = _steps_where(value, lambda x: np.abs(x) > LARGEST)
            infinite = _steps_where(value, lambda x: ~np.isfinite(x))
            large[t.placeholders] = infinite[t.placeholders] = False  # said of the step before
            yield from _step_errors(t, infinite, f"{field} is not finite", "finite numbers")
            beyond = f"{field} is beyond {LARGEST:g}"
            yield from _step_errors(t, large & ~infinite, beyond, "numbers of smaller units")
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
    for column, classes in enumerate(spec.classes):
        if classes:
            wrong = ~np.isin(t.actions[:, column], np.arange(classes))
            name = spec.column_names()[column]
            accepted = f"0 to {classes - 1}"
            yield from _step_errors(t, wrong & ~last, f"action {name!r} is not a class", accepted)
    low, high = np.asarray(spec.low), np.asarray(spec.high)
    slack = BOUND_TOLERANCE * (high - low) + np.where(spec.classes, np.inf, 0.0)
    # False for NaN, which was reported above.
    outside = _steps_where(t.actions, lambda x: (x < low - slack) | (x > high + slack))
    accepted = f"low {list(spec.low)} to high {list(spec.high)}"
    yield from _step_errors(t, outside & ~last, "action is outside its bounds", accepted)


def _steps_where(value: np.ndarray, test: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(N,) whether any number of a step passes the test; in chunks, to take little memory."""
    rows = value.reshape(len(value), -1)
    at_once = max(1, NUMBERS_AT_ONCE // rows.shape[1])
    chunks = (rows[begin : begin + at_once] for begin in range(0, len(rows), at_once))
    return np.concatenate([test(chunk).any(axis=1) for chunk in chunks])


def _step_errors(
    trajectories: Trajectories, bad: np.ndarray, error: str, accepted: str
) -> Iterator[InvalidEpisodes]:
    """One line for all steps where `bad` (N,) holds, with the first few of them."""
    if not bad.any():
        return
    t = trajectories
    episode_of = np.repeat(np.arange(t.num_episodes), t.lengths)
    steps = t.step_indices()
    places = np.flatnonzero(bad[steps])
    if not len(places):
        return
    shown = [
        f"{t.name(e)}, step {steps[place] - t.offsets[e]}"
        for place in places[:MAX_STEPS_SHOWN]
        for e in [int(episode_of[place])]
    ]
    more = len(places) - len(shown)
    rest = f"; and {more} more steps" if more > 0 else ""
    line = f"{error}: {'; '.join(shown)}{rest}; accepted: {accepted}"
    yield InvalidEpisodes(line, np.unique(episode_of[places]))
