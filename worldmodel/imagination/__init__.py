"""Imagined experience."""

from worldmodel.imagination.rollout import Actor, Rollout, imagine, time_first

__all__ = ["Actor", "Rollout", "imagine", "time_first"]
