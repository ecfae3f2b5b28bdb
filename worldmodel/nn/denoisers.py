"""Networks F of a denoiser. Inputs are noised values, conditioning and the noise level; the initial
output is zero.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.nn.layers import Linear, RMSNorm

NUM_FREQUENCIES = 8  # of the embedding of a noise level


class AdaptiveNorm(nnx.Module):
    """RMSNorm, then scale and shift by the noise level (adaptive normalization, Peebles and Xie,
    arXiv 2212.09748).
    """

    def __init__(self, units: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.norm = RMSNorm(units, rngs=rngs)
        self.modulation = Linear(units, 2 * units, rngs=rngs, dtype=dtype, scale=0.0)

    def __call__(self, x: jax.Array, noise: jax.Array) -> jax.Array:
        scale, shift = jnp.split(self.modulation(noise), 2, -1)
        return self.norm(x) * (1 + scale) + shift


class NoiseEmbedding(nnx.Module):
    """c_noise (...) -> (..., units)."""

    def __init__(self, units: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.output = Linear(2 * NUM_FREQUENCIES, units, rngs=rngs, dtype=dtype)

    def __call__(self, noise: jax.Array) -> jax.Array:
        angle = noise[..., None] * jnp.pi * 2.0 ** jnp.linspace(-2, 3, NUM_FREQUENCIES)
        return jax.nn.silu(self.output(jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)))


class PointBlock(nnx.Module):
    """A residual block of two layers, for single points."""

    def __init__(self, units: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.modulated = AdaptiveNorm(units, rngs=rngs, dtype=dtype)
        self.hidden = Linear(units, units, rngs=rngs, dtype=dtype)
        self.output = Linear(units, units, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array, noise: jax.Array) -> jax.Array:
        return x + self.output(jax.nn.silu(self.hidden(self.modulated(x, noise))))


class SequenceBlock(nnx.Module):
    """A residual block over steps (..., T, units): a zero-padded convolution over three steps,
    `dilation` apart, then a layer at each step.
    """

    def __init__(self, units: int, dilation: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.modulated = AdaptiveNorm(units, rngs=rngs, dtype=dtype)
        self.hidden = Linear(3 * units, units, rngs=rngs, dtype=dtype)
        self.output = Linear(units, units, rngs=rngs, dtype=dtype)
        self.dilation = dilation

    def __call__(self, x: jax.Array, noise: jax.Array) -> jax.Array:
        y = self.modulated(x, noise[..., None, :])
        length, shift = y.shape[-2], self.dilation
        padded = jnp.pad(y, [(0, 0)] * (y.ndim - 2) + [(shift, shift), (0, 0)])
        before, after = padded[..., :length, :], padded[..., 2 * shift :, :]
        hidden = self.hidden(jnp.concatenate([before, y, after], -1))
        return x + self.output(jax.nn.silu(hidden))


class PointDenoiser(nnx.Module):
    """F for points (..., D), with conditioning (..., units): `from_conditioning` of a history, for
    instance. It is the same at all levels, so it is computed once per sample.
    """

    def __init__(
        self, size: int, context: int, units: int, blocks: int, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ):
        self.embedding = NoiseEmbedding(units, rngs=rngs, dtype=dtype)
        self.from_point = Linear(size, units, rngs=rngs, dtype=dtype)
        self.from_conditioning = Linear(context, units, rngs=rngs, dtype=dtype)
        self.blocks = nnx.List([PointBlock(units, rngs=rngs, dtype=dtype) for _ in range(blocks)])
        self.modulated = AdaptiveNorm(units, rngs=rngs, dtype=dtype)
        self.output = Linear(units, size, rngs=rngs, dtype=dtype, scale=0.0)

    def __call__(self, point: jax.Array, noise: jax.Array, given: jax.Array) -> jax.Array:
        embedded = self.embedding(noise)
        x = self.from_point(point) + given
        for block in self.blocks:
            x = block(x, embedded)
        return self.output(jax.nn.silu(self.modulated(x, embedded))).astype(jnp.float32)


class SequenceDenoiser(nnx.Module):
    """F for sequences (..., T, D) of any length, with conditioning (..., T, K) of each step."""

    def __init__(
        self, size: int, context: int, units: int, blocks: int, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ):
        self.embedding = NoiseEmbedding(units, rngs=rngs, dtype=dtype)
        self.input = Linear(size + context, units, rngs=rngs, dtype=dtype)
        self.blocks = nnx.List(
            [SequenceBlock(units, 2 ** (i % 4), rngs=rngs, dtype=dtype) for i in range(blocks)]
        )
        self.modulated = AdaptiveNorm(units, rngs=rngs, dtype=dtype)
        self.output = Linear(units, size, rngs=rngs, dtype=dtype, scale=0.0)

    def __call__(self, x: jax.Array, noise: jax.Array, conditioning: jax.Array) -> jax.Array:
        """noise: (...), one level for all steps of a sequence"""
        embedded = self.embedding(noise)
        x = self.input(jnp.concatenate([x, conditioning], -1))
        for block in self.blocks:
            x = block(x, embedded)
        x = jax.nn.silu(self.modulated(x, embedded[..., None, :]))
        return self.output(x).astype(jnp.float32)
