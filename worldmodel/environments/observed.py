"""From what an environment shows to the observations of a dataset, by their specs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gymnasium import spaces

from worldmodel.data.spaces import Part
from worldmodel.data.spec import ObservationSpec

Fit = Callable[[np.ndarray], np.ndarray]  # from a converted part to the observation of a dataset


class MismatchError(Exception):
    """What the environment has, and what the dataset has in its place."""

    def __init__(self, found: str, logged: str):
        super().__init__(f"{found}, the dataset has {logged}")


def fit_observation(part: Part, logged: ObservationSpec) -> Fit:
    """Raises MismatchError where shape or type differ, and no conversion is certain."""
    if logged.is_image:
        return _image(part, logged)
    if isinstance(part.space, spaces.Discrete | spaces.MultiDiscrete):
        return _classes(part, logged)
    shape = part.space.shape or ()
    if int(np.prod(shape)) != logged.shape[0]:
        raise MismatchError(f"its {part.name!r} has shape {shape}", f"shape {logged.shape}")
    return lambda value: value.astype(np.float32).reshape(-1)


def _classes(part: Part, logged: ObservationSpec) -> Fit:
    """One-hot vectors, or the classes as numbers where they were logged so."""
    space = part.space
    assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    sizes = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec).reshape(-1)
    if logged.shape == (int(sizes.sum()),):
        return lambda value: value
    if logged.shape != (len(sizes),):
        raise MismatchError(f"its {part.name!r} is {space}", f"vectors of size {logged.shape[0]}")
    starts = np.broadcast_to(space.start, np.shape(space.start) or (1,)).reshape(-1)
    ends = np.cumsum(sizes)[:-1]
    return lambda value: np.array(
        [start + hot.argmax() for start, hot in zip(starts, np.split(value, ends), strict=True)],
        np.float32,
    )


def _image(part: Part, logged: ObservationSpec) -> Fit:
    space, shape = part.space, part.space.shape or ()
    if not isinstance(space, spaces.Box) or (*shape, 1)[:3] != logged.shape:
        raise MismatchError(f"its {part.name!r} is {space}", f"images of shape {logged.shape}")
    if space.dtype == np.uint8:
        return lambda value: value.reshape(logged.shape)
    low, high = float(space.low.min()), float(space.high.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise MismatchError(
            f"its {part.name!r} is {space.dtype} without bounds", "uint8 images from 0 to 255"
        )

    def image(value: np.ndarray) -> np.ndarray:
        scaled = (value.astype(np.float64) - low) * (255 / (high - low))
        return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8).reshape(logged.shape)

    return image
