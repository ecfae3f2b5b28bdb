"""Imagined experience."""

from worldmodel.imagination.rollout import Actor, Rollout, imagine

__all__ = ["Actor", "Rollout", "imagine"]
