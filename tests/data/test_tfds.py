"""The native format is read back bit for bit; TFDS datasets of other origin are read or refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.config import DataOptions
from worldmodel.data import ActionSpec, Trajectories, load
from worldmodel.data.readers import tfds as native
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.rlds_writer import write_rlds
from worldmodel.errors import ConfigError, DataError

LENGTHS = [4, 2, 7]
ROWS = sum(LENGTHS)
LAST = np.cumsum(LENGTHS) - 1


def logs(discrete: bool = False, reward: bool = True) -> Trajectories:
    """Three episodes with vectors and an image; the second one is terminal."""
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


def foreign(
    folder: Path,
    steps: dict,
    episodes: list,
    layout: str = "steps",
    called: str = "foreign",
    version: str = "2.1.0",
    config: str | None = None,
) -> Path:
    """A dataset prepared by another builder, in FOLDER/CALLED/[CONFIG/]VERSION."""
    import tensorflow_datasets as tfds

    class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []
        code_path = None
        name = called

        def _info(self):
            features = tfds.features.FeaturesDict({layout: tfds.features.Dataset(steps)})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index, episode in enumerate(episodes):
                yield index, {layout: episode}

    tfds.disable_progress_bar()
    made = Foreign(data_dir=str(folder), file_format="array_record")
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


def simple(rows: int, **flags) -> dict:
    return {
        "observation": np.arange(rows, dtype=np.float32)[:, None],
        "action": np.linspace(-1, 1, rows, dtype=np.float32)[:, None],
        "reward": np.ones(rows, np.float32),
        **ends(rows, **flags),
    }


def simple_steps() -> dict:
    return {"observation": tensor(1), "action": tensor(1), "reward": np.float32, **FLAGS}


def test_a_cut_off_episode_is_not_terminal_and_a_single_step_is_left_out(tmp_path, caplog):
    episodes = [simple(4, last=False), simple(1), simple(3, terminal=True)]
    read = load(TFDSData(path=str(foreign(tmp_path, simple_steps(), episodes))))
    assert read.lengths.tolist() == [4, 3] and read.terminated.tolist() == [False, True]
    assert read.returns().tolist() == [
        3.0,
        2.0,
    ]  # the reward of the last step has no next observation
    assert "1 episodes of a single step left out" in caplog.text
    assert "2 episodes have a reward at their last step" in caplog.text


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


# ------------------------------------------------------------------------------------ TFRecord

# Written by TFDS itself, with TensorFlow: samples/make_tfrecord.py, which says what is in it. Two
# files of two episodes each.
SAMPLE = Path(__file__).parent / "samples" / "tfrecord"
FIRST_FILE, SECOND_FILE = (f"sample-train.tfrecord-0000{i}-of-00002" for i in (0, 1))


def test_tfrecord_is_read(caplog):
    read = load(TFDSData(path=str(SAMPLE)))
    assert read.lengths.tolist() == [4, 3, 5, 2]
    assert read.terminated.tolist() == [False, True, False, False]
    where = [(e, r) for e, rows in enumerate(read.lengths) for r in range(rows)]
    assert read.observations["position"].tolist() == [list(row) for row in where]
    camera = read.observations["camera"]
    assert camera.shape == (14, 4, 6, 3) and camera.dtype == np.uint8
    assert camera[..., 0, 0, 0].tolist() == [10 * e + r for e, r in where]
    assert np.all(camera == camera[:, :1, :1, :1])
    assert "observation 'objects' is not numeric" in caplog.text
    assert read.observations.keys() == {"camera", "position"}
    assert read.rewards.tolist() == [0, 1, 2, 0] + [0, 1, 0] + [0, 1, 2, 3, 0] + [0, 0]
    np.testing.assert_array_equal(read.actions[4:7], np.float32([[0, -1], [0.1, -1], [0, 0]]))


WITHOUT_TENSORFLOW = """
import sys
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data import load
assert load(TFDSData(path=sys.argv[1])).num_episodes == 4
assert "tensorflow" not in sys.modules
"""


def test_tfrecord_needs_no_tensorflow():
    subprocess.run([sys.executable, "-c", WITHOUT_TENSORFLOW, str(SAMPLE)], check=True)


@pytest.mark.parametrize(
    ("split", "lengths"),
    [("train[:50%]", [4, 3]), ("train[1:3]", [3, 5]), ("train[-1:]", [2]), ("all", [4, 3, 5, 2])],
)
def test_a_part_of_a_split_may_begin_and_end_inside_tfrecord_files(split, lengths):
    assert load(TFDSData(path=str(SAMPLE), split=split)).lengths.tolist() == lengths


def test_an_empty_part_of_a_split_is_refused():
    with pytest.raises(DataError, match=r"split 'train\[:0\]' holds no episodes"):
        load(TFDSData(path=str(SAMPLE), split="train[:0]"))


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_tfrecord_file_is_reported_and_the_rest_is_read(share):
    whole = (SAMPLE / FIRST_FILE).read_bytes()
    first_record = 16 + int.from_bytes(whole[:8], "little")  # its length, checksums and bytes
    cut = int(share * len(whole))
    left = [4, 5, 2] if cut >= first_record else [5, 2]
    with tempfile.TemporaryDirectory() as root:
        folder = shutil.copytree(SAMPLE, Path(root) / "set")
        (folder / FIRST_FILE).write_bytes(whole[:cut])
        refused(folder, f"record 1 of {FIRST_FILE} cannot be read .*truncated")
        read = load(TFDSData(path=str(folder), on_invalid_episode="skip"))
    assert read.lengths.tolist() == left
    assert read.name(len(left) - 1) == "episode 3"  # names do not change


def test_a_damaged_tfrecord_file_is_reported_and_the_rest_is_read(tmp_path):
    folder = shutil.copytree(SAMPLE, tmp_path / "set")
    records = bytearray((folder / SECOND_FILE).read_bytes())
    records[12] ^= 0xFF  # the first byte of the first record
    (folder / SECOND_FILE).write_bytes(records)
    refused(folder, f"episode 2: record 0 of {SECOND_FILE} cannot be read")
    read = load(TFDSData(path=str(folder), on_invalid_episode="skip"))
    assert read.lengths.tolist() == [4, 3, 2]
    records[7] = 0xFF  # a length beyond all memory: nothing after it can be found
    (folder / SECOND_FILE).write_bytes(records)
    read = load(TFDSData(path=str(folder), on_invalid_episode="skip"))
    assert read.lengths.tolist() == [4, 3]


def test_a_missing_file_is_reported(tmp_path):
    folder = shutil.copytree(SAMPLE, tmp_path / "set")
    (folder / SECOND_FILE).unlink()
    refused(folder, f"files are missing\n  - {SECOND_FILE}")
    assert load(TFDSData(path=str(folder), split="train[:50%]")).num_episodes == 2


# --------------------------------------------------------------------------- damaged ArrayRecord


@pytest.fixture
def array_record(tmp_path) -> Path:
    """The file of a dataset of 30 episodes."""
    write_rlds(logs().select(np.arange(30) % 3), tmp_path / "set", "name")
    return next((tmp_path / "set").glob("*.array_record*"))


def test_a_damaged_record_is_reported_and_the_others_are_read(array_record):
    records = bytearray(array_record.read_bytes())
    records[10_000] ^= 0xFF
    array_record.write_bytes(records)
    words = rf"1 error in the data\n  - episode 12: record 12 of {array_record.name} cannot be read"
    refused(array_record.parent, words)
    read = load(TFDSData(path=str(array_record.parent), on_invalid_episode="skip"))
    assert read.lengths.tolist() == (LENGTHS * 10)[:12] + (LENGTHS * 10)[13:]


@pytest.mark.parametrize("kept", [0, 100, 0.4, 0.5, 0.9999])
def test_a_truncated_array_record_file_is_reported(array_record, kept):
    records = array_record.read_bytes()
    array_record.write_bytes(records[: kept if kept > 1 else int(kept * len(records))])
    refused(array_record.parent, "episode 0.*(cannot be read|is missing from the record)")


def test_a_file_that_is_not_an_array_record_is_reported(array_record):
    array_record.write_bytes(bytes(255 - byte for byte in array_record.read_bytes()))
    refused(array_record.parent, f"record 0 of {array_record.name} cannot be read")


# -------------------------------------------------------------------------------- datasets by name


def by_name(builder: str, data_dir: Path | None = None) -> TFDSData:
    return TFDSData(builder=builder, path=str(data_dir) if data_dir else None)


def test_the_newest_version_is_found_by_the_name(tmp_path):
    for rows, version in enumerate(("1.9.0", "1.10.0", "1.2.0"), start=3):
        foreign(tmp_path, simple_steps(), [simple(rows)], version=version)
    assert load(by_name("foreign", tmp_path)).lengths.tolist() == [4]
    assert load(by_name("foreign:1.9.0", tmp_path)).lengths.tolist() == [3]
    assert load(by_name("foreign:1.2.*", tmp_path)).lengths.tolist() == [5]


def test_the_name_includes_a_config_and_the_default_folder_is_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for rows, config in enumerate(("v0-medium", "v0-expert"), start=3):
        foreign(tmp_path, simple_steps(), [simple(rows)], config=config)
    assert load(by_name("foreign/v0-medium")).lengths.tolist() == [3]
    assert load(by_name("foreign/v0-expert:2.1.0")).lengths.tolist() == [4]
    with pytest.raises(DataError, match=r"foreign/v0-expart is not .*mean 'foreign/v0-expert'\?"):
        load(by_name("foreign/v0-expart"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("d4rl_mujoco_halfchetah/v0-medium", "TFDS has no builder .*'d4rl_mujoco_halfcheetah'"),
        ("d4rl_mujoco_halfcheetah/v0-mediun", "has no config .*mean 'v0-medium'.*and 7 more"),
        ("d4rl_mujoco_halfcheetah", "d4rl_mujoco_halfcheetah needs a config; accepted: v0-expert"),
        ("mnist/large", "mnist has no config 'large'; accepted: the name alone"),
        ("../secrets", "accepted: NAME, NAME/CONFIG or NAME/CONFIG:VERSION"),
    ],
)
def test_unknown_names_are_refused(tmp_path, name, words):
    with pytest.raises(DataError, match=words):
        load(by_name(name, tmp_path))


@pytest.mark.skipif(find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_without_tensorflow_the_message_explains_how_to_prepare_a_dataset(tmp_path):
    with pytest.raises(DataError) as refusal:
        load(by_name("d4rl_mujoco_halfcheetah/v0-medium", tmp_path))
    message = str(refusal.value)
    assert f"is not prepared below {tmp_path}" in message
    assert 'pip install "worldmodel[tensorflow]"' in message
    assert f"tfds.builder('d4rl_mujoco_halfcheetah/v0-medium', data_dir='{tmp_path}'" in message


def test_a_builder_is_prepared_with_tensorflow(tmp_path):
    pytest.importorskip("tensorflow", reason="preparing a dataset needs TensorFlow")
    import tensorflow_datasets as tfds

    class TwoPoints(tfds.core.GeneratorBasedBuilder):  # registered by TFDS as two_points
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            features = {"steps": tfds.features.Dataset(simple_steps())}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            if not (tmp_path / "source").exists():
                raise OSError("no network")
            yield 0, {"steps": simple(3)}

    with pytest.raises(DataError, match=r"TFDS cannot prepare it \(OSError: .*no network"):
        load(by_name("two_points", tmp_path))
    (tmp_path / "source").touch()
    assert load(by_name("two_points", tmp_path)).lengths.tolist() == [3]
    assert (tmp_path / "two_points" / "1.0.0" / "dataset_info.json").exists()


# ------------------------------------------------------------------------------------ refused


def refused(folder: Path, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load(TFDSData(path=str(folder)))
    assert str(folder) in str(caught.value)


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
    refused(tmp_path / "set", "TFDS cannot open it")


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
    with pytest.raises(ConfigError, match="DataOptions is not registered; accepts one of gym"):
        load(DataOptions(name="unknown"))
