"""Imagined rollouts, and transforms of them: `Rollout -> Rollout`."""

from worldmodel.imagination.rollout import Actor, Rollout, imagine, time_major
from worldmodel.imagination.uncertainty import UNCERTAINTIES, penalize, truncate, with_uncertainty

__all__ = [
    "UNCERTAINTIES",
    "Actor",
    "Rollout",
    "imagine",
    "penalize",
    "time_major",
    "truncate",
    "with_uncertainty",
]
