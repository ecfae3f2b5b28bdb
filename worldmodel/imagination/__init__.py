"""Imagined experience."""

from worldmodel.imagination.rollout import Actor, Rollout, imagine, time_first
from worldmodel.imagination.uncertainty import (
    UNCERTAINTIES,
    penalized,
    truncated,
    uncertainty_of_logs,
    with_uncertainty,
)

__all__ = [
    "UNCERTAINTIES",
    "Actor",
    "Rollout",
    "imagine",
    "penalized",
    "time_first",
    "truncated",
    "uncertainty_of_logs",
    "with_uncertainty",
]
