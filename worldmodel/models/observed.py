"""No dynamics: the state is the observation, for algorithms that learn from the dataset alone.

There is nothing to train and nothing to imagine. Features are the vectors, standardized by training
statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import ModelOptions, option
from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.errors import ConfigError
from worldmodel.models.interface import Metrics, State, WorldModel
from worldmodel.models.latent import arrival_reward, require_reward
from worldmodel.nn.distributions import Distribution, ScalarMSE
from worldmodel.nn.vectors import Vectors

HIDDEN_UNITS = 256  # of policies, as published for offline algorithms


class ObservedState(NamedTuple):
    """point: (..., D), the standardized vectors
    reward: (...), of the action that led here, 0 if unknown
    ended: (...), 1 where the episode has ended, else 0
    """

    point: jax.Array
    reward: jax.Array
    ended: jax.Array


@dataclass
class ObservedOptions(ModelOptions):
    """No dynamics: the state is the observation. Nothing to train, nothing to imagine."""

    name: str = option("observed", "family of the world model")


@register("model", "observed", ObservedOptions)
class Observed(WorldModel):
    trainable = False
    has_dynamics = False
    supports_images = False

    def __init__(
        self, options: ObservedOptions, spec: DataSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ):
        self.name, self.vectors = options.name, Vectors.of(spec, standardized=True)
        self.has_reward, self.reward_std = spec.has_reward, spec.reward_mean_std[1]
        self.feature_size, self.hidden_size = self.vectors.size, HIDDEN_UNITS

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, State]]:
        raise ConfigError(f"model={self.name} has nothing to train; accepted: another model")

    def initial(self, batch: tuple[int, ...]) -> ObservedState:
        zeros = jnp.zeros(batch, jnp.float32)
        return ObservedState(jnp.zeros((*batch, self.feature_size), jnp.float32), zeros, zeros)

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: ObservedState | None = None,
        action: jax.Array | None = None,
    ) -> ObservedState:
        ended = (window.mask & window.is_terminal).astype(jnp.float32)
        points = self.vectors.normalize(window.observation)
        if window.observed is not None:  # without dynamics, it stays where it was seen last
            before = jnp.zeros_like(points[:, 0]) if state is None else state.point
            before = jnp.concatenate([before[:, None], points[:, :-1]], 1)
            points = jnp.where(window.observed[..., None], points, before)
        return ObservedState(points, arrival_reward(window), ended)

    def step(self, state: ObservedState, action: jax.Array, key: jax.Array) -> ObservedState:
        raise ConfigError(
            f"model={self.name} has no dynamics to imagine with; accepted: another model, or "
            "policy.real_ratio=1"
        )

    def features(self, state: ObservedState) -> jax.Array:
        return state.point

    def observation(self, state: ObservedState) -> Mapping[str, Distribution]:
        return self.vectors.predict(state.point)

    def reward(self, state: ObservedState) -> ScalarMSE:
        require_reward(self.has_reward)
        return ScalarMSE(state.reward, self.reward_std)

    def terminal(self, state: ObservedState) -> ScalarMSE:
        return ScalarMSE(state.ended, 1.0)
