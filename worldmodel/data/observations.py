"""From the observations that a reader yields to those that are stacked: those chosen, without text
and objects, with images as uint8 (height, width, channels).

Runs once for every format, between its reader and `stack_episodes`. What an observation is, is
decided by the first episode, and holds for all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.config import DataOptions
from worldmodel.config.groups import LAYOUTS, VECTOR
from worldmodel.data import image_layouts
from worldmodel.data.images import METHODS, ImageConversion, decode, is_encoded
from worldmodel.errors import DataError, did_you_mean, printable, require

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ObservationChoice:
    """Which observations of a dataset are read, and what is told of its images.

    Attributes:
        names: those that are read, in this order; None: all of numbers and images
        layouts: name -> order of the axes of an image, such as `chw` (h: height, w: width, c:
            channels, k: frames of a stack), or `vector` for numbers
        ranges: name -> numbers of black and white, for images that are not uint8
        size: (height, width) to which images are resized, or None
        method: how: `area`, `bilinear` or `nearest`

    Example:
        >>> import numpy as np
        >>> from worldmodel.data import Episode, ObservationChoice, stack_episodes
        >>> frames = np.zeros((4, 96, 96, 3), np.float32)
        >>> episode = Episode({"camera": frames, "text": ["go"] * 4}, np.ones((3, 1)), None, False)
        >>> choice = ObservationChoice(("camera",), ranges={"camera": (0, 255)}, size=(64, 64))
        >>> dataset = stack_episodes([episode], "one flight", choice=choice)
        >>> dataset.observations["camera"].shape
        (4, 64, 64, 3)
    """

    names: tuple[str, ...] | None = None
    layouts: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    method: str = "area"

    def __post_init__(self):
        for key, layout in self.layouts.items():
            known = layout in (VECTOR, *LAYOUTS)
            require(known, f"layouts[{key!r}]", repr(layout), ", ".join((VECTOR, *LAYOUTS)))
        require(self.method in METHODS, "method", repr(self.method), ", ".join(METHODS))

    @classmethod
    def of(cls, options: DataOptions) -> ObservationChoice:
        """The choice that the options of a dataset make."""
        names, size = options.chosen_observations(), options.image_size
        ranges = {key: (low, high) for key, (low, high) in (options.image_range or {}).items()}
        return cls(
            None if names is None else tuple(names),
            dict(options.images or {}),
            ranges,
            None if size is None else (size[0], size[1]),
            options.image_method,
        )

    def select(self, present: Iterable[str], source: str) -> list[str]:
        """Those of the names `present` that are read.

        Raises DataError for names that are not present.
        """
        present = list(present)
        named = {
            "data.observations": self.names or (),
            "data.images": self.layouts,
            "data.image_range": self.ranges,
        }
        for option, names in named.items():
            for name in names:
                if name not in present:
                    raise DataError(
                        f"{source}: has no observation {name!r} ({option})"
                        f"{did_you_mean(name, present)}; present: {printable(', '.join(present))}"
                    )
        return present if self.names is None else list(self.names)

    def among(self, present: Iterable[str]) -> list[str]:
        """Those of the names `present` that a reader needs to read: the chosen, or all if some of
        these are missing, so that the message about them has all.
        """
        present = list(present)
        return list(self.names) if self.names and {*self.names} <= {*present} else present


@dataclass(frozen=True)
class ObservationPlan:
    """What is done to the observations of every episode of a dataset.

    Attributes:
        left_out: names that are not read
        conversions: name -> what turns an image into uint8 (height, width, channels)
        inferred: names of those whose range the first episode suggested
        vectors: names of those that are no images though they may look so
        order: names that are read, in their order
    """

    left_out: frozenset[str]
    conversions: Mapping[str, ImageConversion]
    inferred: frozenset[str]
    vectors: frozenset[str]
    order: tuple[str, ...]

    @classmethod
    def of(
        cls, observations: Mapping[str, Any], choice: ObservationChoice, source: str
    ) -> ObservationPlan:
        """Plans by the observations of the first episode.

        Raises DataError for what is neither certain nor told by the choice, and if nothing is left.
        """
        chosen = choice.select(observations, source)
        arrays = {key: _array(observations[key]) for key in chosen}
        if unreadable := [key for key, value in arrays.items() if _is_text(value)]:
            _tell_left_out(unreadable, arrays, source)
        kept = tuple(key for key in chosen if key not in unreadable)
        conversions, inferred = {}, set()
        for key in kept:
            try:
                conversion, certain = _conversion(key, arrays[key], choice)
            except DataError as error:
                named = str(error).replace("{KEY:", f"{{{key}:")
                raise DataError(f"{source}: observation {key!r} {named}") from None
            if conversion is not None:
                conversions[key] = conversion
                inferred |= set() if certain else {key}
        if choice.size and kept and not conversions:
            raise DataError(
                f"{source}: none of the observations {', '.join(kept)} is an image, which "
                "data.image_size could resize; accepted: null"
            )
        _tell_converted(conversions, source)
        left_out = frozenset(observations) - frozenset(kept)
        vectors = frozenset(key for key in kept if choice.layouts.get(key) == VECTOR)
        return cls(left_out, conversions, frozenset(inferred), vectors, kept)

    @property
    def changes(self) -> dict[str, ImageConversion]:
        """Name -> the conversion of images that are not read as they are logged."""
        return {k: image for k, image in self.conversions.items() if not image.is_identity}

    def convert(self, observations: Mapping[str, Any]) -> Mapping[str, Any]:
        """The observations of an episode, in order. Raises DataError for images that do not fit."""
        names = [key for key in self.order if key in observations]
        if not self.conversions and not self.vectors and names == list(observations):
            return observations
        names += [key for key in observations if key not in {*self.left_out, *self.order}]
        return {key: self._converted(key, observations[key]) for key in names}

    def _converted(self, key: str, value: Any) -> Any:
        if key in self.vectors:
            return _array(value).reshape(len(value), -1)
        if key not in self.conversions or self.conversions[key].is_identity:
            return value
        try:
            return self._image(key, value)
        except DataError as error:
            named = str(error).replace("{KEY:", f"{{{key}:")
            raise DataError(f"observation {key!r}: {named}") from None

    def _image(self, key: str, value: Any) -> np.ndarray:
        conversion, value = self.conversions[key], _array(value)
        if not conversion.encoded:
            image_layouts.check_finite(value)
            if key in self.inferred:
                image_layouts.check_range(value, conversion.black, conversion.white)
        return conversion.steps(value)


def holds_encoded_images(observations: Mapping[str, Any]) -> bool:
    """Whether one of the observations of an episode is JPEG or PNG images."""
    return any(_is_encoded(_array(value)) for value in observations.values())


def _is_encoded(value: np.ndarray) -> bool:
    return value.ndim in (1, 2) and len(value) > 0 and is_encoded(value[0])


def _conversion(
    key: str, value: np.ndarray, choice: ObservationChoice
) -> tuple[ImageConversion | None, bool]:
    """What turns an observation into an image, None for a vector; whether its range is certain."""
    encoded = _is_encoded(value)
    pixels = decode(value[:1]) if encoded else value
    shape, layout = pixels.shape[1:], choice.layouts.get(key)
    if layout is None and encoded:
        layout = "hwc" if len(shape) == 3 else "hw"
    elif layout is None:
        layout = image_layouts.recognized_layout(shape, pixels.dtype)
    if layout is None or layout == VECTOR:
        return None, True
    image_layouts.check_layout(layout, shape)
    given = choice.ranges.get(key)
    if given is None:
        image_layouts.check_finite(pixels)
    black, white = given or image_layouts.recognized_range(pixels)
    conversion = ImageConversion(
        shape, str(pixels.dtype), layout, encoded, black, white, choice.size, choice.method
    )
    return conversion, given is not None


def _array(value: Any) -> np.ndarray:
    """An array; objects where the steps differ in shape."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.fromiter(value, object)


def _first(value: np.ndarray) -> Any:
    return value.reshape(-1)[0]


def _is_text(value: np.ndarray) -> bool:
    """Whether an observation is text or objects, and no images."""
    if value.dtype.kind in "fiub" or value.size == 0:
        return False
    first = _first(value)
    steps = value.dtype.kind == "O" and isinstance(first, np.ndarray | list | tuple)
    return not (is_encoded(first) or steps)


def _tell_left_out(names: list[str], arrays: Mapping[str, np.ndarray], source: str) -> None:
    described = ", ".join(f"{key!r} ({arrays[key].dtype})" for key in names)
    if len(names) == len(arrays):
        raise DataError(
            f"{source}: the observations are not numeric: {described}; accepted: numbers, images"
        )
    logger.warning("%s: observations that are no numbers are left out: %s", source, described)


def _tell_converted(conversions: Mapping[str, ImageConversion], source: str) -> None:
    for key, image in conversions.items():
        if image.dtype != "uint8":
            logger.warning(
                "%s: observation %r is read as images, %s of %s, with %g as black and %g as white",
                source, key, image.dtype, image.shape, image.black, image.white,
            )  # fmt: skip
