"""Selection of candidates by their returns."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def select_elites(returns: jax.Array, count: int) -> jax.Array:
    """(B, N) bool: the `count` candidates with the highest returns, including ties of the last."""
    lowest = jax.lax.top_k(returns, count)[0][..., -1:]
    return returns >= lowest


def replace_nonfinite(returns: jax.Array) -> jax.Array:
    """Returns (B, N) with nonfinite ones replaced by the lowest finite one (0 if there is none):
    candidates on which the model diverges must not be selected.
    """
    finite = jnp.isfinite(returns)
    lowest = jnp.where(finite, returns, jnp.inf).min(-1, keepdims=True)
    return jnp.where(finite, returns, jnp.where(jnp.isfinite(lowest), lowest, 0.0))
