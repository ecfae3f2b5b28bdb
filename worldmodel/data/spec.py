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

    `mean`, `std`, `low`, `high` and `delta_rms` (root mean square of what a step changes) are those of
    the training split, one number a dimension (empty for images). `normalization` says how models see a
    vector: `standardize` by mean and standard deviation, `min_max` from [low, high] to [-1, 1], or
    `none`: as it is, through symlog.
    """

    shape: tuple[int, ...]
    dtype: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    delta_rms: tuple[float, ...] = ()
    normalization: str = "none"

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3

    def shift_and_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """(D,) float32 each: a model sees (x - shift) / scale. A constant column has scale 1."""
        if self.normalization == "none":
            return np.zeros(self.shape, np.float32), np.ones(self.shape, np.float32)
        if self.normalization == "standardize":
            shift, scale = np.asarray(self.mean), np.asarray(self.std)
        else:
            low, high = np.asarray(self.low), np.asarray(self.high)
            shift, scale = (low + high) / 2, (high - low) / 2
            # `std` is 1 where the column is constant; a real one is no wider than half the range.
            scale = np.where(scale < np.asarray(self.std) * (1 - 1e-3), 1.0, scale)
        return shift.astype(np.float32), scale.astype(np.float32)


@dataclass(frozen=True)
class ActionSpec:
    """Actions: `size` classes if discrete, else vectors (size,) between `low` and `high`."""

    discrete: bool
    size: int
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def normalize(self, action: np.ndarray) -> np.ndarray:
        """Raw continuous actions (..., A) to [-1, 1], the range in which models and policies see
        them. JAX's arrays give JAX's, else numpy's.
        """
        xp = np if not hasattr(action, "__array_namespace__") else action.__array_namespace__()
        if self.discrete:
            return xp.asarray(action, dtype=np.int32)
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        action = xp.asarray(action, dtype=np.float32)
        return ((action - low) / (high - low) * 2 - 1).astype(np.float32)

    def denormalize(self, action: np.ndarray) -> np.ndarray:
        """The inverse of `normalize`; clips to the bounds, as an environment would."""
        if self.discrete:
            return np.asarray(action)
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        return low + (np.clip(np.asarray(action, np.float32), -1, 1) + 1) / 2 * (high - low)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> ActionSpec:
        return cls(raw["discrete"], raw["size"], tuple(raw["low"]), tuple(raw["high"]))


@dataclass(frozen=True)
class DataSpec:
    """All that a model needs to know of its data. `reward_mean_std`: mean and standard deviation of the
    training split.
    """

    observations: dict[str, ObservationSpec]
    action: ActionSpec
    has_reward: bool = True
    reward_mean_std: tuple[float, float] = (0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> DataSpec:
        def tuples(values: dict[str, Any]) -> dict[str, Any]:
            return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}

        observations = {key: ObservationSpec(**tuples(o)) for key, o in raw["observations"].items()}
        if not all(isinstance(size, int) for o in observations.values() for size in o.shape):
            raise ValueError("a shape holds something else than whole numbers")
        action = ActionSpec.from_json(raw["action"])
        return cls(
            observations, action, raw["has_reward"], tuple(raw.get("reward_mean_std", (0.0, 1.0)))
        )
