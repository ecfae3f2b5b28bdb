"""Networks from features to distributions, with the sizes and initial scales of DreamerV3."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.data.spec import ActionSpec
from worldmodel.nn.distributions import NUM_BINS, Bernoulli, Categorical, Normal, TwoHot
from worldmodel.nn.layers import MLP, Linear


class ScalarHead(nnx.Module):
    """(..., D) -> TwoHot (...): rewards and values. The initial prediction is exactly 0."""

    def __init__(self, inputs: int, units: int, layers: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.hidden = MLP(inputs, units, layers, rngs=rngs, dtype=dtype)
        self.output = Linear(units, NUM_BINS, rngs=rngs, dtype=dtype, scale=0.0)

    def __call__(self, features: jax.Array) -> TwoHot:
        return TwoHot(self.output(self.hidden(features)))


class BinaryHead(nnx.Module):
    """(..., D) -> Bernoulli (...): whether an episode has ended."""

    def __init__(self, inputs: int, units: int, layers: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.hidden = MLP(inputs, units, layers, rngs=rngs, dtype=dtype)
        self.output = Linear(units, 1, rngs=rngs, dtype=dtype)

    def __call__(self, features: jax.Array) -> Bernoulli:
        return Bernoulli(self.output(self.hidden(features))[..., 0])


class ActionHead(nnx.Module):
    """(..., D) -> Normal (..., A), mean in (-1, 1), scale in (0.1, 1), or Categorical (...)."""

    def __init__(
        self,
        inputs: int,
        action: ActionSpec,
        units: int,
        layers: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        self.hidden = MLP(inputs, units, layers, rngs=rngs, dtype=dtype)
        self.location = Linear(units, action.size, rngs=rngs, dtype=dtype, scale=0.01)
        scale = partial(Linear, units, action.size, rngs=rngs, dtype=dtype, scale=0.01)
        self.scale = None if action.discrete else scale()

    def __call__(self, features: jax.Array) -> Normal | Categorical:
        hidden = self.hidden(features)
        location = self.location(hidden).astype(jnp.float32)
        if self.scale is None:
            return Categorical.from_logits(location)
        scale = jax.nn.sigmoid(self.scale(hidden).astype(jnp.float32) + 2.0)
        return Normal(jnp.tanh(location), 0.9 * scale + 0.1)
