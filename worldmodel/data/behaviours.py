"""Behavior policies for collecting data: none performs well, together they cover the state space.

A behavior policy is a function `(actions, generator) -> endless iterator of actions` for one
episode. All its randomness comes from the generator. Actions are float32 vectors (A,) within the
bounds, or classes (int); classes in columns are floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from worldmodel.data.spec import ActionSpec
from worldmodel.errors import UserError, did_you_mean

Action = np.ndarray | int
Behaviour = Callable[[ActionSpec, np.random.Generator], Iterator[Action]]

LONGEST_HOLD_STEPS = 32  # maximum time that `sticky` holds an action
OU_REVERSION = 0.1  # share of the noise that decays in one step: a memory of about 10 steps
OU_DEVIATION = 1.0  # stationary standard deviation of the noise, in half-ranges of the action


def uniform(actions: ActionSpec, generator: np.random.Generator) -> Iterator[Action]:
    """A new action every step, uniform over the bounds or over the classes."""
    while True:
        yield _draw(actions, generator)


def sticky(actions: ActionSpec, generator: np.random.Generator) -> Iterator[Action]:
    """A uniform action that is held for a random number of steps, so that slow systems move.

    Each episode has its own maximum hold, uniform over 1..LONGEST_HOLD_STEPS.
    """
    longest = generator.integers(1, LONGEST_HOLD_STEPS, endpoint=True)
    while True:
        action = _draw(actions, generator)
        for _ in range(generator.integers(1, longest, endpoint=True)):
            yield action


def ornstein_uhlenbeck(actions: ActionSpec, generator: np.random.Generator) -> Iterator[Action]:
    """Noise that drifts around the middle of the bounds: x' = (1 - r) x + noise.

    Discrete actions have one such process per class, and the class with the highest value is taken.
    """
    scale = OU_DEVIATION * np.sqrt(1 - (1 - OU_REVERSION) ** 2)
    noise = OU_DEVIATION * generator.standard_normal(actions.size)  # stationary from the start
    while True:
        yield int(noise.argmax()) if actions.discrete else _at(actions, noise)
        noise = (1 - OU_REVERSION) * noise + scale * generator.standard_normal(actions.size)


BEHAVIOURS: dict[str, Behaviour] = {
    "uniform": uniform,
    "sticky": sticky,
    "ornstein_uhlenbeck": ornstein_uhlenbeck,
}


def behaviour(name: str) -> Behaviour:
    """The behavior policy of this name. Raises UserError for an unknown name."""
    if name not in BEHAVIOURS:
        raise UserError(
            f"unknown behavior policy {name!r}{did_you_mean(name, BEHAVIOURS)}; "
            f"accepted in data.behaviour_policies: {', '.join(BEHAVIOURS)}"
        )
    return BEHAVIOURS[name]


def _draw(actions: ActionSpec, generator: np.random.Generator) -> Action:
    """A uniform action."""
    if actions.discrete:
        return int(generator.integers(actions.size))
    return _at(actions, generator.uniform(-1.0, 1.0, actions.size))


def _at(actions: ActionSpec, unit: np.ndarray) -> np.ndarray:
    """The action at a place (K,) of the range [-1, 1] of each column."""
    return actions.denormalize(actions.from_unit(unit) if actions.kind == "mixed" else unit)
