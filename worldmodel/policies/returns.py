"""Returns and their running scale."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def lambda_returns(
    rewards: jax.Array, discounts: jax.Array, values: jax.Array, lambda_: jax.Array | float
) -> jax.Array:
    """R_t = r_t + d_t ((1 - l_t) v_{t+1} + l_t R_{t+1}), with R_H = v_H (DreamerV3, eq. 7).

    Arrays are time-major. rewards, discounts: (H, B), of the arrival at state t+1; values:
    (H+1, B); lambda_: a number or (H, B). Returns (H, B).
    """
    if rewards.shape != discounts.shape or values.shape[0] != rewards.shape[0] + 1:
        raise ValueError(
            f"lambda_returns: the shapes of rewards {rewards.shape}, discounts {discounts.shape} "
            f"and values {values.shape} do not fit"
        )
    lambda_ = jnp.broadcast_to(lambda_, rewards.shape)
    one_step = rewards + discounts * (1 - lambda_) * values[1:]

    def back(
        following: jax.Array, inputs: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        one_step, weight = inputs
        current = one_step + weight * following
        return current, current

    inputs = (one_step, discounts * lambda_)
    return jax.lax.scan(back, values[-1], inputs, reverse=True)[1]


def update_scale(
    statistics: dict[str, jax.Array], returns: jax.Array, rate: float
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Tracks the range P95 - P5 of returns; returns the new statistics and S = max(1, range)
    (DreamerV3, eq. 12).
    """
    low, high = jnp.percentile(returns, jnp.array([5.0, 95.0]))
    spread = (1 - rate) * statistics["return_range"] + rate * (high - low)
    return {"return_range": spread}, jnp.maximum(1.0, spread)
