"""Bags of ROS 1 and 2, written by rosbags, are sampled at a rate with the last values."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="the extra `rosbag` is not installed")

import ros_bags

from worldmodel.config.data_sources import dataset_errors
from worldmodel.data import Trajectories, load
from worldmodel.data.commands import InspectOptions
from worldmodel.data.readers.rosbag import RosbagData, read
from worldmodel.data.sources import parse_source, parse_source_options
from worldmodel.errors import ConfigError, DataError

KINDS = ("bag", "sqlite3", "mcap")
X, SPEED = "/odom/pose/pose/position/x", "/odom/twist/twist/linear/x"
FIELDS: dict[str, Any] = {"observations": [X, SPEED], "actions": ["/cmd_vel/linear/x"]}


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Format -> a bag of two seconds."""
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        made[kind] = ros_bags.write(folder, kind, ros_bags.drive(ros_bags.typestore(kind == "bag")))
    return made


def loaded(path: Path, rate: float = 10.0, **options: Any) -> Trajectories:
    return load(RosbagData(path=str(path), rate=rate, **(FIELDS | options)))


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_has_the_last_value_of_every_field(bags: dict[str, Path], kind: str) -> None:
    logs = loaded(bags[kind])
    times = 0.3 + np.arange(17) / 10  # from the first command to the last odometry, at 1.95 s
    seen = np.floor(times / 0.05 + 1e-6) * 0.05
    sent = 0.3 + np.floor((times - 0.3) * 7 + 1e-6) / 7
    found = logs.observations["observation"]
    np.testing.assert_allclose(found, np.stack([seen, 10 * seen], 1), rtol=1e-6)
    np.testing.assert_allclose(logs.actions[:-1, 0], sent[:-1], rtol=1e-6)
    assert logs.num_transitions == 16 and not logs.terminated.any() and logs.rewards is None


@pytest.mark.parametrize("kind", KINDS)
def test_custom_types_and_images_are_read_by_the_definitions_of_the_bag(
    tmp_path: Path, kind: str
) -> None:
    store, rng = ros_bags.typestore(kind == "bag"), np.random.default_rng(0)
    frames = rng.integers(0, 255, (6, 5, 4, 3), np.uint8)
    rows: list[ros_bags.Message] = []
    for step, frame in enumerate(frames):
        rows.append(("/tank", step / 10, ros_bags.tank(store, float(step))))
        rows.append(("/camera/raw", step / 10, ros_bags.image(store, frame)))
        rows.append(("/camera/small", step / 10, ros_bags.jpeg(store, frame)))
    path = ros_bags.write(tmp_path, kind, rows, store)
    observed = ["/tank/level", "/tank/force/1", "/tank/ranges", "/camera/raw", "/camera/small"]
    names: dict[str, Any] = {"observations": observed, "actions": ["/tank/force"]}
    logs = load(RosbagData(path=str(path), rate=10.0, **names))
    step = np.arange(6.0)
    columns = [step, 2 * step, np.ones(6), step, np.full(6, 2), step + 1]
    np.testing.assert_array_equal(logs.observations["observation"], np.stack(columns, 1))
    np.testing.assert_array_equal(logs.observations["camera/raw"], frames[..., ::-1])
    np.testing.assert_array_equal(logs.observations["camera/small"], frames)
    np.testing.assert_array_equal(logs.actions[:5], np.stack([step, 2 * step, 3 * step], 1)[:5])


def test_a_topic_without_a_field_gives_all_of_its_numbers(bags: dict[str, Path]) -> None:
    logs = loaded(bags["mcap"], observations=["/odom/pose/pose"], actions=["/cmd_vel"])
    assert logs.observations["observation"].shape[1] == 7 and logs.actions.shape[1] == 6
    rewarded = loaded(bags["mcap"], reward=X)  # the last sample is a transition, too
    assert rewarded.num_transitions == 17 and rewarded.final_logged is not None
    seen = np.floor((0.3 + np.arange(17) / 10) / 0.05 + 1e-6) * 0.05
    np.testing.assert_allclose(rewarded.rewards[:-1], seen, rtol=1e-6)


def test_what_is_cut_and_what_is_repeated_is_told(
    bags: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        list(read(RosbagData(path=str(bags["mcap"]), rate=100, **FIELDS)).episodes)
    assert "0.3 s before all topics have spoken" in caplog.text
    assert "/odom speaks 20 times a second" in caplog.text


def test_several_bags_are_several_episodes(bags: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a.bag", "b.bag"):
        shutil.copy(bags["bag"], tmp_path / name)
    assert parse_source(str(tmp_path)).format == "rosbag"
    assert loaded(tmp_path).num_episodes == 2
    for name in ("a", "b"):
        shutil.copytree(bags["sqlite3"], tmp_path / "bags" / name)
    assert parse_source(str(tmp_path / "bags")).format == "rosbag"
    assert loaded(tmp_path / "bags").num_episodes == 2


@pytest.mark.parametrize("ending", ["mcap", "db3"])
def test_the_file_of_a_bag_is_enough(bags: dict[str, Path], tmp_path: Path, ending: str) -> None:
    (file,) = bags["mcap" if ending == "mcap" else "sqlite3"].glob(f"*.{ending}")
    shutil.copy(file, tmp_path / f"log.{ending}")
    assert loaded(tmp_path / f"log.{ending}").num_transitions == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actions": ["/cmd_vell/linear/x"]}, "did you mean '/cmd_vel'?"),
        ({"actions": ["/cmd_vel/linaer/x"]}, "/cmd_vel has no field linaer (did you mean 'linear"),
        ({"actions": ["/cmd_vel/linear/x/y"]}, "/cmd_vel/linear/x/y: accepted after"),
        ({"actions": ["/odom/child_frame_id"]}, "holds no numbers"),
        ({"observations": ["/odom/pose/covariance/99"]}, "a message has no entry 99"),
        ({"rate": 0.1}, "accepted: 2 to 1000 steps"),
        ({"rate": 1e5}, "accepted: 2 to 1000 steps"),
    ],
)
def test_refusals_say_what_there_is(
    bags: dict[str, Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as refusal:
        loaded(bags["sqlite3"], **options)
    assert message in str(refusal.value) and "log" in str(refusal.value)


def test_rate_and_fields_are_needed(bags: dict[str, Path]) -> None:
    options = RosbagData(path=str(bags["bag"]))
    with pytest.raises(ConfigError, match="data.rate"):
        load(options)
    assert not list(dataset_errors(RosbagData(path="a.bag", rate=1, **FIELDS)))


def read_depth(folder: Path, encoding: str, depth: np.ndarray) -> Trajectories:
    """A bag of one image (height, width) uint16 a message."""
    store = ros_bags.typestore(False)
    height, width = depth.shape
    message = ros_bags.image(store, depth.view(np.uint8).reshape(height, 2 * width, 1), encoding)
    message.width = width
    rows = [("/depth", seconds, message) for seconds in (0.0, 0.1, 0.2)]
    path = ros_bags.write(folder, "mcap", rows, store)
    names: dict[str, Any] = {"observations": ["/depth"], "actions": ["/depth/step"]}
    return load(RosbagData(path=str(path), rate=10.0, **names))


def test_images_of_16_bits_are_handed_on(tmp_path: Path) -> None:
    depth = np.arange(12, dtype=np.uint16).reshape(3, 4)
    logs = read_depth(tmp_path, "mono16", depth)
    np.testing.assert_array_equal(logs.observations["depth"][0].reshape(3, 4), depth)


def test_unknown_encodings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="encoded as bayer_rggb16; accepted: rgb8"):
        read_depth(tmp_path, "bayer_rggb16", np.zeros((3, 4), np.uint16))


def test_a_bag_without_options_lists_its_topics(bags: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"topics of .*/cmd_vel \(geometry_msgs/msg/Twist\)"):
        parse_source_options(str(bags["mcap"]), [], InspectOptions())
