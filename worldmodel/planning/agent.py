"""A trained model with what acts in it."""

from __future__ import annotations

from typing import NamedTuple

from flax import nnx

from worldmodel.models.interface import WorldModel
from worldmodel.planning.planner import Value


class Agent(NamedTuple):
    """A model, a policy over its features and the value of its critic, of one training seed."""

    model: WorldModel
    policy: nnx.Module | None
    value: Value | None
