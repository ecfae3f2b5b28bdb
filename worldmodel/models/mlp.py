"""A latent moved by a residual multilayer perceptron: koopman's baseline."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import MLPOptions
from worldmodel.data.spec import DataSpec
from worldmodel.models.encoded import EncodedModel
from worldmodel.nn.layers import Dense, Linear


class MLP(EncodedModel):
    """x' = x + W f(x, a). The action's share in f is formed outside the recurrence."""

    def __init__(
        self,
        options: MLPOptions,
        spec: DataSpec,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        super().__init__(options, spec, rngs=rngs, dtype=dtype)
        units, _, latent = self.size
        self.embed = Dense(spec.action.size, units, rngs=rngs, dtype=dtype)
        self.from_action = Linear(units, 2 * units, rngs=rngs, dtype=dtype)
        self.hidden = Dense(latent, 2 * units, rngs=rngs, dtype=dtype)
        self.change = Linear(2 * units, latent, rngs=rngs, dtype=dtype, scale=0.1)

    def control(self, action: jax.Array) -> jax.Array:
        return self.from_action(self.embed(action))

    def advance(self, latent: jax.Array, control: jax.Array) -> jax.Array:
        hidden = self.hidden.activate(self.hidden.linear(latent) + control)
        return latent + self.change(hidden).astype(jnp.float32)
