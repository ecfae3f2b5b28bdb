"""Images of any layout, type and encoding become the same uint8 (height, width, channels)."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from worldmodel.config.groups import LAYOUTS
from worldmodel.data import DataSpec, Episode, ObservationChoice, Trajectories, stack_episodes
from worldmodel.data.images import ImageConversion
from worldmodel.errors import DataError

STEPS = 3


def stacked(camera: Any, **choice: Any) -> Trajectories:
    """One episode with an observation `camera`."""
    episode = Episode({"camera": camera}, np.zeros((len(camera) - 1, 1)), None, terminated=False)
    return stack_episodes([episode], "logs", choice=ObservationChoice(**choice))


def read(camera: Any, **choice: Any) -> np.ndarray:
    return stacked(camera, **choice).observations["camera"]


def pixels(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """Random images (STEPS, height, width, channels) that reach from 0 to 255."""
    images = np.random.default_rng(seed).integers(
        0, 256, (STEPS, height, width, channels), np.uint8
    )
    images[0, 0, 0, 0], images[0, -1, -1, -1] = 0, 255
    return images


def in_layout(images: np.ndarray, layout: str, frames: int) -> np.ndarray:
    """Images as they would be logged: channels of `frames` frames in the order of `layout`."""
    steps, height, width, channels = images.shape
    parts = images.reshape(steps, height, width, frames, channels // frames)
    axes = ["hwkc".index(axis) for axis in layout]
    absent = [1 + axis for axis in range(4) if axis not in axes]
    moved = parts.transpose(0, *(1 + axis for axis in axes), *absent)
    return moved.reshape(moved.shape[: len(layout) + 1])


TYPES = {
    "uint8": lambda x: x,
    "fractions": lambda x: (x / 255).astype(np.float32),
    "halves": lambda x: (x / 255).astype(np.float16),
    "floats": lambda x: x.astype(np.float64),
    "signed": lambda x: (x / 127.5 - 1).astype(np.float32),
    "integers": lambda x: x.astype(np.int64),
    "sixteen": lambda x: x.astype(np.uint16) * 257,
}


@settings(max_examples=60, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    kind=st.sampled_from(list(TYPES)),
    sides=st.tuples(st.integers(1, 40), st.integers(2, 40)),
    frames=st.integers(1, 4),
    channels=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_images_in_every_layout_and_type_are_the_same_pixels(
    layout: str, kind: str, sides: tuple, frames: int, channels: int, seed: int
) -> None:
    frames, channels = frames if "k" in layout else 1, channels if "c" in layout else 1
    images = pixels(*sides, frames * channels, seed)
    logged = TYPES[kind](in_layout(images, layout, frames))
    if kind in ("fractions", "halves", "signed"):  # two levels alone are no fractions
        images[0, 0, 1, 0] = 100
        logged = TYPES[kind](in_layout(images, layout, frames))
    np.testing.assert_array_equal(read(logged, layouts={"camera": layout}), images)


@pytest.mark.parametrize(
    ("layout", "sides", "channels", "frames"),
    [
        ("hw", (32, 32), 1, 1), ("hw", (8, 60), 1, 1), ("hwc", (84, 84), 1, 1),
        ("chw", (32, 32), 4, 1), ("chw", (64, 48), 3, 1), ("khw", (84, 84), 4, 4),
        ("hwc", (64, 64), 9, 1), ("chw", (64, 64), 9, 1), ("khwc", (32, 32), 12, 4),
        ("kchw", (32, 40), 9, 3), ("hwc", (5, 5), 3, 1), ("hwc", (20, 4), 3, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["uint8", "fractions"])
def test_common_layouts_are_recognized(
    layout: str, sides: tuple, channels: int, frames: int, kind: str
) -> None:
    images = pixels(*sides, channels)
    logged = TYPES[kind](in_layout(images, layout, frames))
    if kind == "fractions" and (layout == "hw" or logged[0].size < 1024):
        return  # may be numbers
    np.testing.assert_array_equal(read(logged), images)


@pytest.mark.parametrize("shape", [(2, 32), (20, 64, 24), (3, 64, 3), (40, 40, 40), (4096,)])
def test_uint8_arrays_of_unknown_layout_are_asked_about(shape: tuple) -> None:
    logged = np.zeros((STEPS, *shape), np.uint8)
    if np.prod(shape) < 1024 and len(shape) < 3:
        assert read(logged).shape == (STEPS, int(np.prod(shape)))
        return
    with pytest.raises(DataError, match=re.escape("data.images={camera: vector}")):
        read(logged)
    assert read(logged, layouts={"camera": "vector"}).shape == (STEPS, int(np.prod(shape)))


@pytest.mark.parametrize("shape", [(64, 64), (1024, 3), (16, 16, 16)])
def test_large_arrays_of_floats_are_no_vectors_unasked(shape: tuple) -> None:
    with pytest.raises(DataError, match="may be an image or numbers"):
        read(np.full((STEPS, *shape), 0.5))
    assert read(np.full((STEPS, 3, 4), 0.5)).shape == (STEPS, 12)  # small ones are, as ever


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((STEPS, 64, 64, 3), 3.5e3), "from 3500 to 3500"),
        (np.zeros((STEPS, 64, 64, 3)), "from 0 to 0"),
        (np.full((STEPS, 64, 64), 900, np.uint16), "data.image_range={camera: [0, 65535]}"),
        (np.zeros((STEPS, 64, 64, 3), np.float32), "data.image_range={camera: [0, 1]}"),
        (np.full((STEPS, 64, 64, 3), np.nan), "pixel NaN at step 0"),
    ],
)
def test_unknown_ranges_are_asked_about(values: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)):
        read(values)


def test_a_range_that_is_told_clips_and_one_that_is_not_refuses() -> None:
    depth = np.array([0, 1000, 4000, 9000], np.uint16)[:, None, None] * np.ones((8, 8), np.uint16)
    image = read(depth, ranges={"camera": (0.0, 4000.0)})
    assert image[:, 0, 0, 0].tolist() == [0, 64, 255, 255]
    inverse = read(depth, ranges={"camera": (4000.0, 0.0)})
    assert inverse[:, 0, 0, 0].tolist() == [255, 191, 0, 0]
    mask = np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1) * np.ones((8, 8, 1), np.uint8)
    assert read(mask, ranges={"camera": (0.0, 1.0)})[:, 0, 0, 0].tolist() == [0, 255]
    bright = TYPES["fractions"](pixels(32, 32, 3))
    episodes = [
        Episode({"camera": x}, np.zeros((STEPS - 1, 1)), None, terminated=False)
        for x in (bright, bright * 200)
    ]
    with pytest.raises(DataError, match=r"episode 1: observation 'camera': pixel .* 0 to 1"):
        stack_episodes(episodes, "logs")


def encode(image: np.ndarray, format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["bytes", "numbers", "records"])
def test_encoded_images_are_decoded(kind: str) -> None:
    images = pixels(20, 24, 3)
    values: list[Any] = [encode(image, "PNG") for image in images]
    if kind == "numbers":
        values = [np.frombuffer(value, np.uint8) for value in values]
    if kind == "records":
        values = [{"bytes": value, "path": "0.png"} for value in values]
    column = np.empty(STEPS, object)
    column[:] = values
    np.testing.assert_array_equal(read(column), images)
    np.testing.assert_array_equal(read(values), images)


def test_encoded_images_may_be_gray_of_16_bits_or_jpeg() -> None:
    gray = pixels(20, 24, 1)
    np.testing.assert_array_equal(read([encode(x[..., 0], "PNG") for x in gray]), gray)
    deep = gray[..., 0].astype(np.uint16) * 257
    np.testing.assert_array_equal(read([encode(x, "PNG") for x in deep]), gray)
    flat = np.full((STEPS, 16, 16, 3), 77, np.uint8)
    np.testing.assert_array_equal(read([encode(x, "JPEG") for x in flat]), flat)


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (b"\xff\xd8\xff no image", "image 2 cannot be decoded"),
        (b"text", "image 2 is 4 other bytes"),
        (None, "image 2 is NoneType"),
        (encode(np.zeros((9, 24), np.uint8), "PNG"), "image 2 is 9 x 24, the first 20 x 24"),
    ],
)
def test_damaged_images_are_errors_of_their_episode(last: Any, words: str) -> None:
    good = encode(pixels(20, 24, 1)[0, ..., 0], "PNG")
    with pytest.raises(DataError, match=r"episode 0: observation 'camera': " + re.escape(words)):
        read([good, good, last])


def test_images_are_resized_by_the_mean_of_the_area() -> None:
    images = np.zeros((STEPS, 8, 8, 5), np.uint8)
    images[:, ::2] = 200
    small = read(images, size=(4, 2))
    assert small.shape == (STEPS, 4, 2, 5) and (small == 100).all()
    nearest = read(images, size=(4, 2), method="nearest")
    assert set(np.unique(nearest)) <= {0, 200}
    assert read(images[..., :3], size=(16, 16), method="bilinear").shape == (STEPS, 16, 16, 3)


def test_a_single_step_is_converted_as_the_logs_were() -> None:
    """As an environment does that shows what was logged; the spec holds what it needs."""
    logged = TYPES["signed"](pixels(40, 32, 3)).transpose(0, 3, 1, 2)
    dataset = stacked(logged, size=(16, 16))
    spec = DataSpec.from_json(dataset.spec().to_json())
    assert spec == dataset.spec()
    conversion = spec.observations["camera"].conversion
    assert conversion == ImageConversion(
        (3, 40, 32), "float32", "chw", black=-1.0, white=1.0, size=(16, 16)
    )
    for step in range(STEPS):
        np.testing.assert_array_equal(
            conversion(logged[step]), dataset.observations["camera"][step]
        )


def test_the_pixels_of_an_encoded_image_are_converted_too() -> None:
    images = pixels(20, 24, 3)
    dataset = stacked([encode(image, "PNG") for image in images], size=(10, 12))
    conversion = dataset.image_conversions["camera"]
    np.testing.assert_array_equal(conversion(images[1]), dataset.observations["camera"][1])


def test_images_that_are_logged_as_uint8_are_not_converted() -> None:
    images = pixels(20, 24, 3)
    dataset = stacked(images)
    assert dataset.image_conversions == {} and dataset.observations["camera"].dtype == np.uint8
