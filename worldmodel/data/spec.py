"""What a data set looks like to a model: names, shapes, actions and training statistics. Plain JSON
on disk.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ObservationSpec:
    """One named observation: a float vector of shape (D,), or a uint8 image of shape (height,
    width, channels).

    `mean` and `std` are those of the training split, one number a dimension (empty for images).
    """

    shape: tuple[int, ...]
    dtype: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3


@dataclass(frozen=True)
class ActionSpec:
    """Actions: `size` classes if discrete, else vectors (size,) between `low` and `high`."""

    discrete: bool
    size: int
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def normalize(self, action: np.ndarray) -> np.ndarray:
        """Raw continuous actions (..., A) to [-1, 1], the range in which models and policies see
        them.
        """
        if self.discrete:
            return np.asarray(action, np.int32)
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        return ((np.asarray(action, np.float32) - low) / (high - low) * 2 - 1).astype(np.float32)

    def denormalize(self, action: np.ndarray) -> np.ndarray:
        """The inverse of `normalize`; clips to the bounds, as an environment would."""
        if self.discrete:
            return np.asarray(action)
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        return low + (np.clip(np.asarray(action, np.float32), -1, 1) + 1) / 2 * (high - low)


@dataclass(frozen=True)
class DataSpec:
    """All that a model needs to know of its data."""

    observations: dict[str, ObservationSpec]
    action: ActionSpec
    has_reward: bool = True

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> DataSpec:
        observations = {
            key: ObservationSpec(tuple(o["shape"]), o["dtype"], tuple(o["mean"]), tuple(o["std"]))
            for key, o in raw["observations"].items()
        }
        a = raw["action"]
        action = ActionSpec(a["discrete"], a["size"], tuple(a["low"]), tuple(a["high"]))
        return cls(observations, action, raw["has_reward"])
