"""Every option of the trainer, as typed dataclasses. This is the only schema.

`command_line.py` registers them with Hydra, `checks.py` compares values with the limits given
here, `help_text.py` prints them. Nothing here imports JAX: a mistake is reported before anything
slow starts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from omegaconf import MISSING

from worldmodel.config.data import (
    NORMALIZATIONS,
    DataOptions,
    GymnasiumData,
    HDF5Data,
    MinariData,
    NPZData,
    RecordsData,
    TableData,
    TFDSData,
)
from worldmodel.config.decision import DecisionOptions
from worldmodel.config.models import (
    DENOISED_PRESETS,
    ENCODED_PRESETS,
    ENSEMBLE_PRESETS,
    RSSM_PRESETS,
    DenoisedOptions,
    DiffusionOptions,
    EncodedOptions,
    EnsembleOptions,
    GRUOptions,
    KoopmanOptions,
    MLPOptions,
    ModelOptions,
    ObservedOptions,
    OracleOptions,
    RSSMOptions,
    TrajectoryDiffusionOptions,
)
from worldmodel.config.option import option
from worldmodel.config.planning import PlannerOptions
from worldmodel.config.policies import (
    UNCERTAINTIES,
    ActorCriticOptions,
    BCOptions,
    COMBOOptions,
    IQLOptions,
    MOBILEOptions,
    NoPolicy,
    OfflineOptions,
    PolicyOptions,
    RAMBOOptions,
    ReBRACOptions,
    SACOptions,
    TD3BCOptions,
)
from worldmodel.config.training import (
    DistributedOptions,
    EvaluationOptions,
    LoggingOptions,
    StageOptions,
    TrainingOptions,
)

__all__ = [
    "ActorCriticOptions",
    "BCOptions",
    "COMBOOptions",
    "Config",
    "DENOISED_PRESETS",
    "DataOptions",
    "DecisionOptions",
    "DenoisedOptions",
    "DiffusionOptions",
    "DistributedOptions",
    "ENCODED_PRESETS",
    "ENSEMBLE_PRESETS",
    "EncodedOptions",
    "EnsembleOptions",
    "EvalConfig",
    "EvaluationOptions",
    "GRUOptions",
    "GymnasiumData",
    "HDF5Data",
    "IQLOptions",
    "KoopmanOptions",
    "LoggingOptions",
    "MLPOptions",
    "MOST_COMPARED",
    "MOBILEOptions",
    "MinariData",
    "ModelOptions",
    "NORMALIZATIONS",
    "NPZData",
    "NoPolicy",
    "OfflineOptions",
    "ObservedOptions",
    "PlannerOptions",
    "OracleOptions",
    "PolicyOptions",
    "RAMBOOptions",
    "RSSMOptions",
    "RSSM_PRESETS",
    "RecordsData",
    "ReBRACOptions",
    "SACOptions",
    "SCHEMAS",
    "StageOptions",
    "TD3BCOptions",
    "TFDSData",
    "TableData",
    "TrainingOptions",
    "TrajectoryDiffusionOptions",
    "UNCERTAINTIES",
    "option",
]

MOST_COMPARED = 6  # runs that colours tell apart


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
    folder: str | None = option(
        None, "where a comparison goes (none: .compared/ beside the first run)"
    )
    checkpoint: str = option("last", "checkpoint to judge: last, best or a step")
    evaluation: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)


# Group -> schema name -> dataclass. A file configs/GROUP/CHOICE.yaml names the schema it starts
# from; several choices may share one, as data=pendulum and data=gymnasium do.
SCHEMAS: dict[str, dict[str, type]] = {
    "data": {
        "tfds": TFDSData,
        "hdf5": HDF5Data,
        "npz": NPZData,
        "minari": MinariData,
        "table": TableData,
        "records": RecordsData,
        "gymnasium": GymnasiumData,
    },
    "model": {
        "rssm": RSSMOptions,
        "koopman": KoopmanOptions,
        "gru": GRUOptions,
        "mlp": MLPOptions,
        "diffusion": DiffusionOptions,
        "trajectory_diffusion": TrajectoryDiffusionOptions,
        "observed": ObservedOptions,
        "ensemble": EnsembleOptions,
        "oracle": OracleOptions,
    },
    "policy": {
        "none": NoPolicy,
        "actor_critic": ActorCriticOptions,
        "bc": BCOptions,
        "td3_bc": TD3BCOptions,
        "rebrac": ReBRACOptions,
        "iql": IQLOptions,
        "sac_n": SACOptions,
        "combo": COMBOOptions,
        "rambo": RAMBOOptions,
        "mobile": MOBILEOptions,
    },
    "training": {"default": TrainingOptions},
    "logging": {"default": LoggingOptions},
    "evaluation": {"default": EvaluationOptions},
}
