"""Which observations of a dataset are read: those chosen, without text and objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldmodel.data import Episode, ObservationChoice, load, stack_episodes, write_rlds
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.errors import ConfigError, DataError

OBSERVATIONS = {
    "arm": np.arange(8.0).reshape(4, 2),
    "camera": np.zeros((4, 6, 6, 3), np.uint8),
    "constant": np.ones((4, 1)),
    "task": ["pick", "pick", "place", "place"],
    "notes": np.array([None, "a", {"b": 1}, 2], object),
}


def episode(**observations: Any) -> Episode:
    return Episode(observations, np.zeros((3, 1)), None, terminated=False)


def test_text_and_objects_are_left_out_by_name(caplog: pytest.LogCaptureFixture) -> None:
    dataset = stack_episodes([episode(**OBSERVATIONS)] * 2, "logs")
    assert list(dataset.observations) == ["arm", "camera", "constant"]
    assert len(caplog.messages) == 1
    assert "logs: observations that are no numbers are left out: 'task'" in caplog.text
    assert "'notes' (object)" in caplog.text


def test_text_alone_is_refused() -> None:
    with pytest.raises(DataError, match="not numeric: 'task' .* accepted: numbers, images"):
        stack_episodes([episode(task=OBSERVATIONS["task"])], "logs")


@pytest.mark.parametrize("names", [("camera", "arm"), ("arm",)])
def test_the_chosen_are_read_in_their_order(names: tuple[str, ...]) -> None:
    choice = ObservationChoice(names)
    dataset = stack_episodes([episode(**OBSERVATIONS)], "logs", choice=choice)
    assert tuple(dataset.observations) == names


@pytest.mark.parametrize(
    ("choice", "option"),
    [
        (ObservationChoice(("camra",)), "data.observations"),
        (ObservationChoice(layouts={"camra": "chw"}), "data.images"),
        (ObservationChoice(ranges={"camra": (0, 1)}), "data.image_range"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(choice: ObservationChoice, option: str) -> None:
    words = (
        rf"no observation 'camra' \({option}\) \(did you mean 'camera'\?\); present: arm, camera"
    )
    with pytest.raises(DataError, match=words):
        stack_episodes([episode(**OBSERVATIONS)], "logs", choice=choice)


def test_options_choose_in_files(tmp_path: Path) -> None:
    path = tmp_path / "logs.npz"
    named = {f"observations/{key}": np.asarray(OBSERVATIONS[key]) for key in ("arm", "camera")}
    np.savez(path, **named, actions=np.zeros((3, 1)))
    assert list(load(NPZData(path=str(path), observations=["camera"])).observations) == ["camera"]
    small = load(NPZData(path=str(path), image_size=[2, 3]))
    assert small.observations["camera"].shape == (4, 2, 3, 3)
    with pytest.raises(DataError, match="none of the observations arm is an image"):
        load(NPZData(path=str(path), observations=["arm"], image_size=[2, 3]))


def test_a_cached_and_a_converted_dataset_keep_what_was_done_to_images(tmp_path: Path) -> None:
    path = tmp_path / "logs.npz"
    np.savez(path, observations=np.zeros((4, 3, 9, 9), np.uint8), actions=np.zeros((3, 1)))
    options = NPZData(path=str(path), cache="always", cache_dir=str(tmp_path))
    first, second = load(options), load(options)
    assert second.observations["image"].shape == (4, 9, 9, 3)
    assert first.image_conversions["image"].layout == "chw"
    assert second.image_conversions == first.image_conversions
    write_rlds(first, tmp_path / "native", "native")
    native = load(TFDSData(path=str(tmp_path / "native")))
    assert native.image_conversions == first.image_conversions


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": {"camera": "cwh"}}, "data.images={camera: cwh}: accepts vector, hw"),
        ({"image_range": {"camera": [1]}}, "data.image_range={camera: [1]}: accepts two numbers"),
        ({"image_range": {"camera": [1, 1]}}, "accepts two numbers"),
        ({"image_size": [64]}, r"data.image_size=[64]: accepts [HEIGHT,WIDTH]"),
        ({"image_method": "cubic"}, "data.image_method=cubic: accepts one of area, bilinear"),
    ],
)
def test_options_of_images_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(NPZData(path="logs.npz", **options))
    assert words in str(raised.value)
