"""Dense layers as DreamerV3 has them (Hafner et al., arXiv 2301.04104): `Linear -> RMSNorm ->
SiLU`.

Parameters are float32. Matrix products run in each layer's `dtype`; norms run in float32 whatever
it is.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.nn.layout import devices, map_blocks

# The standard deviation of a unit normal cut at +-2, inverted: the truncation keeps the variance
# asked for.
TRUNCATION = 1.1368


def truncated_normal(
    rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int, scale: float
) -> jax.Array:
    """Normal cut at two standard deviations, with variance `scale**2 / fan_in`."""
    if scale == 0.0:
        return jnp.zeros(shape, jnp.float32)
    values = jax.random.truncated_normal(rngs.params(), -2.0, 2.0, shape, jnp.float32)
    return values * (TRUNCATION * scale / fan_in**0.5)


class Linear(nnx.Module):
    """(..., inputs) -> (..., outputs); bias starts at 0. `scale=0` starts the whole layer at 0."""

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
        return over_rows(lambda rows: rows @ kernel + bias, x.astype(self.dtype))

    def columns(self, x: jax.Array, first: int) -> jax.Array:
        """The share of the product that inputs [first, first + x.shape[-1]) have in it, without
        bias.
        """
        kernel = self.kernel[first : first + x.shape[-1]].astype(self.dtype)
        return over_rows(lambda rows: rows @ kernel, x.astype(self.dtype))


def over_rows(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """`function` of x (..., inputs) as one matrix: on CPUs, XLA has fast code for no other product,
    and the gradient of one with more axes is up to ten times slower. Where the batch is split over
    devices, it may be any of the axes: folded into one, it would have to be gathered.
    """
    if devices() > 1:
        return function(x)
    y = function(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], y.shape[-1])


class BlockLinear(nnx.Module):
    """Block-diagonal linear map: (..., inputs) -> (..., outputs), block k of the one from block k
    of the other.

    The kernel has shape (blocks, inputs / blocks, outputs / blocks). It starts with the scale of a
    full layer: fan-in is the whole input width, as in DreamerV3's code.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        blocks: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        shape = (blocks, inputs // blocks, outputs // blocks)
        self.kernel = nnx.Param(truncated_normal(rngs, shape, inputs, 1.0))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.blocks, self.dtype = blocks, dtype

    def __call__(self, x: jax.Array, shared: jax.Array | None = None) -> jax.Array:
        """Maps x (..., inputs of all blocks).

        `shared` (..., S) stands for S more inputs that every block sees: they take the last S rows
        of each block's kernel, and one dense product serves all blocks instead of S repeated inputs
        in each.
        """
        kernel = self.kernel[...].astype(self.dtype)
        own = x.shape[-1] // self.blocks
        y = map_blocks(jnp.matmul, (x.astype(self.dtype),), (kernel[:, :own],))
        if shared is not None:
            dense = jnp.swapaxes(kernel[:, own:], 0, 1).reshape(shared.shape[-1], -1)
            y = y + shared.astype(self.dtype) @ dense
        return y + self.bias[...].astype(self.dtype)

    def parameters(self) -> tuple[jax.Array, jax.Array]:
        """Kernel (blocks, I, O) and bias (blocks, O) in the compute type, for `map_blocks`."""
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
    """`Linear -> RMSNorm -> SiLU`: the hidden layer of every network here."""

    def __init__(
        self, inputs: int, outputs: int, *, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32
    ):
        self.linear = Linear(inputs, outputs, rngs=rngs, dtype=dtype)
        self.norm = RMSNorm(outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.activate(self.linear(x))

    def activate(self, x: jax.Array) -> jax.Array:
        """Norm and activation of a product that was formed elsewhere."""
        return jax.nn.silu(self.norm(x))


class MLP(nnx.Module):
    """`layers` hidden layers, (..., inputs) -> (..., units)."""

    def __init__(
        self,
        inputs: int,
        units: int,
        layers: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        sizes = [inputs] + [units] * layers
        self.layers = nnx.List(
            [Dense(i, o, rngs=rngs, dtype=dtype) for i, o in zip(sizes, sizes[1:], strict=False)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x
