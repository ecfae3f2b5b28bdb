"""Every option of the trainer, as typed dataclasses: the only schema.

The options of a family, an algorithm or a reader are in its own file, which registers them
(`registry.py`); this package has their base classes, and all other options.
"""

from __future__ import annotations

from worldmodel.config.evaluation import EvaluationOptions, PlannerOptions, PolicyRankingOptions
from worldmodel.config.groups import (
    NORMALIZATIONS,
    ROLES,
    DataOptions,
    ModelOptions,
    NoPolicy,
    PolicyOptions,
    ema_decay_option,
    feedthrough,
)
from worldmodel.config.option import option
from worldmodel.config.schema import MAX_COMPARED_RUNS, Config, EvalConfig
from worldmodel.config.training import (
    DistributedOptions,
    LoggingOptions,
    StageOptions,
    TrainingOptions,
)

__all__ = [
    "Config",
    "DataOptions",
    "PolicyRankingOptions",
    "DistributedOptions",
    "EvalConfig",
    "EvaluationOptions",
    "LoggingOptions",
    "MAX_COMPARED_RUNS",
    "ModelOptions",
    "NORMALIZATIONS",
    "NoPolicy",
    "PlannerOptions",
    "PolicyOptions",
    "ROLES",
    "StageOptions",
    "TrainingOptions",
    "ema_decay_option",
    "feedthrough",
    "option",
]
