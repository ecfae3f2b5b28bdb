"""Every option of the trainer, as typed dataclasses. This is the only schema.

Options of a family, an algorithm or a reader stand beside it, in its file, and register there
(`registry.py`); here is what all have in common, and what belongs to none of them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from omegaconf import MISSING

from worldmodel.config.groups import (
    NORMALIZATIONS,
    DataOptions,
    ModelOptions,
    NoPolicy,
    PolicyOptions,
    ema_decay_option,
    feedthrough,
)
from worldmodel.config.option import option
from worldmodel.config.planning import PlannerOptions
from worldmodel.config.policy_ranking import PolicyRankingOptions
from worldmodel.config.training import (
    DistributedOptions,
    EvaluationOptions,
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
    "StageOptions",
    "TrainingOptions",
    "ema_decay_option",
    "feedthrough",
    "option",
]

MAX_COMPARED_RUNS = 6  # runs that colours tell apart


@dataclass
class Config:
    """A whole run."""

    name: str = option(
        "${data.name}-${model.name}-${policy.name}-${seed}", "the run directory is runs_dir/name"
    )
    seed: int = option(
        0, "seed of initial parameters, batches and all noise in training", low=0, high=2**31 - 1
    )
    runs_dir: str = option("runs", "folder of run directories")
    fresh: bool = option(False, "start over: moves an older run of this name aside")
    data: DataOptions = MISSING
    model: ModelOptions = MISSING
    policy: PolicyOptions = MISSING
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    logging: LoggingOptions = dataclasses.field(default_factory=LoggingOptions)
    evaluation: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)


@dataclass
class EvalConfig:
    """What eval.py accepts; evaluation options that are not given come from the run."""

    run: str | None = option(None, "run directory to judge, such as runs/NAME")
    runs: list[str] | None = option(None, "or several, to be compared: [runs/A,runs/B]")
    output_dir: str | None = option(
        None, "where a comparison goes (none: .compared/ beside the first run)"
    )
    checkpoint: str = option("last", "checkpoint to judge: last, best or a step")
    evaluation: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)
