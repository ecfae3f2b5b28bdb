"""Networks F of a denoiser: what is noised, what is known, and the level of the noise come in; they
say what is clean. They start by saying zero.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.nn.layers import Linear, RMSNorm

FREQUENCIES = 8  # of the embedding of a noise level


class AdaptiveNorm(nnx.Module):
    """RMSNorm, then scale and shift by the noise (adaptive normalisation, Peebles and Xie, arXiv
    2212.09748).
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
        self.output = Linear(2 * FREQUENCIES, units, rngs=rngs, dtype=dtype)

    def __call__(self, noise: jax.Array) -> jax.Array:
        angle = noise[..., None] * jnp.pi * 2.0 ** jnp.linspace(-2, 3, FREQUENCIES)
        return jax.nn.silu(self.output(jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)))


class PointBlock(nnx.Module):
    """A residual block of two layers, at one point at a time."""

    def __init__(self, units: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.modulated = AdaptiveNorm(units, rngs=rngs, dtype=dtype)
        self.hidden = Linear(units, units, rngs=rngs, dtype=dtype)
        self.output = Linear(units, units, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array, noise: jax.Array) -> jax.Array:
        return x + self.output(jax.nn.silu(self.hidden(self.modulated(x, noise))))


class SequenceBlock(nnx.Module):
    """A residual block over rows (..., T, units): a convolution of three rows, `dilation` apart,
    then a layer at each row. Beyond the ends are zeros.
    """

    def __init__(self, units: int, dilation: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.modulated = AdaptiveNorm(units, rngs=rngs, dtype=dtype)
        self.hidden = Linear(3 * units, units, rngs=rngs, dtype=dtype)
        self.output = Linear(units, units, rngs=rngs, dtype=dtype)
        self.dilation = dilation

    def __call__(self, x: jax.Array, noise: jax.Array) -> jax.Array:
        seen = self.modulated(x, noise[..., None, :])
        rows, off = seen.shape[-2], self.dilation
        padded = jnp.pad(seen, [(0, 0)] * (seen.ndim - 2) + [(off, off), (0, 0)])
        before, after = padded[..., :rows, :], padded[..., 2 * off :, :]
        hidden = self.hidden(jnp.concatenate([before, seen, after], -1))
        return x + self.output(jax.nn.silu(hidden))


class PointDenoiser(nnx.Module):
    """F for a point (..., D), given the share of what is known, (..., units): `from_known` of a
    history, for instance. It is the same at all levels, so it is formed once a sample.
    """

    def __init__(
        self, size: int, known: int, units: int, blocks: int, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ):
        self.embedding = NoiseEmbedding(units, rngs=rngs, dtype=dtype)
        self.from_point = Linear(size, units, rngs=rngs, dtype=dtype)
        self.from_known = Linear(known, units, rngs=rngs, dtype=dtype)
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
    """F for rows (..., T, D) at once, given what else is known of each, (..., T, K). It takes any
    T: what it knows of time is the order of the rows.
    """

    def __init__(
        self, size: int, known: int, units: int, blocks: int, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ):
        self.embedding = NoiseEmbedding(units, rngs=rngs, dtype=dtype)
        self.input = Linear(size + known, units, rngs=rngs, dtype=dtype)
        self.blocks = nnx.List(
            [SequenceBlock(units, 2 ** (i % 4), rngs=rngs, dtype=dtype) for i in range(blocks)]
        )
        self.modulated = AdaptiveNorm(units, rngs=rngs, dtype=dtype)
        self.output = Linear(units, size, rngs=rngs, dtype=dtype, scale=0.0)

    def __call__(self, rows: jax.Array, noise: jax.Array, known: jax.Array) -> jax.Array:
        """noise: (...), one level for all rows."""
        embedded = self.embedding(noise)
        x = self.input(jnp.concatenate([rows, known], -1))
        for block in self.blocks:
            x = block(x, embedded)
        x = jax.nn.silu(self.modulated(x, embedded[..., None, :]))
        return self.output(x).astype(jnp.float32)
