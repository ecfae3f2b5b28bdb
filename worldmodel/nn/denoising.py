"""The denoiser of EDM (Karras et al., NeurIPS 2022, arXiv 2206.00364, section 5 and table 1).

Clean data x is observed as x~ = x + s e, with noise e ~ N(0, I) of level s. The denoiser

    D(x~; s) = c_skip x~ + c_out F(c_in x~, c_noise)

wraps a network F whose inputs and targets have variance 1 at every level. Points are (..., D) with
standard deviation `spread`; levels (...) broadcast against them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Network = Callable[[jax.Array, jax.Array], jax.Array]  # (c_in x~ (..., D), c_noise (...)) -> F
Denoise = Callable[[jax.Array, jax.Array], jax.Array]  # (x~ (..., D), s (...)) -> D (..., D)


class Preconditioning(NamedTuple):
    """The coefficients of a level, (...) each. With `weight`, lambda(s), the loss of D equals the
    squared error of F.
    """

    c_skip: jax.Array
    c_out: jax.Array
    c_in: jax.Array
    c_noise: jax.Array
    weight: jax.Array


def preconditioning(level: jax.Array, spread: float = 1.0) -> Preconditioning:
    """The coefficients at `level` (...), above 0, for data with standard deviation `spread`."""
    total = jnp.square(level) + spread**2
    return Preconditioning(
        c_skip=spread**2 / total,
        c_out=level * spread * jax.lax.rsqrt(total),
        c_in=jax.lax.rsqrt(total),
        c_noise=jnp.log(level) / 4,
        weight=total / jnp.square(level * spread),
    )


def denoiser(network: Network, spread: float = 1.0) -> Denoise:
    """The denoiser D of a network F."""

    def denoise(x: jax.Array, level: jax.Array) -> jax.Array:
        c = preconditioning(level, spread)
        return c.c_skip[..., None] * x + c.c_out[..., None] * network(
            c.c_in[..., None] * x, c.c_noise
        )

    return denoise


def sample_training_sigmas(
    key: jax.Array, shape: tuple[int, ...], log_mean: float, log_std: float
) -> jax.Array:
    """Noise levels (shape) with normally distributed logarithms."""
    return jnp.exp(log_mean + log_std * jax.random.normal(key, shape))


def denoising_loss(
    network: Network, x: jax.Array, level: jax.Array, key: jax.Array, spread: float = 1.0
) -> jax.Array:
    """lambda(s) |D(x + s e; s) - x|^2 of clean points (..., D), summed over D: (...).

    Computed as the squared error of F, which is equal and keeps all digits at small levels.
    """
    c = preconditioning(level, spread)
    noise = jax.random.normal(key, x.shape)
    noised = x + level[..., None] * noise
    target = (x - c.c_skip[..., None] * noised) / c.c_out[..., None]
    return jnp.square(network(c.c_in[..., None] * noised, c.c_noise) - target).sum(-1)
