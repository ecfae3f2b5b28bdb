"""Termination rules of Gymnasium's Hopper, Walker2d and HalfCheetah, on raw observations (as in
MOPO, Yu et al., arXiv 2005.13239).

Gymnasium checks the simulator's state; observations omit the horizontal position and clip
velocities to +-10, so a rule misses an end that only a velocity above 100 causes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

MAX_STATE = 100.0  # larger numbers end an episode, or show that a model has diverged


def hopper(x: jax.Array) -> jax.Array:
    """(..., 11) -> (...) bool; x[0] is the height, x[1] the angle of the torso."""
    upright = (x[..., 0] > 0.7) & (jnp.abs(x[..., 1]) < 0.2)
    return ~(upright & _bounded(x[..., 1:]))


def walker2d(x: jax.Array) -> jax.Array:
    """(..., 17) -> (...) bool"""
    height = x[..., 0]
    upright = (height > 0.8) & (height < 2.0) & (jnp.abs(x[..., 1]) < 1.0)
    return ~(upright & _bounded(x))


def halfcheetah(x: jax.Array) -> jax.Array:
    """(..., 17) -> (...) bool: real episodes never end, but an imagined one may diverge."""
    return ~_bounded(x)


def never(x: jax.Array) -> jax.Array:
    return jnp.zeros(x.shape[:-1], bool)


def _bounded(x: jax.Array) -> jax.Array:
    """False where a number is too large or NaN."""
    return (jnp.abs(x) < MAX_STATE).all(-1)


# name -> rule, from observations (..., D) to whether the episode has ended (...)
RULES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "hopper": hopper,
    "walker2d": walker2d,
    "halfcheetah": halfcheetah,
    "never": never,
}
SIZES = {"hopper": 11, "walker2d": 17, "halfcheetah": 17}  # D
