"""Models with known optimal plans: a linear-quadratic one, and the true pendulum."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel.data import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.models.interface import WorldModel

# A point on a line under a force: position and speed, at 10 Hz.
MOVE = np.array([[1.0, 0.1], [0.0, 1.0]])
PUSH = np.array([[0.025], [0.5]])
AWAY, EFFORT = np.diag([1.0, 0.1]), np.array([[0.1]])
DISCOUNT = 0.99


class Certain(NamedTuple):
    """A distribution with all probability on one value."""

    value: jax.Array

    def mean(self) -> jax.Array:
        return self.value


class Point(NamedTuple):
    """where: (..., D); earned, ended: (...), reward and end of the action that led here."""

    where: jax.Array
    earned: jax.Array
    ended: jax.Array


class Known(WorldModel):
    """A fully observed model with known dynamics; subclasses implement `step`."""

    def __init__(self, size: int):
        self.feature_size = size

    def at(self, where: np.ndarray) -> Point:
        where = jnp.asarray(where, jnp.float32)
        return Point(where, jnp.zeros(where.shape[:-1]), jnp.zeros(where.shape[:-1]))

    def initial(self, batch: tuple[int, ...]) -> Point:
        return self.at(np.zeros((*batch, self.feature_size)))

    def observe(
        self, window: Window, key: jax.Array, state: Point | None = None, action: object = None
    ) -> Point:
        return self.at(window.observation["observation"])

    def features(self, state: Point) -> jax.Array:
        return state.where

    def reward(self, state: Point) -> Certain:
        return Certain(state.earned)

    def terminal(self, state: Point) -> Certain:
        return Certain(state.ended)


class LinearQuadratic(Known):
    """x' = MOVE x + PUSH a; an action costs x'^T AWAY x' + a^T EFFORT a. Beyond `wall` the episode
    ends, with a probability of `risk`.
    """

    def __init__(self, wall: float = np.inf, risk: float = 1.0):
        super().__init__(2)
        self.wall, self.risk = wall, risk

    def step(self, state: Point, action: jax.Array, key: jax.Array) -> Point:
        where = state.where @ MOVE.T.astype(np.float32) + action @ PUSH.T.astype(np.float32)
        cost = (where @ AWAY * where).sum(-1) + (action @ EFFORT * action).sum(-1)
        return Point(where, -cost, self.risk * (where[..., 0] > self.wall))


class Pendulum(Known):
    """The dynamics of Pendulum-v1 on its observation: cosine and sine of the angle, and speed."""

    def step(self, state: Point, action: jax.Array, key: jax.Array) -> Point:
        cosine, sine, speed = jnp.moveaxis(state.where, -1, 0)
        angle, torque = jnp.arctan2(sine, cosine), 2 * action[..., 0]
        cost = jnp.square(angle) + 0.1 * jnp.square(speed) + 0.001 * jnp.square(torque)
        speed = jnp.clip(speed + 0.05 * (15 * jnp.sin(angle) + 3 * torque), -8, 8)
        angle = angle + 0.05 * speed
        where = jnp.stack([jnp.cos(angle), jnp.sin(angle), speed], -1)
        return Point(where, -cost, jnp.zeros_like(cost))


def riccati(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """P and K of the optimal `steps` actions: their cost is x^T P x, and the first one is -K x."""
    cost, gain = np.zeros((2, 2)), np.zeros((1, 2))
    for _ in range(steps):
        ahead = AWAY + DISCOUNT * cost
        gain = np.linalg.solve(EFFORT + PUSH.T @ ahead @ PUSH, PUSH.T @ ahead @ MOVE)
        cost = MOVE.T @ ahead @ (MOVE - PUSH @ gain)
    return cost, gain


def spec(size: int, bound: float) -> DataSpec:
    seen = ObservationSpec((size,), "float32", (0.0,) * size, (1.0,) * size)
    return DataSpec({"observation": seen}, ActionSpec(False, 1, (-bound,), (bound,)))


@pytest.fixture(scope="session")
def known() -> SimpleNamespace:
    return SimpleNamespace(
        LinearQuadratic=LinearQuadratic, Pendulum=Pendulum, riccati=riccati, spec=spec,
        discount=DISCOUNT,
    )  # fmt: skip
