"""What a dataset looks like to a model: names, shapes, actions and statistics of the training
split, stored as plain JSON.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ObservationSpec:
    """One named observation: a float32 vector (D,) or a uint8 image (height, width, channels).

    Statistics are those of the training split in the data's own units, one number per dimension;
    empty for images.

    Attributes:
        shape: shape of one observation
        dtype: `float32` or `uint8`
        mean: mean of each dimension
        std: standard deviation of each dimension; 1 for a constant one
        low: minimum of each dimension
        high: maximum of each dimension
        delta_rms: root mean square of the change over one step
        normalization: how models see a vector: `standardize` (by mean and standard deviation),
            `min_max` ([low, high] to [-1, 1]) or `none` (unchanged, then symlog)

    Example:
        >>> from worldmodel.data import ObservationSpec
        >>> spec = ObservationSpec((2,), "float32", low=(0.0, -1.0), high=(4.0, 1.0),
        ...                        mean=(1.0, 0.0), std=(1.0, 0.5), normalization="min_max")
        >>> shift, scale = spec.shift_and_scale()
        >>> shift.tolist(), scale.tolist()
        ([2.0, 0.0], [2.0, 1.0])
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
        """Returns float32 (D,) each: a model sees (x - shift) / scale.

        A constant dimension has scale 1.
        """
        if self.normalization == "none":
            return np.zeros(self.shape, np.float32), np.ones(self.shape, np.float32)
        if self.normalization == "standardize":
            shift, scale = np.asarray(self.mean), np.asarray(self.std)
        else:
            low, high = np.asarray(self.low), np.asarray(self.high)
            shift, scale = (low + high) / 2, (high - low) / 2
            # `std` is 1 in a constant dimension; elsewhere it is at most half the range.
            scale = np.where(scale < np.asarray(self.std) * (1 - 1e-3), 1.0, scale)
        return shift.astype(np.float32), scale.astype(np.float32)


@dataclass(frozen=True)
class ActionSpec:
    """The actions of a dataset: `size` classes, or vectors (size,) between `low` and `high`.

    Attributes:
        discrete: whether an action is one of `size` classes
        size: number of classes, or of dimensions A
        low: (A,) lower bounds in the data's own units; empty if discrete
        high: (A,) upper bounds, likewise

    Example:
        >>> import numpy as np
        >>> from worldmodel.data import ActionSpec
        >>> torque = ActionSpec(discrete=False, size=1, low=(-2.0,), high=(2.0,))
        >>> torque.normalize(np.array([[1.0]])).tolist()
        [[0.5]]
        >>> torque.denormalize(np.array([[3.0]])).tolist()
        [[2.0]]
    """

    discrete: bool
    size: int
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def normalize(self, action: Any) -> Any:
        """Maps actions (..., A) from the data's own units to [-1, 1], as models and policies see
        them; classes (...) become int32.

        Takes and returns a NumPy or a JAX array.
        """
        xp = np if not hasattr(action, "__array_namespace__") else action.__array_namespace__()
        if self.discrete:
            return xp.asarray(action, dtype=np.int32)
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        action = xp.asarray(action, dtype=np.float32)
        return ((action - low) / (high - low) * 2 - 1).astype(np.float32)

    def denormalize(self, action: Any) -> np.ndarray:
        """The inverse of `normalize`, clipped to the bounds."""
        if self.discrete:
            return np.asarray(action)
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        return low + (np.clip(np.asarray(action, np.float32), -1, 1) + 1) / 2 * (high - low)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> ActionSpec:
        """Restores what `dataclasses.asdict` made."""
        return cls(raw["discrete"], raw["size"], tuple(raw["low"]), tuple(raw["high"]))


@dataclass(frozen=True)
class DataSpec:
    """Everything a model needs to know about its data; stored as a run's `spec.json`.

    Attributes:
        observations: name -> spec
        action: kind, size and bounds of the actions
        has_reward: whether rewards were logged
        reward_mean_std: mean and standard deviation of the rewards of the training split

    Example:
        >>> from worldmodel.data import ActionSpec, DataSpec, ObservationSpec
        >>> spec = DataSpec({"image": ObservationSpec((64, 64, 3), "uint8")}, ActionSpec(True, 17))
        >>> DataSpec.from_json(spec.to_json()) == spec
        True
    """

    observations: dict[str, ObservationSpec]
    action: ActionSpec
    has_reward: bool = True
    reward_mean_std: tuple[float, float] = (0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """Returns plain dicts, lists and numbers."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> DataSpec:
        """Restores a spec. Raises KeyError, TypeError or ValueError if `raw` is none."""

        def tuples(values: dict[str, Any]) -> dict[str, Any]:
            return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}

        observations = {key: ObservationSpec(**tuples(o)) for key, o in raw["observations"].items()}
        if not all(isinstance(size, int) for o in observations.values() for size in o.shape):
            raise ValueError("a shape must hold integers")
        mean, std = raw.get("reward_mean_std", (0.0, 1.0))
        return cls(
            observations, ActionSpec.from_json(raw["action"]), raw["has_reward"], (mean, std)
        )
