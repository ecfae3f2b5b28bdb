"""A latent moved by a gated recurrent unit (Cho et al., arXiv 1406.1078): koopman's baseline."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.models.encoded import EncodedModel
from worldmodel.nn.layers import Dense, Linear


class GRU(EncodedModel):
    """State: (B, S) in (-1, 1), as the unit leaves it."""

    def add_dynamics(self, units: int, *, rngs: nnx.Rngs) -> None:
        size = self.state_size
        self.action_hidden = Dense(self.action.size, units, rngs=rngs, dtype=self.dtype)
        self.from_action = Linear(units, 3 * size, rngs=rngs, dtype=self.dtype)
        self.from_state = Linear(size, 3 * size, rngs=rngs, dtype=self.dtype)

    def encode(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        return jnp.tanh(super().encode(observation))

    def step(self, state: jax.Array, action: jax.Array, key: jax.Array) -> jax.Array:
        given = self.from_action(self.action_hidden(self.action_vector(action)))
        reset, update, candidate = jnp.split(given.astype(jnp.float32), 3, -1)
        own_reset, own_update, own_candidate = jnp.split(
            self.from_state(state).astype(jnp.float32), 3, -1
        )
        candidate = jnp.tanh(candidate + jax.nn.sigmoid(reset + own_reset) * own_candidate)
        keep = jax.nn.sigmoid(update + own_update)
        return keep * state + (1 - keep) * candidate
