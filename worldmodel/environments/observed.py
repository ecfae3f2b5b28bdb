"""From what an environment shows to the observations of a dataset, by their specs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from gymnasium import spaces

from worldmodel.data.image_layouts import recognized_layout
from worldmodel.data.images import ImageConversion
from worldmodel.data.spaces import Part, without_ones
from worldmodel.data.spec import ObservationSpec
from worldmodel.errors import DataError

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
    return lambda value: logged.from_raw(value.reshape(-1)).astype(np.float32)


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
    conversion = _conversion(part, logged)
    shape = conversion.shape
    return lambda value: conversion(value.reshape(shape))


def _conversion(part: Part, logged: ObservationSpec) -> ImageConversion:
    """What was done to the images of the logs, from the layout and range of the environment's."""
    space, recorded = part.space, logged.conversion
    recorded = recorded or ImageConversion(logged.shape, "uint8", "hwc")
    shape, dtype = space.shape or (), np.dtype(space.dtype)
    layout = recorded.layout
    if without_ones(shape) == without_ones(recorded.shape):
        shape = recorded.shape
    else:
        with contextlib.suppress(DataError):  # that it may be numbers
            layout = recognized_layout(shape, dtype) or layout
    if not isinstance(space, spaces.Box) or len(layout) != len(shape):
        raise MismatchError(f"its {part.name!r} is {space}", f"images of shape {logged.shape}")
    conversion = ImageConversion(shape, str(dtype), layout, False, *_range(part, recorded))
    conversion = replace(conversion, size=recorded.size, method=recorded.method)
    if (found := conversion.image_shape(shape)) != logged.shape:
        raise MismatchError(f"its {part.name!r} has shape {found}", f"shape {logged.shape}")
    return conversion


def _range(part: Part, recorded: ImageConversion) -> tuple[float, float]:
    """Black and white: what the space declares, or what the logs have where that is narrower."""
    space, ranges = part.space, []
    assert isinstance(space, spaces.Box)
    if (space.dtype == np.uint8) == (recorded.dtype == "uint8"):
        ranges.append((recorded.black, recorded.white))
    low, high = float(space.low.min()), float(space.high.max())
    if np.isfinite(high - low) and low < high and space.dtype != np.uint8:
        ranges.append((low, high))
    if space.dtype == np.uint8 and not ranges:
        ranges.append((0.0, 255.0))
    if not ranges:
        raise MismatchError(
            f"its {part.name!r} is {space.dtype} without bounds", "uint8 images from 0 to 255"
        )
    return min(ranges, key=lambda ends: abs(ends[1] - ends[0]))
