"""Minari: datasets of its own collector are read as they were collected, or refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldmodel.data import ActionSpec, load
from worldmodel.data.readers import minari as reader
from worldmodel.data.readers.minari import MinariData
from worldmodel.errors import ConfigError, DataError

minari = pytest.importorskip("minari", reason="the extra `minari` is not installed")
EpisodeBuffer = pytest.importorskip("minari.data_collector").EpisodeBuffer
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Minari asks for authors and links

FORMATS = ["hdf5", "arrow", "parquet"]


class Room(gymnasium.Env):
    """Observes `shows(k)` at step k of an episode of `length` steps, which then is terminal."""

    def __init__(
        self,
        observation: spaces.Space,
        action: spaces.Space,
        shows: Callable[[int], object],
        length: int = 3,
    ):
        self.observation_space, self.action_space = observation, action
        self.shows, self.length, self.step_ = shows, length, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_ = 0
        return self.shows(0), {}

    def step(self, action):
        self.step_ += 1
        return self.shows(self.step_), float(self.step_), self.step_ == self.length, False, {}


def box(*shape: int, dtype: type = np.float32, bound: float = 1.0) -> spaces.Box:
    return spaces.Box(-bound, bound, shape, dtype)


def pixels(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def filled(*shape: int, dtype: type = np.float32, times: float = 1) -> Callable[[int], np.ndarray]:
    """Observations of a room: at step k, an array filled with `times` k."""
    return lambda k: np.full(shape, times * k, dtype)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    return tmp_path / "sets"


def collect(
    environment: gymnasium.Env, name: str, episodes: int = 2, steps: int = 1000, **options
) -> list[minari.EpisodeData]:
    """Has Minari collect random episodes of at most `steps` steps; returns Minari's episodes."""
    collector = minari.DataCollector(environment, **options)
    collector.action_space.seed(0)
    for seed in range(episodes):
        collector.reset(seed=seed)
        for _ in range(steps):
            *_, terminated, truncated, _ = collector.step(collector.action_space.sample())
            if terminated or truncated:
                break
    episodes = list(collector.create_dataset(name))
    collector.close()
    return episodes


def room(root: Path, name: str = "room/test-v0", episodes: int = 2, **options) -> Path:
    """The folder of a dataset from a room with a vector of size 2 and one action."""
    options = {"observation": box(2), "action": box(1), "shows": filled(2)} | options
    storage = {key: options.pop(key) for key in ("data_format", "jpeg_encoding") if key in options}
    collect(Room(**options), name, episodes, **storage)
    return root / name / "data"


def read(name: str = "room/test-v0", **options):
    return load(MinariData(dataset=name, **options))


# ----------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("data_format", FORMATS)
def test_episodes_are_read_as_minari_returns_them(root, data_format):
    logged = collect(gymnasium.make("CartPole-v1"), "cart/pole-v3", 5, data_format=data_format)
    logs = read("cart/pole-v3")
    assert logs.lengths.tolist() == [len(episode) + 1 for episode in logged]
    assert logs.action_spec == ActionSpec(True, 2)
    for episode, first, last in zip(logged, logs.offsets, logs.last_steps, strict=True):
        rows = slice(first, last + 1)
        np.testing.assert_array_equal(logs.observations["observation"][rows], episode.observations)
        np.testing.assert_array_equal(logs.actions[first:last], episode.actions)
        np.testing.assert_array_equal(logs.rewards[first:last], episode.rewards)
    assert logs.terminated.all()  # a random policy drops the pole


def test_a_time_limit_is_not_terminal_and_declared_bounds_are_kept(root):
    collect(gymnasium.make("Pendulum-v1", max_episode_steps=20), "pendulum/random-v0", 3)
    logs = read("pendulum/random-v0")
    assert logs.lengths.tolist() == [21] * 3 and not logs.terminated.any()
    assert logs.action_spec == ActionSpec(False, 1, (-2.0,), (2.0,))


@pytest.mark.parametrize("data_format", FORMATS)
def test_actions_of_several_parts_are_read_as_they_were_taken(root, data_format):
    parts = {"gear": spaces.Discrete(3, start=1), "push": box(2), "lights": spaces.MultiBinary(2)}
    options = {"observation": box(2), "action": spaces.Dict(parts), "shows": filled(2)}
    logged = collect(Room(**options), "room/parts-v0", data_format=data_format)
    logs = read("room/parts-v0")
    assert logs.action_spec.classes == (3, 2, 2, 0, 0)  # gear, lights, push
    for episode, first, last in zip(logged, logs.offsets, logs.last_steps, strict=True):
        taken = {key: np.asarray(episode.actions[key]) for key in parts}
        taken["gear"] = taken["gear"] - 1
        taken["lights"] = taken["lights"].astype(int)
        np.testing.assert_array_equal(logs.actions[first:last], logs.action_spec.flatten(taken))


def test_an_episode_that_was_cut_off_is_not_terminal(root):
    collect(gymnasium.make("CartPole-v1"), "cart/short-v0", steps=3)
    assert not read("cart/short-v0").terminated.any()


def test_episodes_are_read_one_by_one(root):
    room(root, episodes=4)
    log = reader.read(MinariData(dataset="room/test-v0"))
    assert log.count == 4 and isinstance(log.episodes, Iterator)
    assert [path.name for path in log.files] == ["main_data.hdf5", "metadata.json"]
    shutil.rmtree(root / "room")
    assert "cannot be read" in next(iter(log.episodes)).error


@pytest.mark.parametrize("data_format", FORMATS)
def test_nested_observations_keep_their_names(root, data_format):
    space = spaces.Dict(
        arm=spaces.Dict(joints=box(3, dtype=np.float64), pair=spaces.Tuple((box(1), box(2)))),
        camera=pixels(4, 6, 3),
        map=pixels(5, 4),
        pressed=spaces.MultiBinary(2),
    )

    def shows(k: int) -> dict:
        pair = (filled(1)(k), filled(2, times=-1)(k))
        return {
            "arm": {"joints": filled(3, dtype=np.float64, times=1 / 8)(k), "pair": pair},
            "camera": filled(4, 6, 3, dtype=np.uint8, times=10)(k),
            "map": filled(5, 4, dtype=np.uint8)(k),
            "pressed": np.array([k % 2, 1], np.int8),
        }

    room(root, observation=space, shows=shows, data_format=data_format)
    observations = read().observations
    rows = np.arange(4)
    assert set(observations) == {
        "arm/joints", "arm/pair/0", "arm/pair/1", "camera", "map", "pressed"
    }  # fmt: skip
    np.testing.assert_array_equal(observations["arm/joints"][:4], np.tile(rows[:, None] / 8, 3))
    np.testing.assert_array_equal(observations["arm/pair/1"][4:], np.tile(-rows[:, None], 2))
    assert observations["camera"].shape == (8, 4, 6, 3)
    assert observations["camera"].dtype == observations["map"].dtype == np.uint8
    assert observations["camera"][:4, 0, 0, 0].tolist() == [0, 10, 20, 30]
    assert observations["map"].shape == (8, 5, 4, 1)  # an image of one channel
    assert observations["pressed"][:4].tolist() == [[0, 1], [1, 1], [0, 1], [1, 1]]


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("jpeg", [False, True])
def test_images_are_decoded(root, data_format, jpeg):
    kept = {"data_format": data_format, "jpeg_encoding": jpeg}
    shows = filled(32, 48, 3, dtype=np.uint8, times=20)
    room(root, observation=pixels(32, 48, 3), shows=shows, **kept)
    image = read().observations["image"]
    assert image.shape == (8, 32, 48, 3) and image.dtype == np.uint8
    off = image[:4].astype(int) - np.array([0, 20, 40, 60])[:, None, None, None]
    assert np.abs(off).max() <= (1 if jpeg else 0)


def test_a_discrete_observation_is_a_one_hot_vector(root):
    room(root, observation=spaces.Discrete(4, start=-1), shows=lambda k: np.int64(k - 1))
    np.testing.assert_array_equal(read().observations["observation"][:4], np.eye(4))


def test_text_is_left_out(root, caplog):
    space = spaces.Dict(mission=spaces.Text(10), place=box(2))
    room(root, observation=space, shows=lambda k: {"mission": "go", "place": filled(2)(k)})
    assert set(read().observations) == {"place"}
    assert "'mission' is text and is left out" in caplog.text


def test_classes_of_actions_start_at_zero(root):
    logged = room_actions(root, spaces.Discrete(3, start=5))
    logs = read()
    assert logs.action_spec == ActionSpec(True, 3)
    assert logs.actions[:3].tolist() == (logged - 5).tolist()


def test_actions_of_any_shape_become_vectors(root):
    logged = room_actions(root, box(2, 2, dtype=np.float64))
    logs = read()
    assert logs.action_spec == ActionSpec(False, 4, (-1.0,) * 4, (1.0,) * 4)
    np.testing.assert_array_equal(logs.actions[:3], logged.reshape(3, 4).astype(np.float32))


@pytest.mark.parametrize("bound", [np.inf, np.finfo(np.float32).max])
def test_infinite_bounds_are_inferred_from_the_data(root, bound):
    collector = minari.DataCollector(Room(box(2), box(1, bound=bound), filled(2)))
    collector.reset(seed=0)
    for action in (-3.0, 0.0, 5.0):
        collector.step(np.array([action], np.float32))
    collector.create_dataset("room/free-v0")
    assert read("room/free-v0").action_spec == ActionSpec(False, 1, (-3.0,), (5.0,))


def room_actions(root: Path, space: spaces.Space) -> np.ndarray:
    room(root, action=space)
    return np.asarray(minari.load_dataset("room/test-v0")[0].actions)


# --------------------------------------------------------------------------------------- refused


def refused(words: str, name: str = "room/test-v0", **options) -> None:
    with pytest.raises(DataError, match=words):
        read(name, **options)


def test_a_missing_dataset_is_refused_with_a_list_of_the_others(root):
    room(root, "room/near-v0")
    room(root, "far-v1")
    wanted = "room/near-v1"
    refused("no Minari dataset 'room/near-v1' .*mean 'room/near-v0'", wanted)
    refused("present: far-v1, room/near-v0;", wanted)
    refused(f"MINARI_DATASETS_PATH={root} minari download room/near-v1", wanted)
    with pytest.raises(ConfigError, match="data.dataset needs a value for data=minari"):
        load(MinariData())
    refused("present: none", "any-v0", path=str(root / "nowhere"))


def test_the_folder_of_datasets_can_be_given(root, monkeypatch):
    room(root)
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    assert read(path=str(root)).num_episodes == 2
    monkeypatch.setenv("HOME", str(root.parent / "home"))
    refused("home/.minari/datasets has no Minari dataset")


def test_without_minari_the_extra_is_suggested(root, monkeypatch):
    room(root)
    monkeypatch.setitem(sys.modules, "minari", None)  # as if it were not installed
    refused(r'pip install "worldmodel\[minari\]"')


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"observation": spaces.Text(5), "shows": lambda k: "word"},
            "no numeric observations",
        ),
        ({"action": spaces.Dict(a=spaces.Text(3))}, "action is Text.*; accepted: Box, Discrete, M"),
    ],
)
def test_unsupported_spaces_are_refused(root, options, words):
    room(root, **options)
    refused(words)


@pytest.mark.parametrize("metadata", ["", "[]", "{}", '{"data_format": "hdf5"}'])
def test_a_dataset_that_minari_cannot_open_is_refused(root, metadata):
    folder = room(root)
    (folder / "metadata.json").write_text(metadata)
    refused(f"{folder}: (cannot be read|its metadata have no observation_space)")


def test_a_dataset_of_a_later_minari_is_refused(root):
    metadata = room(root) / "metadata.json"
    metadata.write_text(metadata.read_text().replace(minari.__version__, "99.0.0"))
    refused("does not support the dataset generated by Minari 99.0.0")


# --------------------------------------------------------------------------------------- damaged


@pytest.mark.parametrize("kept", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_reported(root, kept):
    file = room(root) / "main_data.hdf5"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    refused("episode 0: cannot be read")


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_a_damaged_episode_is_reported_and_the_others_are_read(root, data_format):
    folder = room(root, episodes=4, data_format=data_format)
    (file,) = (folder / "2").glob("*." + data_format)
    file.write_bytes(file.read_bytes()[:100])
    refused("1 error in the data\n  - episode 2: cannot be read")
    logs = read(on_invalid_episode="skip")
    assert logs.num_episodes == 3 and logs.name(2) == "episode 3"


@pytest.mark.parametrize("data_format", FORMATS)
def test_a_long_episode_is_read_whole_or_refused(root, data_format):
    steps, never = 40_000, np.zeros(40_000, bool)
    episode = EpisodeBuffer(
        observations=np.zeros((steps + 1, 2), np.float32),
        actions=np.zeros((steps, 1), np.float32),
        rewards=np.zeros(steps),
        terminations=never,
        truncations=never,
    )
    room_spaces = {"observation_space": box(2), "action_space": box(1)}
    minari.create_dataset_from_buffers(
        "room/long-v0", [episode], data_format=data_format, **room_spaces
    )
    try:
        assert read("room/long-v0").lengths.tolist() == [steps + 1]
    except DataError as refusal:  # Minari reads only the first of several batches of Arrow
        assert "episode 0: Minari returns 32767 of its 40000 transitions" in str(refusal)


def edited(root: Path, field: str, change: Callable[[np.ndarray], np.ndarray], **options) -> None:
    """Writes a dataset whose episode 1 has other values in a field."""
    import h5py

    with h5py.File(room(root, **options) / "main_data.hdf5", "r+") as file:
        values = change(file[f"episode_1/{field}"][()])
        del file[f"episode_1/{field}"]
        file[f"episode_1/{field}"] = values


@pytest.mark.parametrize(
    ("field", "change", "words"),
    [
        (
            "terminations",
            lambda x: np.roll(x, -1),
            "terminates at step 1 and continues to step 3",
        ),
        (
            "observations",
            lambda x: x[:-1],
            "has 3 steps for 3 transitions; accepted: 4",
        ),
        ("rewards", lambda x: x[:2], "Minari returns 2 of its 3 transitions"),
        ("actions", lambda x: x[:1], "action has 1 steps"),
    ],
)
def test_an_inconsistent_episode_is_reported(root, field, change, words):
    edited(root, field, change)
    refused(f"1 error in the data\n  - episode 1: .*{words}")
    assert read(on_invalid_episode="skip").num_episodes == 1


def test_a_class_outside_the_space_is_reported(root):
    room_of_classes = {"observation": spaces.Discrete(4), "shows": lambda k: np.int64(k)}
    edited(root, "observations", lambda x: np.array([0, 1, 9, 3]), **room_of_classes)
    refused("episode 1: observation 'observation' is 9 at step 2; accepted: 0 to 3")
