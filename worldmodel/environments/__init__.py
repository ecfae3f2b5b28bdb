"""The real environment of a dataset."""

from worldmodel.environments.real import (
    Observation,
    RealEnvironment,
    StepResult,
    check_environment,
    compatibility_error,
    episode_limit,
)

__all__ = [
    "Observation",
    "StepResult",
    "RealEnvironment",
    "check_environment",
    "episode_limit",
    "compatibility_error",
]
