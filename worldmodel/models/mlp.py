"""A latent with the dynamics of a residual multilayer perceptron."""

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
class MLPOptions(EncodedOptions):
    """Latent dynamics by a residual multilayer perceptron."""

    name: str = option("mlp", "family of the world model")
    linear_skip: bool = option(
        False, "add a linear map to the network, which then learns the nonlinear rest"
    )


@register("model", "mlp", MLPOptions)
class MLP(EncodedModel):
    """x' = x + W f(x, a). The action's contribution to f is computed outside the recurrence.

    With `linear_skip`, x' = x + A x + B a + W f(x, a), A and B initially 0, as neural state-space
    models in system identification (Beintema, Toth, Schoukens, PMLR 144, 2021). It suits systems
    that are almost linear, or that filter a static nonlinearity.
    """

    def __init__(self, options: MLPOptions, spec: DataSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        super().__init__(options, spec, rngs=rngs, dtype=dtype)
        units, _, latent = self.size
        self.embed = Dense(spec.action.vector_size, units, rngs=rngs, dtype=dtype)
        self.from_action = Linear(units, 2 * units, rngs=rngs, dtype=dtype)
        self.hidden = Dense(latent, 2 * units, rngs=rngs, dtype=dtype)
        self.change = Linear(2 * units, latent, rngs=rngs, dtype=dtype, scale=0.1)
        inputs = latent + spec.action.vector_size
        path = Linear(inputs, latent, rngs=rngs, dtype=dtype, scale=0.0)
        self.path = path if options.linear_skip else None

    def control(self, action: jax.Array) -> jax.Array:
        hidden = self.from_action(self.embed(action))
        if self.path is None:
            return hidden
        return jnp.concatenate([hidden, self.path.columns(action, self.size.latent)], -1)

    def advance(self, latent: jax.Array, control: jax.Array) -> jax.Array:
        from_action, direct = jnp.split(control, [2 * self.size.units], -1)
        hidden = self.hidden.activate(self.hidden.linear(latent) + from_action)
        change = self.change(hidden)
        if self.path is not None:
            change = change + self.path.columns(latent, 0) + direct + self.path.bias[...]
        return latent + change.astype(jnp.float32)
