"""Networks from features to distributions, with the sizes and initial scales of DreamerV3."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.data.spec import ActionSpec
from worldmodel.nn.actions import Mixed, split_vector
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
    """(..., D) -> Normal (..., A), mean in (-1, 1), scale in (0.1, 1), or Categorical (...); Mixed
    (..., K) where actions are several classes, or classes and numbers.
    """

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
        self.location = Linear(units, action.vector_size, rngs=rngs, dtype=dtype, scale=0.01)
        numbers = action.classes.count(0)
        scale = partial(Linear, units, numbers, rngs=rngs, dtype=dtype, scale=0.01)
        self.scale = scale() if numbers else None
        self.action = action

    def __call__(self, features: jax.Array) -> Normal | Categorical | Mixed:
        hidden = self.hidden(features)
        location = self.location(hidden).astype(jnp.float32)
        if self.action.discrete:
            return Categorical.from_logits(location)
        numbers, logits = location, None
        if self.action.kind == "mixed":
            numbers, logits = split_vector(location, self.action)
        scale = jnp.zeros_like(numbers) if self.scale is None else self.scale(hidden)
        scale = jax.nn.sigmoid(scale.astype(jnp.float32) + 2.0)
        normal = Normal(jnp.tanh(numbers), 0.9 * scale + 0.1)
        return (
            normal
            if logits is None
            else Mixed(normal, Categorical.from_logits(logits), self.action)
        )
