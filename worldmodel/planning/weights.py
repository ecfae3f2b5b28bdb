"""How planners weight candidates by their returns; the next plan is the weighted mean."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from worldmodel.config import PlannerOptions

Weigh = Callable[[jax.Array, PlannerOptions], jax.Array]  # returns (B, N) -> weights of sum 1


def cem(returns: jax.Array, options: PlannerOptions) -> jax.Array:
    """The cross-entropy method: equal weights of the elites (PETS, arXiv 1805.12114, sec. 5)."""
    elite = select_elites(returns, options.num_elites)
    return elite / elite.sum(-1, keepdims=True)


def mppi(returns: jax.Array, options: PlannerOptions) -> jax.Array:
    """Model-predictive path integral control: weights of the elites proportional to
    exp(R / (temperature x deviation)) (TD-MPC2, arXiv 2310.16828, eq. 6).

    There the weight is exp(temperature x R). Here returns are in standard deviations over the
    elites, so that one temperature suits rewards of any scale.
    """
    elite = select_elites(returns, options.num_elites)
    below = returns - returns.max(-1, keepdims=True)
    deviation = below.std(-1, where=elite, keepdims=True)
    scale = jnp.maximum(options.temperature * deviation, jnp.finfo(returns.dtype).tiny)
    return jax.nn.softmax(below / scale, -1, where=elite)


PLANNERS: dict[str, Weigh] = {"cem": cem, "mppi": mppi}  # by `PlannerOptions.kind`


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
