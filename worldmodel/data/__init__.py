"""Datasets: any format becomes `Trajectories`, checked and summarized. Nothing here imports JAX."""

from worldmodel.data.card import build_card
from worldmodel.data.card_tables import render
from worldmodel.data.episodes import Episode, stack_episodes
from worldmodel.data.observations import ObservationChoice
from worldmodel.data.readers import load
from worldmodel.data.rlds_writer import write_rlds
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.trajectories import Trajectories, split
from worldmodel.data.validation import validate

__all__ = [
    "ActionSpec",
    "DataSpec",
    "Episode",
    "ObservationChoice",
    "ObservationSpec",
    "Trajectories",
    "build_card",
    "load",
    "render",
    "split",
    "stack_episodes",
    "validate",
    "write_rlds",
]
