"""Logged images of any layout, type and size as uint8 (height, width, channels): a record of what
is done to an observation, and pure functions that do it, to whole episodes and to single steps.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from worldmodel.errors import DataError, first_line

AXES = "hwck"  # height, width, channels, frames of a stack
METHODS = {
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
ENCODINGS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}  # first bytes -> format
CHANNELS = {"1": 1, "L": 1, "I;16": 1, "LA": 4, "P": 3, "RGB": 3, "RGBA": 4, "YCbCr": 3, "CMYK": 3}
NUMBERS_AT_ONCE = 2**22  # whose copies in floating point are held
MAX_PIXELS = 2**26  # of one encoded image: more is a damaged or a hostile one


@dataclass(frozen=True)
class ImageConversion:
    """What turns a logged observation into a uint8 image (height, width, channels), in this order:
    decoding, the order of axes, the range, the size.

    Attributes:
        shape: shape of one logged observation; of its pixels if it is encoded
        dtype: its type, likewise
        layout: its axes: h, w and optionally c (channels) and k (frames); frames become channels,
            the oldest frame's first
        encoded: whether it is JPEG or PNG bytes
        black: number that becomes 0
        white: number that becomes 255; what is outside is clipped
        size: (height, width) to which the image is resized, or None
        method: `area` (the mean of the covered pixels), `bilinear` or `nearest`

    Example:
        >>> import numpy as np
        >>> from worldmodel.data.images import ImageConversion
        >>> conversion = ImageConversion((1, 2, 2), "float32", "chw", black=0.0, white=1.0)
        >>> conversion(np.array([[[0.0, 0.2], [0.4, 1.0]]])).tolist()
        [[[0], [51]], [[102], [255]]]
    """

    shape: tuple[int, ...]
    dtype: str
    layout: str
    encoded: bool = False
    black: float = 0.0
    white: float = 255.0
    size: tuple[int, int] | None = None
    method: str = "area"

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> ImageConversion:
        """Restores what `dataclasses.asdict` made."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        return cls(**values)

    @property
    def is_identity(self) -> bool:
        """Whether images are logged as uint8 (height, width, channels), in their size."""
        plain = (self.dtype, self.layout, self.encoded) == ("uint8", "hwc", False)
        whole = (self.black, self.white) == (0.0, 255.0)
        return plain and whole and self.size in (None, self.shape[:2])

    def __call__(self, observation: Any) -> np.ndarray:
        """Converts one observation to a uint8 image (height, width, channels).

        The pixels of an encoded image may be given in its place.
        """
        if isinstance(observation, bytes | dict):
            return self.steps([observation])[0]
        return self.steps(np.asarray(observation)[None])[0]

    def steps(self, values: Any) -> np.ndarray:
        """Converts observations (N, ...) to uint8 images (N, height, width, channels).

        Raises DataError for encoded images that cannot be decoded, and for another shape.
        """
        if self.encoded and np.ndim(values) < 3:
            values = decode(values, 1 if self.layout == "hw" else self.shape[-1])
        if values.ndim != len(self.layout) + 1:
            raise DataError(
                f"has shape {values.shape[1:]} in every step; accepted: {self.shape}, as in the "
                "first episode"
            )
        height, width, channels = self.image_shape(values.shape[1:])
        images = np.empty((len(values), height, width, channels), np.uint8)
        at_once = max(1, NUMBERS_AT_ONCE // max(1, values[:1].size))
        for begin in range(0, len(values), at_once):
            part = self._pixels(self._in_order(values[begin : begin + at_once]))
            images[begin : begin + at_once] = resize(part, (height, width), self.method)
        return images

    def image_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """The shape of the image of an observation of `shape`."""
        sizes = dict(zip(self.layout, shape, strict=True))
        height, width = self.size or (sizes["h"], sizes["w"])
        return height, width, sizes.get("c", 1) * sizes.get("k", 1)

    def _in_order(self, values: np.ndarray) -> np.ndarray:
        """(N, ...) to (N, height, width, channels)."""
        present = [axis for axis in "hwkc" if axis in self.layout]
        values = values.transpose(0, *(1 + self.layout.index(axis) for axis in present))
        return values.reshape(*values.shape[:3], -1)

    def _pixels(self, values: np.ndarray) -> np.ndarray:
        """Numbers from `black` to `white` as uint8."""
        if values.dtype == np.uint8 and (self.black, self.white) == (0.0, 255.0):
            return values
        scaled = (values.astype(np.float64) - self.black) * (255 / (self.white - self.black))
        return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def resize(images: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    """uint8 images (N, height, width, channels) in another `size` (height, width)."""
    if images.shape[1:3] == size:
        return images
    channels, resampling = images.shape[-1], METHODS[method]
    resized = np.empty((len(images), *size, channels), np.uint8)
    together = 3 if channels == 3 else 1  # Pillow resizes one channel, or three at once
    for image, target in zip(images, resized, strict=True):
        for first in range(0, channels, together):
            part = np.ascontiguousarray(image[..., first : first + together])
            picture = Image.fromarray(part if together == 3 else part[..., 0])
            done = np.asarray(picture.resize((size[1], size[0]), resampling))
            target[..., first : first + together] = done.reshape(*size, together)
    return resized


# ------------------------------------------------------------------------------------------ encoded


def content(value: Any) -> bytes | None:
    """The bytes of an encoded image: as they are, as uint8 numbers, or in a dict with `bytes`."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 1:
        value = value.tobytes()
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else None


def is_encoded(value: Any) -> bool:
    """Whether a value begins as a JPEG or PNG image does."""
    return (content(value) or b"").startswith(tuple(ENCODINGS))


def decode(values: Sequence[Any] | np.ndarray, channels: int | None = None) -> np.ndarray:
    """Encoded images (N,) as uint8 or uint16 (N, height, width), or (N, height, width, channels).

    Args:
        values: JPEG or PNG images as bytes
        channels: their number, to which gray images are expanded; None: that of the first image

    Raises:
        DataError: images that cannot be decoded, or that differ in size or channels
    """
    from worldmodel.data.readers.sizes import check_memory  # readers import this module

    count = len(values)
    first = _decoded(0, values[0], channels, None)
    check_memory(count * first.nbytes, f"{count} images of {first.shape}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rest = pool.map(
            _decoded, range(1, count), values[1:], [channels] * count, [first.shape] * count
        )
        images = [first, *rest]
    for step, image in enumerate(images):
        if (image.shape, image.dtype) != (first.shape, first.dtype):
            raise _other(step, f"{image.dtype} {image.shape}", f"{first.dtype} {first.shape}")
    return np.stack(images)


def _decoded(
    step: int, value: Any, channels: int | None, expected: tuple[int, ...] | None
) -> np.ndarray:
    """One image, whose size is compared with the `expected` shape before it is decoded."""
    data = content(value)
    if data is None or not is_encoded(data):
        described = type(value).__name__ if data is None else f"{len(data)} other bytes"
        raise DataError(f"image {step} is {described}; accepted: JPEG or PNG bytes")
    try:
        with Image.open(io.BytesIO(data), formats=tuple(ENCODINGS.values())) as image:
            size = image.height, image.width
            if image.width * image.height > MAX_PIXELS:
                limit = f"accepted: at most {MAX_PIXELS:,} pixels"
                raise DataError(f"image {step} has {size[0]} x {size[1]} pixels; {limit}")
            if expected and size != expected[:2]:
                raise _other(step, f"{size[0]} x {size[1]}", f"{expected[0]} x {expected[1]}")
            return _array(image, channels)
    except DataError:
        raise
    except Exception as error:  # Pillow raises any exception for damaged images
        reason = f"image {step} cannot be decoded ({first_line(error)})"
        raise DataError(f"{reason}; accepted: JPEG or PNG") from error


def _other(step: int, found: str, expected: str) -> DataError:
    return DataError(
        f"image {step} is {found}, the first {expected}; accepted: images of one size and type"
    )


def _array(image: Image.Image, channels: int | None) -> np.ndarray:
    """(height, width) if gray, else (height, width, channels)."""
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    wanted = max(CHANNELS.get(image.mode, 3), channels or 1)
    return np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[wanted]))
