"""The cross-entropy method: the next plan is the elites' mean (PETS, arXiv 1805.12114, sec. 5)."""

from __future__ import annotations

import jax

from worldmodel.config import PlannerOptions
from worldmodel.planning.elites import select_elites


def cem(returns: jax.Array, options: PlannerOptions) -> jax.Array:
    """Weights (B, N) with sum 1 of candidates with returns (B, N): equal for the elites."""
    elite = select_elites(returns, options.num_elites)
    return elite / elite.sum(-1, keepdims=True)
