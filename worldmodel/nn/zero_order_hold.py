"""Zero-order hold: from dx/dt = G x + c, with 2 x 2 blocks G and constant c, to x' = A x + B c."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from worldmodel.nn.linear_recurrence import Block


class Generator(NamedTuple):
    """G = [[rate, upper], [-lower, rate]], entries (..., m).

    upper x lower = angle^2, so the eigenvalues are rate +- i angle. A complex coordinate has upper
    = lower = angle. With lower = 0, G is a Jordan block: y drives x, and nothing drives y.
    """

    rate: jax.Array
    angle: jax.Array
    upper: jax.Array
    lower: jax.Array


def zero_order_hold(generator: Generator) -> tuple[Block, Block]:
    """exp(G) and the integral of exp(sG) over s in [0, 1]: A and B of a step of unit length.

    Both are functions f of a matrix, and f(G) = p I + q (G - rate I) with p = Re f(rate + i angle),
    q = Im f(rate + i angle) / angle. Values and gradients are finite everywhere, including at 0.
    """
    rate, angle, upper, lower = generator
    grown = jnp.exp(rate)
    step = grown * jnp.cos(angle), grown * _sinc(angle)
    return _block(*step, upper, lower), _block(*_held(rate, angle), upper, lower)


def _block(p: jax.Array, q: jax.Array, upper: jax.Array, lower: jax.Array) -> Block:
    return Block(p, q * upper, -q * lower, p)


def _sinc(angle: jax.Array) -> jax.Array:
    """sin(angle) / angle. The gradient of `jnp.sinc` is not finite for angles near 1e-20."""
    square = jnp.square(angle)
    small = square < 0.25
    safe = jnp.where(small, 1.0, angle)
    near = 1 - square / 6 * (1 - square / 20 * (1 - square / 42))
    return jnp.where(small, near, jnp.sin(safe) / safe)


def _held(rate: jax.Array, angle: jax.Array) -> tuple[jax.Array, jax.Array]:
    """p and q of expm1(z) / z at z = rate + i angle, by its series where z is small."""
    size = jnp.square(rate) + jnp.square(angle)
    small = size < 0.25
    safe = jnp.where(small, 1.0, size)
    # The real part of expm1(z), without the cancellation of exp(z) - 1.
    real = jnp.expm1(rate) * jnp.cos(angle) - 2 * jnp.square(jnp.sin(angle / 2))
    slope = jnp.exp(rate) * _sinc(angle)  # the imaginary part, over the angle
    p = (rate * real + jnp.square(angle) * slope) / safe
    q = (rate * slope - real) / safe
    near = _held_series(*(jnp.where(small, x, 0.0) for x in (rate, angle)))
    return jnp.where(small, near[0], p), jnp.where(small, near[1], q)


def _held_series(rate: jax.Array, angle: jax.Array) -> tuple[jax.Array, jax.Array]:
    """1 + z / 2! + z^2 / 3! + ... by Horner's rule; the remainder is below 1e-8 for |z| < 1/2."""
    p, q = jnp.ones_like(rate), jnp.zeros_like(rate)
    for n in range(8, 1, -1):
        p, q = 1 + (rate * p - jnp.square(angle) * q) / n, (rate * q + p) / n
    return p, q
