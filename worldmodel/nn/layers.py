"""Dense layers of DreamerV3 (Hafner et al., arXiv 2301.04104): `Linear -> RMSNorm -> SiLU`.

Parameters are float32. Matrix products run in each layer's `dtype`, norms always in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.errors import ArgumentError
from worldmodel.nn.layout import devices, map_blocks

# 1 over the standard deviation of a unit normal truncated at +-2.
TRUNCATION = 1.1368


def truncated_normal(
    rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int, scale: float
) -> jax.Array:
    """Normal truncated at two standard deviations, with variance `scale**2 / fan_in`."""
    if scale == 0.0:
        return jnp.zeros(shape, jnp.float32)
    values = jax.random.truncated_normal(rngs.params(), -2.0, 2.0, shape, jnp.float32)
    return values * (TRUNCATION * scale / fan_in**0.5)


class Linear(nnx.Module):
    """(..., inputs) -> (..., outputs). The bias is initially 0; with `scale=0`, the kernel too."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
        scale: float = 1.0,
    ):
        self.kernel = nnx.Param(truncated_normal(rngs, (inputs, outputs), inputs, scale))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        if not hasattr(x, "dtype") or jnp.shape(x)[-1:] != kernel.shape[:1]:
            found = describe(x)
            raise ArgumentError(f"network: {found}; accepted: arrays (..., {len(kernel)})")
        return as_matrix(lambda x: x @ kernel + bias, x.astype(self.dtype))

    def columns(self, x: jax.Array, first: int) -> jax.Array:
        """The contribution of inputs [first, first + x.shape[-1]) to the product, without bias."""
        kernel = self.kernel[first : first + x.shape[-1]].astype(self.dtype)
        return as_matrix(lambda x: x @ kernel, x.astype(self.dtype))


def describe(x: Any) -> str:
    """Such as 'float32 (2, 3)' for an array, else the type."""
    is_array = isinstance(x, jax.Array | np.ndarray)
    return f"{x.dtype} {x.shape}" if is_array else type(x).__name__


def as_matrix(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """`function` of x (..., inputs) reshaped to a matrix: on CPUs, XLA has fast code for matrices
    only, and gradients of products with more axes are up to ten times slower. A batch that is split
    over devices is not reshaped, because it would have to be gathered.
    """
    if devices() > 1:
        return function(x)
    y = function(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], y.shape[-1])


class BlockLinear(nnx.Module):
    """Block-diagonal linear map (..., inputs) -> (..., outputs).

    The kernel has shape (blocks, inputs / blocks, outputs / blocks). Its initial scale is that of a
    full layer: the fan-in is the whole input width, as in DreamerV3's code.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        shape = (blocks, inputs // blocks, outputs // blocks)
        self.kernel = nnx.Param(truncated_normal(rngs, shape, inputs, 1.0))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.blocks, self.dtype = blocks, dtype

    def __call__(self, x: jax.Array, shared: jax.Array | None = None) -> jax.Array:
        """Maps x (..., inputs of all blocks).

        shared: (..., S), further inputs of every block. They use the last S rows of each block's
            kernel; one dense product serves all blocks.
        """
        kernel = self.kernel[...].astype(self.dtype)
        own = x.shape[-1] // self.blocks
        y = map_blocks(jnp.matmul, (x.astype(self.dtype),), (kernel[:, :own],))
        if shared is not None:
            dense = jnp.swapaxes(kernel[:, own:], 0, 1).reshape(shared.shape[-1], -1)
            y = y + shared.astype(self.dtype) @ dense
        return y + self.bias[...].astype(self.dtype)

    def parameters(self) -> tuple[jax.Array, jax.Array]:
        """Kernel (blocks, I, O) and bias (blocks, O) in `dtype`, for `map_blocks`."""
        bias = self.bias[...].reshape(self.blocks, -1)
        return self.kernel[...].astype(self.dtype), bias.astype(self.dtype)


class RMSNorm(nnx.Module):
    """Divides by the root mean square over the last axis, in float32, and scales each entry."""

    def __init__(self, size: int, *, rngs: nnx.Rngs, epsilon: float = 1e-4):
        self.scale = nnx.Param(jnp.ones(size, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + self.epsilon)
        return (x32 * inverse * self.scale[...]).astype(x.dtype)


class Dense(nnx.Module):
    """`Linear -> RMSNorm -> SiLU`."""

    def __init__(
        self, inputs: int, outputs: int, *, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32
    ):
        self.linear = Linear(inputs, outputs, rngs=rngs, dtype=dtype)
        self.norm = RMSNorm(outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.activate(self.linear(x))

    def activate(self, x: jax.Array) -> jax.Array:
        """Norm and activation of a linear map that was computed separately."""
        return jax.nn.silu(self.norm(x))


class MLP(nnx.Module):
    """`layers` hidden layers, (..., inputs) -> (..., units)."""

    def __init__(self, inputs: int, units: int, layers: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        sizes = [inputs] + [units] * layers
        self.layers = nnx.List([Dense(i, o, rngs=rngs, dtype=dtype) for i, o in pairwise(sizes)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x
