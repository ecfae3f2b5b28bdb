"""Imagined experience."""

from worldmodel.imagination.rollout import Actor, Rollout, imagine, time_first
from worldmodel.imagination.uncertainty import (
    UNCERTAINTIES,
    penalized,
    truncated,
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
    "with_uncertainty",
]
