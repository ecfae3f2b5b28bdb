"""What a dataset looks like to a model: names, shapes, actions and statistics of the training
split, stored as plain JSON.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.config.groups import NORMALIZATIONS
from worldmodel.data.action_spec import LARGEST, ActionSpec, positive_integers
from worldmodel.data.images import ImageConversion
from worldmodel.data.offsets import add_offset, subtract_offset
from worldmodel.errors import DataError

__all__ = ["LARGEST", "ActionSpec", "DataSpec", "ObservationSpec"]


FAR = 100  # ranges of the data, within which all observations of a model are


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
        conversion: how images were made of what was logged, and so of what an environment gives;
            None: they are logged as they are
        offset: what is taken off each dimension of a vector, in float64, before it becomes float32;
            empty: nothing. The statistics are those of what is left

    Raises:
        DataError: a field of another type or size

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
    conversion: ImageConversion | None = None
    offset: tuple[float, ...] = ()

    def __post_init__(self):
        vector, image = (self.dtype, len(self.shape)) == ("float32", 1), self.dtype == "uint8"
        if not (vector or image and len(self.shape) == 3) or not positive_integers(self.shape):
            raise DataError(
                f"observation is {self.dtype} of shape {self.shape}; accepted: float32 (D,) or "
                "uint8 (height, width, channels)"
            )
        for name in ("mean", "std", "low", "high", "delta_rms", "offset"):
            if len(getattr(self, name)) not in (0, self.shape[0] if vector else 0):
                raise DataError(
                    f"{name} has {len(getattr(self, name))} numbers; accepted: one per dimension"
                )
        if self.normalization not in NORMALIZATIONS:
            raise DataError(
                f"normalization is {self.normalization!r}; accepted: {', '.join(NORMALIZATIONS)}"
            )
        if self.normalization != "none" and not (self.mean and self.std and self.low and self.high):
            raise DataError(f"normalization {self.normalization} needs mean, std, low and high")

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3

    def from_raw(self, values: Any) -> np.ndarray:
        """Observations (..., shape) in the data's own units as models see them, in `dtype`."""
        return subtract_offset(values, self.offset) if self.offset else np.asarray(values)

    def lacks_offset(self, values: Any) -> bool:
        """Whether observations (..., D) that are not empty seem to be less their offset already, as
        those of `Trajectories.observations` are.
        """
        if not (self.offset and self.low and np.size(values)):
            return False
        low, high = np.asarray(self.low), np.asarray(self.high)
        room = FAR * (high - low)
        first = np.asarray(values, np.float64).reshape(-1, len(low))[0]
        near, raw = ((low - room <= x) & (x <= high + room) for x in (first, first - self.offset))
        return bool((near & ~raw)[np.asarray(self.offset) != 0].all())

    def to_raw(self, values: Any) -> np.ndarray:
        """The inverse of `from_raw`; float64 where there is an offset."""
        return add_offset(values, self.offset)

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
class DataSpec:
    """Everything a model needs to know about its data; stored as a run's `spec.json`.

    Attributes:
        observations: name -> spec
        action: kind, size and bounds of the actions
        has_reward: whether rewards were logged
        reward_mean_std: mean and standard deviation of the rewards of the training split

    Raises:
        DataError: no observations, or one that is no ObservationSpec

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

    def __post_init__(self):
        named = isinstance(self.observations, dict) and all(
            isinstance(key, str) and isinstance(value, ObservationSpec)
            for key, value in self.observations.items()
        )
        if not (named and self.observations and isinstance(self.action, ActionSpec)):
            raise DataError(
                "a DataSpec needs observations, a dict of ObservationSpec by name, and action, an "
                "ActionSpec"
            )
        if self.action.is_open:
            raise DataError(
                f"action has low {list(self.action.low)}, high {list(self.action.high)}; accepted: "
                "finite bounds"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns plain dicts, lists and numbers."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> DataSpec:
        """Restores a spec. Raises KeyError, TypeError or ValueError if `raw` is none."""

        def tuples(values: dict[str, Any]) -> dict[str, Any]:
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            if values.get("conversion"):
                values["conversion"] = ImageConversion.from_json(values["conversion"])
            return values

        mean, std = raw.get("reward_mean_std", (0.0, 1.0))
        try:
            observations = {k: ObservationSpec(**tuples(o)) for k, o in raw["observations"].items()}
            action = ActionSpec.from_json(raw["action"])
            return cls(observations, action, raw["has_reward"], (mean, std))
        except DataError as error:
            raise ValueError(str(error)) from None
