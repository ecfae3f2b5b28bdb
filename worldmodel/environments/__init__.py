"""The real environment behind a set of logs."""

from worldmodel.environments.real import (
    Observation,
    Outcome,
    RealEnvironment,
    check,
    episode_limit,
    fault,
)

__all__ = ["Observation", "Outcome", "RealEnvironment", "check", "episode_limit", "fault"]
