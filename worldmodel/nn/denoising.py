"""The denoiser of EDM (Karras et al., NeurIPS 2022, arXiv 2206.00364, section 5 and table 1).

A point x of clean data is known as x~ = x + s e, with noise e ~ N(0, I) of level s. The denoiser

    D(x~; s) = c_skip x~ + c_out F(c_in x~, c_noise)

wraps a network F so that what goes in, and what F has to give, have variance 1 at every level.
Points are (..., D) with standard deviation `spread`; levels (...) broadcast against them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Network = Callable[[jax.Array, jax.Array], jax.Array]  # (c_in x~ (..., D), c_noise (...)) -> F
Denoise = Callable[[jax.Array, jax.Array], jax.Array]  # (x~ (..., D), s (...)) -> D (..., D)


class Preconditioning(NamedTuple):
    """What a level stands for, (...) each. `weight` is lambda(s): with it the loss of D equals the
    plain squared error of F.
    """

    c_skip: jax.Array
    c_out: jax.Array
    c_in: jax.Array
    c_noise: jax.Array
    weight: jax.Array


def preconditioning(level: jax.Array, spread: float = 1.0) -> Preconditioning:
    """The coefficients at `level` (...), which must be above 0, for data of this `spread`."""
    total = jnp.square(level) + spread**2
    return Preconditioning(
        c_skip=spread**2 / total,
        c_out=level * spread * jax.lax.rsqrt(total),
        c_in=jax.lax.rsqrt(total),
        c_noise=jnp.log(level) / 4,
        weight=total / jnp.square(level * spread),
    )


def denoiser(network: Network, spread: float = 1.0) -> Denoise:
    """D made of F."""

    def denoise(x: jax.Array, level: jax.Array) -> jax.Array:
        c = preconditioning(level, spread)
        return c.c_skip[..., None] * x + c.c_out[..., None] * network(
            c.c_in[..., None] * x, c.c_noise
        )

    return denoise


def sample_training_sigmas(
    key: jax.Array, shape: tuple[int, ...], log_mean: float, log_std: float
) -> jax.Array:
    """Levels (shape) whose logarithm is normal."""
    return jnp.exp(log_mean + log_std * jax.random.normal(key, shape))


def denoising_loss(
    network: Network, x: jax.Array, level: jax.Array, key: jax.Array, spread: float = 1.0
) -> jax.Array:
    """lambda(s) |D(x + s e; s) - x|^2 of clean points (..., D), summed over D: (...).

    Written as the squared error of F, which is the same and loses no digits at small levels.
    """
    c = preconditioning(level, spread)
    noise = jax.random.normal(key, x.shape)
    noised = x + level[..., None] * noise
    aim = (x - c.c_skip[..., None] * noised) / c.c_out[..., None]
    return jnp.square(network(c.c_in[..., None] * noised, c.c_noise) - aim).sum(-1)
