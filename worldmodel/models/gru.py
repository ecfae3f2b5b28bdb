"""A latent with the dynamics of a gated recurrent unit (Cho et al., arXiv 1406.1078)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.models.encoded import EncodedModel, EncodedOptions
from worldmodel.nn.layers import Dense, Linear


@dataclass
class GRUOptions(EncodedOptions):
    """Latent dynamics by a gated recurrent unit."""

    name: str = option("gru", "family of the world model")


@register("model", "gru", GRUOptions)
class GRU(EncodedModel):
    """The action's contribution to the gates is computed outside the recurrence."""

    def __init__(self, options: GRUOptions, spec: DataSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        super().__init__(options, spec, rngs=rngs, dtype=dtype)
        units, _, latent = self.size
        self.embed = Dense(spec.action.vector_size, units, rngs=rngs, dtype=dtype)
        self.from_action = Linear(units, 3 * latent, rngs=rngs, dtype=dtype)
        self.from_latent = Linear(latent, 3 * latent, rngs=rngs, dtype=dtype)

    def control(self, action: jax.Array) -> jax.Array:
        return self.from_action(self.embed(action)).astype(jnp.float32)

    def advance(self, latent: jax.Array, control: jax.Array) -> jax.Array:
        inputs = jnp.split(control, 3, -1)
        hidden = jnp.split(self.from_latent(latent).astype(jnp.float32), 3, -1)
        reset = jax.nn.sigmoid(inputs[0] + hidden[0])
        update = jax.nn.sigmoid(inputs[1] + hidden[1] - 1)  # initially, mostly keep
        candidate = jnp.tanh(inputs[2] + reset * hidden[2])
        return latent + update * (candidate - latent)
