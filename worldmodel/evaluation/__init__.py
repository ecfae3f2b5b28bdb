"""Evaluation of a model and a policy, with n and an interval for every number, and its report."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Bootstrap": "statistics",
    "Context": "section",
    "Estimate": "statistics",
    "Provenance": "results",
    "Results": "results",
    "Section": "section",
    "evaluate": "evaluator",
    "evaluate_loaded": "evaluator",
    "model_policy": "returns",
    "open_loop_errors": "sampled_rollouts",
    "random_policy": "returns",
    "render": "evaluator",
    "run_episodes": "returns",
    "write": "evaluator",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports on first use: the bootstrap needs no JAX."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
