"""Model-predictive path integral control: the next plan is the elites' mean, weighted by return
(TD-MPC2, arXiv 2310.16828, eq. 6).

There the weight is exp(temperature x return). Here returns are in standard deviations over the
elites, so that one temperature suits rewards of any scale.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from worldmodel.config import PlannerOptions
from worldmodel.planning.elites import select_elites


def mppi(returns: jax.Array, options: PlannerOptions) -> jax.Array:
    """Weights (B, N) with sum 1 of candidates with returns R (B, N): proportional to
    exp(R / (temperature x deviation)) for the elites.
    """
    elite = select_elites(returns, options.num_elites)
    below = returns - returns.max(-1, keepdims=True)
    deviation = below.std(-1, where=elite, keepdims=True)
    scale = jnp.maximum(options.temperature * deviation, jnp.finfo(returns.dtype).tiny)
    return jax.nn.softmax(below / scale, -1, where=elite)
