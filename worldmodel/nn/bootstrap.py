"""Bootstrap weights and held-out data of an ensemble, as functions of the content of transitions.

Batches come in any order and carry no indices. A hash of the bits of a transition therefore
determines its weight in each member's bootstrap sample, which is the same every time the transition
is drawn. Transitions of equal content share their weights.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.data.windows import GOLDEN, mix

# P(weight <= k) of a Poisson distribution of mean 1, the limit of sampling with replacement (Oza
# and Russell, Online Bagging, AISTATS 2001).
POISSON = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(9)]).astype(np.float32)


def hash_vectors(x: jax.Array, salt: jax.Array | int = 0) -> jax.Array:
    """Hashes (...) uint32 of the bits of vectors (..., D), float32 or int32, and of `salt`."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    place = mix(jnp.arange(x.shape[-1], dtype=jnp.uint32) + jnp.uint32(GOLDEN))
    return mix(mix(bits ^ place).sum(-1, dtype=jnp.uint32) ^ mix(jnp.asarray(salt, jnp.uint32)))


def uniform(code: jax.Array, stream: jax.Array | int) -> jax.Array:
    """Pseudorandom numbers in [0, 1) for each code (uint32) and stream, which broadcast."""
    stream = mix(jnp.asarray(stream, jnp.uint32) + jnp.uint32(GOLDEN))
    return (mix(code ^ stream) >> 8).astype(jnp.float32) / 2**24


def poisson_weights(code: jax.Array, members: int) -> jax.Array:
    """(members, ...) float32: how often each member's bootstrap sample contains the codes (...)."""
    streams = 1 + jnp.arange(members).reshape(-1, *[1] * code.ndim)
    return jnp.searchsorted(POISSON, uniform(code, streams), side="right").astype(jnp.float32)


def held_out(code: jax.Array, share: float) -> jax.Array:
    """(...) bool: the share of the codes that is held out, the same for all members."""
    return uniform(code, 0) < share
