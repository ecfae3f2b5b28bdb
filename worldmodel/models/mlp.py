"""A latent moved by a residual multilayer perceptron: koopman's baseline."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.models.encoded import EncodedModel
from worldmodel.nn import layers


class MLP(EncodedModel):
    """x' = x + f(x, u), with f of two hidden layers."""

    def add_dynamics(self, units: int, *, rngs: nnx.Rngs) -> None:
        inputs = self.state_size + self.action.size
        self.hidden = layers.MLP(inputs, units, 2, rngs=rngs, dtype=self.dtype)
        self.change = layers.Linear(units, self.state_size, rngs=rngs, dtype=self.dtype)

    def step(self, state: jax.Array, action: jax.Array, key: jax.Array) -> jax.Array:
        both = jnp.concatenate([state.astype(self.dtype), self.action_vector(action)], -1)
        return state + self.change(self.hidden(both)).astype(jnp.float32)
