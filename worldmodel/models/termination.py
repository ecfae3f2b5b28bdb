"""When episodes of MuJoCo environments end: the rules of Gymnasium's Hopper, Walker2d and
HalfCheetah, on raw observations (as MOPO has them, Yu et al., arXiv 2005.13239).

Gymnasium judges the simulator's state; observations leave out the horizontal position, and their
velocities are cut at +-10. So a rule may miss an end that only a velocity above 100 would tell.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

FAR = 100.0  # a state beyond it ends an episode, or shows that a model has lost its way


def hopper(x: jax.Array) -> jax.Array:
    """(..., 11) -> (...): x[0] is the height, x[1] the angle of the torso."""
    upright = (x[..., 0] > 0.7) & (jnp.abs(x[..., 1]) < 0.2)
    return ~(upright & _near(x[..., 1:]))


def walker2d(x: jax.Array) -> jax.Array:
    """(..., 17) -> (...)"""
    height = x[..., 0]
    upright = (height > 0.8) & (height < 2.0) & (jnp.abs(x[..., 1]) < 1.0)
    return ~(upright & _near(x))


def halfcheetah(x: jax.Array) -> jax.Array:
    """(..., 17) -> (...): the real one never ends; an imagined one may run away."""
    return ~_near(x)


def never(x: jax.Array) -> jax.Array:
    return jnp.zeros(x.shape[:-1], bool)


def _near(x: jax.Array) -> jax.Array:
    """False where a number is beyond `FAR`, or none: comparisons with those are false."""
    return (jnp.abs(x) < FAR).all(-1)


# Name -> the rule, from observations (..., D) to whether the episode has ended (...).
RULES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "hopper": hopper,
    "walker2d": walker2d,
    "halfcheetah": halfcheetah,
    "never": never,
}
SIZES = {"hopper": 11, "walker2d": 17, "halfcheetah": 17}  # D
