"""The native format: written logs come back to the bit, foreign sets are read or refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from worldmodel.config import DataOptions, TFDSData
from worldmodel.data import ActionSpec, Trajectories, load
from worldmodel.data.readers import tfds as native
from worldmodel.errors import DataError

LENGTHS = [4, 2, 7]
ROWS = sum(LENGTHS)
LAST = np.cumsum(LENGTHS) - 1


def logs(discrete: bool = False, reward: bool = True) -> Trajectories:
    """Three episodes with a vector, an awkward vector and an image; the second one is terminal."""
    generator = np.random.default_rng(0)
    awkward = np.array([-0.0, 1e-45, 3.4e38, 1 / 3], np.float32)  # a denormal, nearly infinite
    actions = generator.uniform([-2, -0.3], [0.3, 7], (ROWS, 2)).astype(np.float32)
    if discrete:
        actions = generator.integers(0, 4, ROWS).astype(np.int32)
    actions[LAST] = 0
    rewards = generator.standard_normal(ROWS).astype(np.float32)
    rewards[LAST] = 0
    spec = ActionSpec(False, 2, (-2.0, -1 / 3), (1 / 3, 7.1))
    return Trajectories(
        observations={
            "velocity": generator.standard_normal((ROWS, 3)).astype(np.float32),
            "awkward": np.tile(awkward, (ROWS, 1)),
            "camera": generator.integers(0, 256, (ROWS, 6, 5, 3)).astype(np.uint8),
        },
        actions=actions,
        rewards=rewards if reward else None,
        lengths=np.array(LENGTHS),
        terminated=np.array([False, True, False]),
        action_spec=ActionSpec(True, 4) if discrete else spec,
        source="test",
    )


def foreign(folder: Path, steps: dict, episodes: list, layout: str = "steps", **builder) -> Path:
    """A set that somebody else's builder prepared: DATA_DIR/NAME/VERSION with these features."""
    import tensorflow_datasets as tfds

    class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("2.1.0")
        code_path = None
        name = "foreign"

        def _info(self):
            features = tfds.features.FeaturesDict({layout: tfds.features.Dataset(steps)})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index, episode in enumerate(episodes):
                yield index, {layout: episode}

    tfds.disable_progress_bar()
    made = Foreign(data_dir=str(folder), **{"file_format": "array_record", **builder})
    made.download_and_prepare()
    return Path(made.data_dir)


def ends(rows: int, last: bool = True, terminal: bool = False) -> dict[str, np.ndarray]:
    row = np.arange(rows)
    return {
        "is_first": row == 0,
        "is_last": (row == rows - 1) & last,
        "is_terminal": (row == rows - 1) & terminal,
    }


def tensor(*shape: int | None, dtype: type = np.float32, **options):
    import tensorflow_datasets as tfds

    return tfds.features.Tensor(shape=shape, dtype=dtype, **options)


FLAGS = {"is_first": np.bool_, "is_last": np.bool_, "is_terminal": np.bool_}


# -------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("reward", [False, True])
def test_what_is_written_is_read_back_to_the_bit(tmp_path, discrete, reward):
    written = logs(discrete, reward)
    native.write(written, tmp_path / "set", "some name", {"environment": "Some-v0"})
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

    native.write(logs(), tmp_path / "set", "name")
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
    native.write(logs().select(order), tmp_path / "set", "name")
    read = load(TFDSData(path=str(tmp_path / "set")))
    assert read.lengths.tolist() == np.array(LENGTHS)[order].tolist()


def test_a_card_lies_beside_the_records(tmp_path):
    native.write(logs(), tmp_path / "set", "name")
    assert json.loads((tmp_path / "set" / "card.json").read_text())["transitions"] == ROWS - 3


def test_a_folder_in_use_is_not_overwritten_and_nothing_else_is_left(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError):
        native.write(logs(), tmp_path / "set", "name")
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "mine.txt"]


LAZY = """
import sys
import worldmodel.data
assert not {"tensorflow_datasets", "gymnasium", "jax"} & set(sys.modules), "not lazy"
from worldmodel.config import GymnasiumData
worldmodel.data.load(GymnasiumData(environment="CartPole-v1", episodes=2, cache_dir=sys.argv[1]))
assert "tensorflow_datasets" in sys.modules
assert not {"tensorflow", "jax"} & set(sys.modules), "needs TensorFlow or JAX"
"""


def test_libraries_are_imported_on_use_and_tensorflow_never(tmp_path):
    subprocess.run([sys.executable, "-c", LAZY, str(tmp_path)], check=True)


# ------------------------------------------------------------------------ sets of other origin


def test_a_foreign_set_gets_its_bounds_from_its_data(tmp_path):
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
    assert "instruction" not in read.observations and "'instruction' left out" in caplog.text
    assert read.action_spec == ActionSpec(True, 6) and read.actions.tolist() == [0, 1, 0] * 2
    assert read.rewards is None


def simple(rows: int, **flags) -> dict:
    return {
        "observation": np.arange(rows, dtype=np.float32)[:, None],
        "action": np.linspace(-1, 1, rows, dtype=np.float32)[:, None],
        "reward": np.ones(rows, np.float32),
        **ends(rows, **flags),
    }


def simple_steps() -> dict:
    return {"observation": tensor(1), "action": tensor(1), "reward": np.float32, **FLAGS}


def test_an_episode_that_breaks_off_is_no_terminal_and_one_row_is_no_episode(tmp_path, caplog):
    episodes = [simple(4, last=False), simple(1), simple(3, terminal=True)]
    read = load(TFDSData(path=str(foreign(tmp_path, simple_steps(), episodes))))
    assert read.lengths.tolist() == [4, 3] and read.terminated.tolist() == [False, True]
    assert read.returns().tolist() == [3.0, 2.0]  # what the last row earned has no successor
    assert "1 episodes of a single row left out" in caplog.text
    assert "2 episodes have a reward in their last row" in caplog.text


def test_a_version_is_found_below_the_name_and_several_are_refused(tmp_path):
    foreign(tmp_path / "one", simple_steps(), [simple(3)])
    assert load(TFDSData(path=str(tmp_path / "one"))).num_episodes == 1
    foreign(tmp_path / "two", simple_steps(), [simple(3)])
    with pytest.raises(DataError, match="several data sets.*one/foreign/2.1.0.*two/foreign/2.1.0"):
        load(TFDSData(path=str(tmp_path)))


def test_a_part_of_a_split_can_be_read_and_an_unknown_one_is_refused(tmp_path):
    folder = str(foreign(tmp_path, simple_steps(), [simple(rows) for rows in (3, 4, 5, 6)]))
    assert load(TFDSData(path=folder, split="train[:50%]")).lengths.tolist() == [3, 4]
    with pytest.raises(DataError, match="cannot read split 'test'.*splits: train"):
        load(TFDSData(path=folder, split="test"))


# ------------------------------------------------------------------------------------ refused


def refused(folder: Path, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load(TFDSData(path=str(folder)))
    assert str(folder) in str(caught.value)


def test_a_missing_or_empty_folder_is_named(tmp_path):
    refused(tmp_path, "is empty; data=tfds reads a prepared TFDS directory")
    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "notes.txt").write_text("")
    refused(tmp_path, "has no dataset_info.json")
    with pytest.raises(DataError, match="data.path is not set"):
        load(TFDSData())


def test_damaged_and_missing_records_are_named(tmp_path):
    native.write(logs(), tmp_path / "set", "name")
    (records,) = (tmp_path / "set").glob("*.array_record*")
    whole = bytearray(records.read_bytes())
    records.unlink()
    refused(tmp_path / "set", "cannot")
    records.write_bytes(bytes(255 - byte for byte in whole))
    refused(tmp_path / "set", "cannot")
    (tmp_path / "set" / "features.json").write_text("{")
    refused(tmp_path / "set", "TFDS cannot open it")


def test_files_that_are_no_array_record_are_refused(tmp_path):
    folder = foreign(tmp_path, simple_steps(), [simple(3)])
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    refused(folder, "stored as tfrecord; accepted: array_record")


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
        foreign(tmp_path, simple_steps(), [simple(3)], layout="turns"), "no nested data set `steps`"
    )


@pytest.mark.parametrize("field", ["is_last", "is_terminal"])
def test_an_end_inside_a_record_is_refused(tmp_path, field):
    episode = simple(5)
    episode[field][2] = True
    words = f"episode 1 row 2: {field} before the last row, 4; accepted: one episode a record"
    refused(foreign(tmp_path, simple_steps(), [simple(3), episode]), words)


def test_options_without_a_reader_are_refused():
    with pytest.raises(DataError, match="no reader takes DataOptions; accepted: Gymnasium"):
        load(DataOptions(name="unknown"))
