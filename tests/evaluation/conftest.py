"""Small worlds and models for the tests of evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel.data import ActionSpec, Trajectories
from worldmodel.data.windows import Window
from worldmodel.models.interface import WorldModel

DECAY, PUSH = 0.9, 0.3
ACTION = ActionSpec(False, 2, (-2.0, -2.0), (2.0, 2.0))


@partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=[])
@dataclass(frozen=True)
class Certain:
    """All probability on one value."""

    value: jax.Array

    def mean(self) -> jax.Array:
        return self.value


class Repeat(WorldModel):
    """Believes that nothing changes: persistence as a world model."""

    def __init__(self, size: int = 2):
        self.feature_size = size

    def initial(self, batch: tuple[int, ...]) -> jax.Array:
        return jnp.zeros((*batch, self.feature_size))

    def observe(
        self, window: Window, key: jax.Array, state: object = None, action: object = None
    ) -> jax.Array:
        return window.observation["position"]

    def step(self, state: jax.Array, action: jax.Array, key: jax.Array) -> jax.Array:
        return state

    def features(self, state: jax.Array) -> jax.Array:
        return state

    def observation(self, state: jax.Array) -> dict[str, Certain]:
        return {"position": Certain(state)}

    def reward(self, state: jax.Array) -> Certain:
        return Certain(jnp.ones(state.shape[:-1]))

    def terminal(self, state: jax.Array) -> Certain:
        return Certain(jnp.zeros(state.shape[:-1]))


class Linear(Repeat):
    """Knows the linear world that `linear_dataset` come from, up to `noise` in every step."""

    def __init__(self, noise: float = 0.0):
        super().__init__()
        self.noise = noise

    def step(self, state: jax.Array, action: jax.Array, key: jax.Array) -> jax.Array:
        noise = self.noise * jax.random.normal(key, state.shape)
        return DECAY * state + PUSH * 2 * action + noise


def linear_dataset(
    lengths: list[int], seed: int = 0, noise: float = 0.0, seen_noise: float = 0.0
) -> Trajectories:
    """x' = DECAY x + PUSH a, in episodes of the given numbers of rows; with normal noise in every
    step, and in what is seen of x, if asked for.
    """
    generator = np.random.default_rng(seed)
    rows, actions = [], []
    for length in lengths:
        taken = generator.uniform(-2, 2, (length, 2)).astype(np.float32)
        taken[-1] = 0
        x = [generator.normal(size=2)]
        for action in taken[:-1]:
            x.append(DECAY * x[-1] + PUSH * action)
            if noise:
                x[-1] += noise * generator.normal(size=2)
        rows.append(np.array(x, np.float32))
        if seen_noise:
            rows[-1] += np.float32(seen_noise) * generator.normal(size=(length, 2)).astype("f4")
        actions.append(taken)
    return Trajectories(
        observations={"position": np.concatenate(rows)},
        actions=np.concatenate(actions),
        rewards=np.ones(sum(lengths), np.float32),
        lengths=np.array(lengths),
        terminated=np.zeros(len(lengths), bool),
        action_spec=ACTION,
        source="a linear world",
    )


@pytest.fixture(scope="session")
def worlds() -> SimpleNamespace:
    return SimpleNamespace(Linear=Linear, Repeat=Repeat, linear_dataset=linear_dataset)
