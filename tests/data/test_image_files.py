"""Images in NumPy archives and HDF5 files, in the layouts in which people log them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from worldmodel.data import Trajectories, load
from worldmodel.data.readers.hdf5 import HDF5Data
from worldmodel.data.readers.npz import NPZData
from worldmodel.errors import DataError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
STEPS = 6  # in two episodes of 2 and 3 transitions and a final step each
IMAGES = np.random.default_rng(0).integers(0, 256, (STEPS, 16, 24, 3), np.uint8)
ENCODED: list[bytes] = []
for image in IMAGES:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    ENCODED.append(buffer.getvalue())
BYTES = np.frombuffer(b"".join(ENCODED), np.uint8)
OFFSETS = np.cumsum([0, *map(len, ENCODED)])


def write(folder: Path, kind: str, arrays: dict[str, Any]) -> Path:
    path = folder / f"logs.{kind}"
    ends = {"actions": np.zeros((STEPS, 1)), "terminals": np.array([0, 0, 1, 0, 0, 1])}
    if kind == "npz":
        np.savez(path, **ends, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, value in (ends | arrays).items():
                file[name] = value
    return path


def read(path: Path, **options: Any) -> Trajectories:
    reader = NPZData if path.suffix == ".npz" else HDF5Data
    return load(reader(path=str(path), **options))


def logged(dataset: Trajectories, key: str = "image") -> np.ndarray:
    """The images of the steps that were logged."""
    steps = [dataset.offsets[e] + t for e in range(dataset.num_episodes) for t in range(3)]
    return dataset.observations[key][steps]


LAYOUTS = {
    "gray": (IMAGES[..., 0], IMAGES[..., :1]),
    "channels first": (IMAGES.transpose(0, 3, 1, 2), IMAGES),
    "frames": (np.repeat(IMAGES[:, None], 3, 1), np.concatenate([IMAGES] * 3, -1)),
    "fractions": ((IMAGES / 255).astype(np.float32), IMAGES),
}


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
@pytest.mark.parametrize(("values", "images"), LAYOUTS.values(), ids=LAYOUTS)
def test_images_are_recognized(
    tmp_path: Path, kind: str, values: np.ndarray, images: np.ndarray
) -> None:
    dataset = read(write(tmp_path, kind, {"observations": values}))
    assert list(dataset.observations) == ["image"]
    np.testing.assert_array_equal(logged(dataset), images)


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("jpeg", "offsets"), "image"),
        (("images", "images_offsets"), "image"),
        (("observations/front", "observations/front_offsets"), "front"),
    ],
)
def test_bytes_with_offsets_are_images(
    tmp_path: Path, kind: str, names: tuple[str, str], key: str
) -> None:
    path = write(tmp_path, kind, dict(zip(names, (BYTES, OFFSETS), strict=True)))
    dataset = read(path)
    assert list(dataset.observations) == [key] and dataset.num_episodes == 2
    np.testing.assert_array_equal(logged(dataset, key), IMAGES)
    small = read(path, image_size=[8, 12])
    assert small.observations[key].shape[1:] == (8, 12, 3)


def test_bytes_of_different_lengths_are_images_in_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "logs.hdf5"
    write(tmp_path, "hdf5", {})
    with h5py.File(path, "a") as file:
        rows = file.create_dataset("observations", STEPS, h5py.vlen_dtype(np.uint8))
        for step, content in enumerate(ENCODED):
            rows[step] = np.frombuffer(content, np.uint8)
    (key,) = read(path).observations
    np.testing.assert_array_equal(logged(read(path), key), IMAGES)


def test_decoded_images_are_cached(tmp_path: Path) -> None:
    """From smaller files on than others, since they are larger than these and slow to decode."""
    few = np.random.default_rng(0).integers(0, 256, (3, 512, 512, 3), np.uint8)
    buffers = [io.BytesIO() for _ in few]
    for image, buffer in zip(few, buffers, strict=True):
        Image.fromarray(image).save(buffer, "PNG", compress_level=0)
    content = [buffer.getvalue() for buffer in buffers]
    path, offsets = tmp_path / "logs.npz", np.cumsum([0, *map(len, content)])
    images = np.frombuffer(b"".join(content), np.uint8)
    np.savez(path, jpeg=images, offsets=offsets, actions=np.zeros((3, 1)))
    dataset = read(path, cache_dir=str(tmp_path))
    assert isinstance(dataset.observations["image"], np.memmap)
    np.testing.assert_array_equal(dataset.observations["image"][:3], few)


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
@pytest.mark.parametrize(
    "offsets", [OFFSETS[:-1], OFFSETS + 1, OFFSETS[::-1], OFFSETS.astype(float)]
)
def test_offsets_that_do_not_fit_are_refused(
    tmp_path: Path, kind: str, offsets: np.ndarray
) -> None:
    path = write(tmp_path, kind, {"jpeg": BYTES, "offsets": offsets})
    with pytest.raises(DataError, match=rf"offsets is .* rise from 0 to {len(BYTES)}"):
        read(path)


def test_a_small_image_with_other_offsets_is_an_image(tmp_path: Path) -> None:
    """Fields called `offsets` that have nothing to do with bytes."""
    path = write(tmp_path, "npz", {"observations": IMAGES, "offsets": np.zeros((STEPS, 2))})
    np.testing.assert_array_equal(logged(read(path)), IMAGES)


ODD = {
    "gray_no_channel": {"image": (32, 32, 1)},
    "stack_chw4": {"image": (32, 32, 4)},
    "two_sizes": {"a": (32, 32, 3), "b": (16, 16, 3)},
    "s84": {"image": (84, 84, 1)},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_images(name: str) -> None:
    path = SHARED / "odd_logs" / "images" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    dataset = load(NPZData(path=str(path)))
    assert {key: value.shape[1:] for key, value in dataset.observations.items()} == ODD[name]
    with np.load(path) as logs:
        first = next(iter(dataset.observations.values()))[0]
        whole = logs[next(key for key in logs if key.startswith("observations"))][0]
        assert sorted(first.reshape(-1)) == sorted(whole.reshape(-1))


@pytest.mark.slow
def test_the_camera_of_a_car_is_read_as_it_is(tmp_path: Path) -> None:
    path = SHARED / "donkeycar" / "donkey64_jpeg.npz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    dataset = load(NPZData(path=str(path), cache_dir=str(tmp_path)))
    assert (dataset.num_episodes, dataset.num_transitions) == (37, 16_856)
    with np.load(path) as logs:
        for step in (0, 16_855):
            content = logs["jpeg"][logs["offsets"][step] : logs["offsets"][step + 1]]
            pixels = np.asarray(Image.open(io.BytesIO(content.tobytes())))
            shown = dataset.observations["image"][step + (36 if step else 0)]
            np.testing.assert_array_equal(shown, pixels)
