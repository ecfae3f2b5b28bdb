"""The native format is read back bit for bit; TFDS datasets of other origin are read or refused."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib

import numpy as np
import pytest
from rlds_datasets import (
    FLAGS,
    LENGTHS,
    ROWS,
    ends,
    foreign,
    logs,
    refused,
    simple,
    simple_steps,
    tensor,
)

from worldmodel.config import DataOptions
from worldmodel.data import ActionSpec, load
from worldmodel.data.readers import tfds as native
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.readers.tfds_features import check_compressed
from worldmodel.data.rlds_writer import write_rlds
from worldmodel.errors import ArgumentError, ConfigError, DataError

# -------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("reward", [False, True])
def test_a_written_dataset_is_read_back_bit_for_bit(tmp_path, discrete, reward):
    written = logs(discrete, reward)
    write_rlds(written, tmp_path / "set", "some name", {"environment": "Some-v0"})
    read = load(TFDSData(path=str(tmp_path / "set")))
    assert read.observations.keys() == written.observations.keys()
    for key, value in written.observations.items():
        assert read.observations[key].dtype == value.dtype
        assert read.observations[key].shape == value.shape
        assert read.observations[key].tobytes() == value.tobytes()
    assert read.actions.dtype == written.actions.dtype
    assert read.actions.tobytes() == written.actions.tobytes()
    assert (read.rewards is None) == (not reward)
    assert not reward or read.rewards.tobytes() == written.rewards.tobytes()
    assert read.lengths.tolist() == LENGTHS
    assert read.terminated.tolist() == [False, True, False]
    assert read.action_spec == written.action_spec
    assert native.read_metadata(tmp_path / "set")["environment"] == "Some-v0"


def test_steps_on_disk_follow_rlds(tmp_path):
    import tensorflow_datasets as tfds

    write_rlds(logs(), tmp_path / "set", "name")
    records = tfds.builder_from_directory(tmp_path / "set").as_data_source("train")
    terminal, timed_out = (list(records[episode]["steps"]) for episode in (1, 2))
    assert [bool(step["is_first"]) for step in timed_out] == [True] + [False] * 6
    assert [bool(step["is_last"]) for step in timed_out] == [False] * 6 + [True]
    assert not any(step["is_terminal"] for step in timed_out)
    assert [float(step["discount"]) for step in timed_out] == [1.0] * 6 + [0.0]
    assert [bool(step["is_terminal"]) for step in terminal] == [False, True]
    assert [float(step["discount"]) for step in terminal] == [0.0, 0.0]


def test_episodes_keep_their_order(tmp_path):
    order = np.array([0, 1, 2, 2, 1, 0, 0, 2, 1, 1, 0, 2])
    write_rlds(logs().select(order), tmp_path / "set", "name")
    read = load(TFDSData(path=str(tmp_path / "set")))
    assert read.lengths.tolist() == np.array(LENGTHS)[order].tolist()


def test_a_card_is_written_with_the_records(tmp_path):
    write_rlds(logs(), tmp_path / "set", "name")
    assert json.loads((tmp_path / "set" / "card.json").read_text())["transitions"] == ROWS - 3


def test_a_folder_in_use_is_not_changed(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError):
        write_rlds(logs(), tmp_path / "set", "name")
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "mine.txt"]


LAZY = """
import sys
import worldmodel.data
assert not {"tensorflow_datasets", "gymnasium", "jax"} & set(sys.modules), "not lazy"
from worldmodel.data.readers.gymnasium import GymnasiumData
worldmodel.data.load(GymnasiumData(environment="CartPole-v1", episodes=2, cache_dir=sys.argv[1]))
assert "tensorflow_datasets" in sys.modules
assert not {"tensorflow", "jax"} & set(sys.modules), "needs TensorFlow or JAX"
"""


def test_libraries_are_imported_on_use_and_tensorflow_never(tmp_path):
    subprocess.run([sys.executable, "-c", LAZY, str(tmp_path)], check=True)


# -------------------------------------------------------------------- datasets of other origin


def test_bounds_of_another_dataset_are_inferred_from_its_data(tmp_path):
    actions = np.array([[0.5, 3.0], [1.5, 3.0], [99.0, 99.0]], np.float32)  # the last is padding
    episode = {
        "observation": np.arange(6, dtype=np.float32).reshape(3, 2),
        "action": actions,
        "reward": np.array([1, 2, 0], np.float32),
        **ends(3, terminal=True),
    }
    steps = {"observation": tensor(2), "action": tensor(2), "reward": np.float32, **FLAGS}
    read = load(TFDSData(path=str(foreign(tmp_path, steps, [episode]))))
    assert read.action_spec == ActionSpec(False, 2, (0.5, 3.0), (1.5, 4.0))
    assert read.observations["observation"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert read.actions.tolist() == [[0.5, 3.0], [1.5, 3.0], [0.0, 0.0]]
    assert read.returns().tolist() == [3.0] and read.terminated.tolist() == [True]


def test_nested_observations_discrete_actions_and_png_images_are_read(tmp_path, caplog):
    import tensorflow_datasets as tfds

    images = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3)).astype(np.uint8)

    steps = {
        "observation": {
            "camera": tfds.features.Image(shape=(6, 5, 3)),
            "arm": {"joint": tensor(2, dtype=np.float64), "gripper": np.float32},
            "map": tensor(None, None, 1, dtype=np.uint8, encoding="bytes"),
            "instruction": tfds.features.Text(),
        },
        "action": tfds.features.ClassLabel(num_classes=6),
        **FLAGS,
    }
    episode = [
        {
            "observation": {
                "camera": images.fromarray(pixels[row]),
                "arm": {"joint": np.full(2, row, np.float64), "gripper": 0.5},
                "map": np.full((4, 3, 1), row, np.uint8),
                "instruction": "pick",
            },
            "action": row,
            **{key: value[row] for key, value in ends(3).items()},
        }
        for row in range(3)
    ]
    read = load(TFDSData(path=str(foreign(tmp_path, steps, [episode, episode]))))
    assert read.observations["camera"].tobytes() == pixels.tobytes() * 2
    assert read.observations["arm/joint"].tolist() == [[0, 0], [1, 1], [2, 2]] * 2
    assert read.observations["arm/gripper"].shape == (6, 1)
    assert read.observations["map"][:, 0, 0, 0].tolist() == [0, 1, 2] * 2
    assert "instruction" not in read.observations and "'instruction' is not numeric" in caplog.text
    assert read.action_spec == ActionSpec(True, 6) and read.actions.tolist() == [0, 1, 0] * 2
    assert read.rewards is None


def test_a_cut_off_episode_is_not_terminal_and_a_single_step_is_left_out(tmp_path, caplog):
    episodes = [simple(4, last=False), simple(1), simple(3, terminal=True)]
    read = load(TFDSData(path=str(foreign(tmp_path, simple_steps(), episodes))))
    assert read.lengths.tolist() == [4, 3] and read.terminated.tolist() == [False, True]
    assert read.returns().tolist() == [
        3.0,
        2.0,
    ]  # the reward of the last step has no next observation
    assert "1 episodes of a single step left out" in caplog.text
    assert "3 episodes have an action other than 0 at their last step" in caplog.text


@pytest.mark.parametrize(("called", "warned"), [("d4rl_hopper", True), ("hopper", False)])
def test_zeros_in_place_of_final_observations_cause_a_warning(tmp_path, caplog, called, warned):
    episodes = [simple(3, terminal=True), simple(4, terminal=True), simple(3)]
    episodes[0]["observation"][-1] = 0
    folder = foreign(tmp_path, simple_steps(), episodes, called=called)
    assert load(TFDSData(path=str(folder))).num_episodes == 3
    assert ("1 episodes end in zeros, which D4RL's builder writes" in caplog.text) == warned


def test_array_record_is_preferred_to_tfrecord(tmp_path):
    folder = foreign(tmp_path, simple_steps(), [simple(3)])
    info = json.loads((folder / "dataset_info.json").read_text())
    info |= {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    assert load(TFDSData(path=str(folder))).lengths.tolist() == [3]


def test_a_version_is_found_below_the_name_and_several_datasets_are_refused(tmp_path):
    foreign(tmp_path / "one", simple_steps(), [simple(3)])
    assert load(TFDSData(path=str(tmp_path / "one"))).num_episodes == 1
    foreign(tmp_path / "two", simple_steps(), [simple(3)])
    with pytest.raises(DataError, match="several datasets.*one/foreign/2.1.0.*two/foreign/2.1.0"):
        load(TFDSData(path=str(tmp_path)))


def test_a_part_of_a_split_is_read_and_an_unknown_split_is_refused(tmp_path):
    folder = str(foreign(tmp_path, simple_steps(), [simple(rows) for rows in (3, 4, 5, 6)]))
    assert load(TFDSData(path=folder, split="train[:50%]")).lengths.tolist() == [3, 4]
    with pytest.raises(DataError, match="cannot read split 'test'.*splits: train"):
        load(TFDSData(path=folder, split="test"))


def test_a_missing_or_empty_folder_is_reported(tmp_path):
    refused(tmp_path, "is an empty folder; data=tfds reads TFDS in the RLDS layout")
    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "notes.txt").write_text("")
    refused(tmp_path, "has no dataset_info.json")
    with pytest.raises(ConfigError, match="data.path or data.builder needs a value"):
        load(TFDSData())


def test_a_dataset_that_tfds_cannot_open_is_refused(tmp_path):
    write_rlds(logs(), tmp_path / "set", "name")
    (tmp_path / "set" / "features.json").write_text("{")
    refused(tmp_path / "set", "cannot be read")


def test_another_storage_format_is_refused(tmp_path):
    folder = foreign(tmp_path, simple_steps(), [simple(3)])
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"riegeli"'))
    refused(folder, "stored as riegeli; accepted: array_record, tfrecord")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("action"), "steps have no action"),
        (lambda s: s.update(action={"arm": tensor(2)}), "action is a dict of arm"),
        (lambda s: s.update(action=tensor(2, dtype=np.int32)), r"action is int32 of shape \(2,\)"),
        (lambda s: s.update(observation=np.int64), "observation 'observation' is one integer"),
    ],
)
def test_layouts_that_are_not_rlds_are_refused(tmp_path, change, words):
    steps = simple_steps()
    change(steps)
    refused(foreign(tmp_path, steps, [[]]), words)


def test_records_without_steps_are_refused(tmp_path):
    refused(
        foreign(tmp_path, simple_steps(), [simple(3)], layout="turns"), "no nested dataset `steps`"
    )


@pytest.mark.parametrize("field", ["is_last", "is_terminal"])
def test_a_record_of_several_episodes_is_refused(tmp_path, field):
    episode = simple(5)
    episode[field][2] = True
    words = (
        f"episode 1: {field} at step 2, before the last step, 4; accepted: one episode per record"
    )
    refused(foreign(tmp_path, simple_steps(), [simple(3), episode]), words)


def test_options_without_a_reader_are_refused():
    with pytest.raises(ArgumentError, match="accepted: the options of a format"):
        load(DataOptions(name="unknown"))


@pytest.mark.parametrize("shape", [(4, 4, 3), (None, 4, 3)])
def test_a_compressed_tensor_is_decompressed_up_to_its_shape(tmp_path, shape):
    feature = tensor(*shape, dtype=np.uint8, encoding="zlib")
    episode = simple(3) | {"observation": np.zeros((3, 4, 4, 3), np.uint8)}
    folder = foreign(tmp_path, simple_steps() | {"observation": feature}, [episode])
    assert load(TFDSData(path=str(folder))).observations["image"].shape == (3, 4, 4, 3)
    bomb = zlib.compress(bytes(2**26))
    for step in (bomb, {"shape": (2**15, 2**15, 3), "value": bomb}):
        with pytest.raises(DataError, match="holds more than the 48|claims 3.0 GiB"):
            check_compressed(tensor(4, 4, 3, dtype=np.uint8, encoding="zlib"), [step])
