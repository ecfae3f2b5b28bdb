"""How good a model and a policy are, with n and interval: prediction, returns, and the report."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Bootstrap": "statistics",
    "aggregate": "aggregates",
    "performance_profile": "aggregates",
    "probability_of_improvement": "aggregates",
    "Estimate": "statistics",
    "Provenance": "results",
    "Results": "results",
    "evaluate": "evaluator",
    "evaluate_loaded": "evaluator",
    "evaluate_run": "evaluator",
    "model_policy": "returns",
    "evaluate_open_loop": "prediction",
    "run_episodes": "returns",
    "random_policy": "returns",
    "render": "evaluator",
    "open_loop_errors": "prediction",
    "write": "evaluator",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Imported when first used: the bootstrap needs no JAX."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
