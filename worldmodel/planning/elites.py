"""The best of many candidates."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def select_elites(returns: jax.Array, count: int) -> jax.Array:
    """(B, N) bool: the `count` candidates of the highest returns, and those equal to the last."""
    lowest = jax.lax.top_k(returns, count)[0][..., -1:]
    return returns >= lowest


def replace_nonfinite(returns: jax.Array) -> jax.Array:
    """(B, N) returns, in which the worst finite one stands for those that are not finite (0 if
    none is): a candidate on which the model diverges must not win.
    """
    known = jnp.isfinite(returns)
    worst = jnp.where(known, returns, jnp.inf).min(-1, keepdims=True)
    return jnp.where(known, returns, jnp.where(jnp.isfinite(worst), worst, 0.0))
