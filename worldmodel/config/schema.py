"""The whole configuration of train.py and of eval.py, made of groups of options."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from omegaconf import MISSING

from worldmodel.config.evaluation import EvaluationOptions
from worldmodel.config.groups import DataOptions, ModelOptions, PolicyOptions
from worldmodel.config.option import allow_code_option, option
from worldmodel.config.training import LoggingOptions, TrainingOptions

MAX_COMPARED_RUNS = 6  # as many as colors distinguish


@dataclass
class Config:
    """The configuration of a run."""

    name: str = option(
        "${data.name}-${model.name}-${policy.name}-${seed}",
        "name of the run; its directory is runs_dir/name",
    )
    seed: int = option(
        0, "seed of initial parameters, batches and all noise in training", low=0, high=2**31 - 1
    )
    runs_dir: str = option("runs", "folder of the run directories")
    fresh: bool = option(False, "start over, and move an existing run of this name aside")
    data: DataOptions = MISSING
    model: ModelOptions = MISSING
    policy: PolicyOptions = MISSING
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    logging: LoggingOptions = dataclasses.field(default_factory=LoggingOptions)
    evaluation: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)


@dataclass
class EvalConfig:
    """The options of eval.py; evaluation options that are not given come from the run."""

    run: str | None = option(None, "run directory to evaluate, such as runs/NAME")
    runs: list[str] | None = option(None, "run directories to compare, such as runs/A,runs/B")
    output_dir: str | None = option(
        None, "folder of the comparison (null: .compared/ in the folder of the first run)"
    )
    checkpoint: str = option("last", "checkpoint: last, best or a step")
    allow_code: bool = allow_code_option()
    evaluation: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)
