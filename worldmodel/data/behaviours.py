"""Behaviour policies that log real environments: none is any good, together they go everywhere.

A behaviour is a function `(actions, generator) -> endless iterator of actions` for one episode. All
its randomness comes from the generator. Actions are vectors (A,) float32 within the bounds, or
classes (int).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from worldmodel.data.spec import ActionSpec
from worldmodel.errors import UserError, did_you_mean

Action = np.ndarray | int
Behaviour = Callable[[ActionSpec, np.random.Generator], Iterator[Action]]

LONGEST_HOLD_STEPS = 32  # `sticky` holds an action this long at most
OU_REVERSION = 0.1  # share of the noise that decays in one step: it forgets in about 10 steps
OU_DEVIATION = 1.0  # stationary standard deviation of the noise, in half-ranges of the action


def uniform(actions: ActionSpec, generator: np.random.Generator) -> Iterator[Action]:
    """A fresh action every step, uniform over the range or over the classes."""
    while True:
        yield _draw(actions, generator)


def sticky(actions: ActionSpec, generator: np.random.Generator) -> Iterator[Action]:
    """A uniform action held for a random number of steps, so that slow systems move.

    Each episode has its own longest hold, uniform over 1..LONGEST_HOLD_STEPS.
    """
    longest = generator.integers(1, LONGEST_HOLD_STEPS, endpoint=True)
    while True:
        action = _draw(actions, generator)
        for _ in range(generator.integers(1, longest, endpoint=True)):
            yield action


def ornstein_uhlenbeck(actions: ActionSpec, generator: np.random.Generator) -> Iterator[Action]:
    """Noise that drifts around the middle of the range: x' = (1 - r) x + noise.

    With discrete actions there is one such process for each class, and the highest one acts.
    """
    scale = OU_DEVIATION * np.sqrt(1 - (1 - OU_REVERSION) ** 2)
    noise = OU_DEVIATION * generator.standard_normal(
        actions.size
    )  # starts in its stationary distribution
    while True:
        yield int(noise.argmax()) if actions.discrete else actions.denormalize(noise)
        noise = (1 - OU_REVERSION) * noise + scale * generator.standard_normal(actions.size)


BEHAVIOURS: dict[str, Behaviour] = {
    "uniform": uniform,
    "sticky": sticky,
    "ornstein_uhlenbeck": ornstein_uhlenbeck,
}


def behaviour(name: str) -> Behaviour:
    """The behaviour of this name. Raises UserError with the nearest name."""
    if name not in BEHAVIOURS:
        raise UserError(
            f"unknown behaviour policy {name!r}{did_you_mean(name, BEHAVIOURS)}; "
            f"accepted in data.behaviour_policies: {', '.join(BEHAVIOURS)}"
        )
    return BEHAVIOURS[name]


def _draw(actions: ActionSpec, generator: np.random.Generator) -> Action:
    """One uniform action."""
    if actions.discrete:
        return int(generator.integers(actions.size))
    return actions.denormalize(generator.uniform(-1.0, 1.0, actions.size))
