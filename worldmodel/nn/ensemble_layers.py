"""Layers of several networks of the same shape: every parameter has a leading member axis, and one
batched product serves all members.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.nn.distributions import Normal
from worldmodel.nn.layers import truncated_normal

Module = TypeVar("Module", bound=nnx.Module)
MAX_LOG_VAR, MIN_LOG_VAR = 0.5, -10.0  # initial bounds of the log variance


class EnsembleLinear(nnx.Module):
    """(M, N, inputs), or (N, inputs) for all members -> (M, N, outputs)."""

    def __init__(
        self, members: int, inputs: int, outputs: int, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ):
        shape = (members, inputs, outputs)
        self.kernel = nnx.Param(truncated_normal(rngs, shape, inputs, 1.0))
        self.bias = nnx.Param(jnp.zeros((members, 1, outputs), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return jnp.matmul(x.astype(self.dtype), kernel) + bias


class EnsembleLayerNorm(nnx.Module):
    """LayerNorm over the last axis of (M, N, units), in float32."""

    def __init__(self, members: int, units: int, *, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones((members, 1, units), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((members, 1, units), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        centered = x32 - x32.mean(-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + self.epsilon)
        return (centered * inverse * self.scale[...] + self.bias[...]).astype(x.dtype)


class EnsembleDense(nnx.Module):
    """`Linear -> LayerNorm (optional) -> SiLU`."""

    def __init__(
        self,
        members: int,
        inputs: int,
        units: int,
        layer_norm: bool,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype,
    ):
        self.linear = EnsembleLinear(members, inputs, units, rngs=rngs, dtype=dtype)
        self.norm = EnsembleLayerNorm(members, units) if layer_norm else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.linear(x)
        return jax.nn.silu(x if self.norm is None else self.norm(x))


class GaussianEnsemble(nnx.Module):
    """(M, N, inputs) or (N, inputs) -> Normal (M, N, outputs) with learned bounds of the variance
    (Chua et al., arXiv 1805.12114, appendix A.1).
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        units: int,
        layers: int,
        layer_norm: bool,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        sizes = [inputs] + [units] * layers
        self.hidden = nnx.List(
            [
                EnsembleDense(members, i, o, layer_norm, rngs=rngs, dtype=dtype)
                for i, o in zip(sizes, sizes[1:], strict=False)
            ]
        )
        self.output = EnsembleLinear(members, units, 2 * outputs, rngs=rngs, dtype=dtype)
        self.max_log_var = nnx.Param(jnp.full((members, 1, outputs), MAX_LOG_VAR, jnp.float32))
        self.min_log_var = nnx.Param(jnp.full((members, 1, outputs), MIN_LOG_VAR, jnp.float32))

    def __call__(self, x: jax.Array) -> Normal:
        for layer in self.hidden:
            x = layer(x)
        location, log_variance = jnp.split(self.output(x).astype(jnp.float32), 2, -1)
        upper, lower = self.max_log_var[...], self.min_log_var[...]
        log_variance = upper - jax.nn.softplus(upper - log_variance)
        log_variance = lower + jax.nn.softplus(log_variance - lower)
        return Normal(location, jnp.exp(0.5 * log_variance))

    def bounds_width(self) -> jax.Array:
        """The distance of the bounds of the log variance, summed over members and outputs."""
        return (self.max_log_var[...] - self.min_log_var[...]).sum()

    def weight_decay(self) -> jax.Array:
        """Half the squared weights, with factors 1/4, 1/2, 3/4, 3/4, ... of hidden layers and 1 of
        the output (MBPO, Janner et al., arXiv 1906.08253).
        """
        kernels = [layer.linear.kernel[...] for layer in self.hidden]
        factors = [min(0.25 * (i + 1), 0.75) for i in range(len(kernels))]
        squares = [f * jnp.square(k).sum() for f, k in zip(factors, kernels, strict=True)]
        return 0.5 * (sum(squares) + jnp.square(self.output.kernel[...]).sum())


def select_members(module: Module, which: jax.Array | slice) -> Module:
    """The module of the members `which`, indices (E,) or a slice."""
    graphdef, params = nnx.split(module)
    return nnx.merge(graphdef, jax.tree.map(lambda x: x[which], params))
