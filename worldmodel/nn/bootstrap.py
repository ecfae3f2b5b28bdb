"""Which rows a member of an ensemble learns from, told by the rows themselves.

Batches come in any order and keep no record, so a resampling cannot be a list of indices. Instead a
hash of a row's bits decides how often each member's resampling holds it: whenever a row is seen, it
weighs the same for a member. Rows of equal content share their weights.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.data.windows import GOLDEN, mix

# P(weight <= k) of a Poisson distribution of mean 1: what resampling many rows with replacement
# comes to (Oza and Russell, Online Bagging, AISTATS 2001).
POISSON = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(9)]).astype(np.float32)


def hash_rows(row: jax.Array, salt: jax.Array | int = 0) -> jax.Array:
    """(...) uint32 of rows (..., D), float32 or int32: equal bits give equal numbers, and others
    with another `salt`, uint32.
    """
    bits = jax.lax.bitcast_convert_type(row, jnp.uint32)
    place = mix(jnp.arange(row.shape[-1], dtype=jnp.uint32) + jnp.uint32(GOLDEN))
    return mix(mix(bits ^ place).sum(-1, dtype=jnp.uint32) ^ mix(jnp.asarray(salt, jnp.uint32)))


def uniform(code: jax.Array, stream: jax.Array | int) -> jax.Array:
    """Numbers in [0, 1), as if drawn for each code (uint32) and stream; both are broadcast."""
    stream = mix(jnp.asarray(stream, jnp.uint32) + jnp.uint32(GOLDEN))
    return (mix(code ^ stream) >> 8).astype(jnp.float32) / 2**24


def poisson_weights(code: jax.Array, members: int) -> jax.Array:
    """(members, ...) float32: how often each member's resampling holds the rows (...)."""
    streams = 1 + jnp.arange(members).reshape(-1, *[1] * code.ndim)
    return jnp.searchsorted(POISSON, uniform(code, streams), side="right").astype(jnp.float32)


def held_out(code: jax.Array, share: float) -> jax.Array:
    """(...) bool: a share of the rows, the same ones for all members."""
    return uniform(code, 0) < share
