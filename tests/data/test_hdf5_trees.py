"""Trees of HDF5, a group an episode: each layout gives the same episodes, value by value."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.data import Trajectories, load
from worldmodel.data.readers.hdf5 import HDF5Data
from worldmodel.errors import DataError

Logged = list[dict[str, Any]]


def logged(lengths: list[int], terminal: list[bool]) -> Logged:
    """Episodes of T transitions, with T + 1 observations of two kinds, which encode their place."""
    rng, episodes = np.random.default_rng(0), []
    for number, (count, ended) in enumerate(zip(lengths, terminal, strict=True)):
        position = np.stack([np.full(count + 1, number), np.arange(count + 1.0)], 1)
        episodes.append(
            {
                "position": position.astype("f4"),
                "camera": rng.integers(0, 255, (count + 1, 4, 4, 3), np.uint8),
                "actions": rng.normal(size=(count, 3)).astype("f4"),
                "rewards": rng.normal(size=count).astype("f4"),
                "ends": np.arange(count) == (count - 1 if ended else count),
            }
        )
    return episodes


def robomimic(file: h5py.File, episodes: Logged) -> None:
    """As `dataset_states_to_obs.py` writes it, and so robosuite, MimicGen and LIBERO."""
    file.create_group("data").attrs.update(total=1, env_args="{}")
    for number, episode in enumerate(episodes):
        group = file.create_group(f"data/demo_{number}")
        group.attrs["num_samples"] = len(episode["actions"])
        for key in ("position", "camera"):
            group[f"obs/{key}"] = episode[key][:-1]
            group[f"next_obs/{key}"] = episode[key][1:]
        group["actions"], group["rewards"] = episode["actions"], episode["rewards"]
        group["dones"] = episode["ends"].astype(int)
        group["states"] = np.zeros((len(episode["actions"]), 5))
    halves = {"train": range(0, len(episodes), 2), "valid": range(1, len(episodes), 2)}
    for name, numbers in halves.items():
        file[f"mask/{name}"] = np.array([f"demo_{n}" for n in numbers], "S8")


def isaac(file: h5py.File, episodes: Logged) -> None:
    """Without the observation after the last action, and without marks."""
    for number, episode in enumerate(episodes):
        group = file.create_group(f"data/demo_{number}")
        for key in ("position", "camera"):
            group[f"obs/{key}"] = episode[key][:-1]
        group["actions"], group["rewards"] = episode["actions"], episode["rewards"]


def maniskill(file: h5py.File, episodes: Logged) -> None:
    for number, episode in enumerate(episodes):
        group = file.create_group(f"traj_{number}")
        group["obs/agent/position"], group["obs/camera"] = episode["position"], episode["camera"]
        group["actions"], group["rewards"] = episode["actions"], episode["rewards"]
        group["terminated"], group["truncated"] = (
            episode["ends"],
            ~episode["ends"][-1:].repeat(len(episode["actions"]))
            & (np.arange(len(episode["actions"])) == len(episode["actions"]) - 1),
        )


def d3rlpy(file: h5py.File, episodes: Logged) -> None:
    """As `ReplayBuffer.dump` writes several observations."""
    for number, episode in enumerate(episodes):
        file[f"observations_{number}_0"] = episode["position"][:-1]
        file[f"observations_{number}_1"] = episode["camera"][:-1]
        file[f"actions_{number}"] = episode["actions"]
        file[f"rewards_{number}"] = episode["rewards"][:, None]
        file[f"terminated_{number}"] = bool(episode["ends"].any())
    file["columns"] = np.array(["observations", "actions", "rewards", "terminated"], "S12")
    file["num_episodes"], file["version"] = len(episodes), "2.1"


# layout: how it is written, whether the final observation is logged, whether ends are,
# and the names of the observations
LAYOUTS: dict[str, tuple[Callable[[h5py.File, Logged], None], bool, bool, tuple[str, str]]] = {
    "robomimic": (robomimic, True, True, ("position", "camera")),
    "isaac": (isaac, False, False, ("position", "camera")),
    "maniskill": (maniskill, True, True, ("agent/position", "camera")),
    "d3rlpy": (d3rlpy, False, True, ("0", "1")),
}


def read(folder: Path, write: Callable, episodes: Logged, **options: Any) -> Trajectories:
    with h5py.File(folder / "log.hdf5", "w") as file:
        write(file, episodes)
    return load(HDF5Data(path=str(folder / "log.hdf5"), cache="never", **options))


def check(logs: Trajectories, episodes: Logged, layout: str) -> None:
    """The same values in the same order, and the ends that the layout tells."""
    _, final, ends, keys = LAYOUTS[layout]
    assert logs.num_transitions == sum(len(e["actions"]) for e in episodes)
    for number, episode in enumerate(episodes):
        begin, count = logs.offsets[number], len(episode["actions"])
        steps = count + final
        for key, name in zip(("position", "camera"), keys, strict=True):
            found = logs.observations[name][begin : begin + steps]
            np.testing.assert_array_equal(found, episode[key][:steps])
        np.testing.assert_array_equal(logs.actions[begin : begin + count], episode["actions"])
        assert logs.rewards is not None
        np.testing.assert_array_equal(logs.rewards[begin : begin + count], episode["rewards"])
        assert logs.terminated[number] == (ends and episode["ends"].any())


@settings(max_examples=12, deadline=None)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    kinds=st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=12),
)
def test_every_layout_gives_the_same_episodes(
    layout: str, kinds: list[tuple[int, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    episodes = logged(*map(list, zip(*kinds, strict=True)))
    roles = {"dones": "terminal"} if layout == "robomimic" else {}
    folder = tmp_path_factory.mktemp("tree")
    check(read(folder, LAYOUTS[layout][0], episodes, roles=roles), episodes, layout)


def test_episodes_are_in_natural_order(tmp_path: Path) -> None:
    episodes = logged(list(range(2, 14)), [False] * 12)
    logs = read(tmp_path, isaac, episodes)
    assert logs.names[9:] == ("demo_9", "demo_10", "demo_11")
    check(logs, episodes, "isaac")


def test_dones_are_asked_about(tmp_path: Path) -> None:
    episodes = logged([3, 4, 5], [True, True, False])
    with pytest.raises(DataError) as refusal:
        read(tmp_path, robomimic, episodes)
    assert "dones marks 2 of 12 rows" in str(refusal.value)
    assert "data.roles={dones: terminal}" in str(refusal.value)
    assert not read(tmp_path, robomimic, episodes, roles={"dones": "end"}).terminated.any()


def test_filter_keys_choose_episodes(tmp_path: Path) -> None:
    episodes = logged([2, 3, 4, 5], [False] * 4)
    logs = read(tmp_path, robomimic, episodes, filter_key="valid")
    assert logs.names == ("demo_1", "demo_3")
    with pytest.raises(DataError, match="did you mean 'valid'.*accepted: train, valid"):
        read(tmp_path, robomimic, episodes, filter_key="valdi")


def test_rows_after_a_terminal_one_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    episodes = logged([5, 3], [True, True])
    episodes[0]["ends"][2:] = True  # success holds while the demonstration goes on
    with caplog.at_level(logging.WARNING):
        logs = read(tmp_path, maniskill, episodes)
    assert logs.num_transitions == 3 + 3 and logs.terminated.all()
    assert "1 episodes have rows after their first terminal one" in caplog.text
    kept = read(tmp_path, maniskill, episodes, roles={"terminated": "ignore"})
    assert kept.num_transitions == 8 and not kept.terminated.any()


def test_simulator_states_are_observed_where_nothing_else_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    states = np.random.default_rng(0).normal(size=(4, 6)).astype("f4")
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:  # as robosuite collects demonstrations
        for number in (1, 2):
            file[f"data/demo_{number}/states"] = states
            file[f"data/demo_{number}/actions"] = np.ones((4, 2))
    with caplog.at_level(logging.WARNING):
        logs = load(HDF5Data(path=str(tmp_path / "demo.hdf5")))
    assert "2 episodes have no obs; states are observed in their place" in caplog.text
    np.testing.assert_array_equal(logs.observations["observation"][:4], states)
    assert logs.num_transitions == 8


def test_next_observations_without_some_key_or_of_other_rows_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def write(file: h5py.File, episodes: Logged) -> None:
        robomimic(file, episodes)
        del file["data/demo_0/next_obs/camera"]
        file["data/demo_1/next_obs/position"][0] += 1

    with caplog.at_level(logging.WARNING):
        logs = read(tmp_path, write, logged([3, 3], [False, False]))
    assert logs.num_transitions == 6
    assert "1 episodes lack camera after their last action" in caplog.text
    assert "1 episodes have next observations (next_obs/" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.pop("obs"), "demo_1: has no obs; present: actions"),
        (lambda g: (g.pop("rewards"), g.update(rewards=[1.0])), "rewards has shape"),
        (lambda g: (g.pop("actions"), g.update(actions=np.ones((0, 3)))), "actions has no rows"),
        (
            lambda g: g.create_dataset("terminated", data=[0, 2, 0]),
            "terminated is 2 in row 1",
        ),
        (lambda g: g.create_dataset("truncated", data=[1, 0, 0]), "truncated marks an end in row"),
    ],
)
def test_refusals_name_episode_and_field(
    tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    def write(file: h5py.File, episodes: Logged) -> None:
        isaac(file, episodes)
        change(file["data/demo_1"])

    with pytest.raises(DataError) as refusal:
        read(tmp_path, write, logged([3, 3, 3], [False] * 3))
    assert message in str(refusal.value) and "log.hdf5" in str(refusal.value)


def test_an_invalid_episode_can_be_skipped(tmp_path: Path) -> None:
    def write(file: h5py.File, episodes: Logged) -> None:
        isaac(file, episodes)
        del file["data/demo_1/obs"]

    episodes = logged([3, 4, 5], [False] * 3)
    logs = read(tmp_path, write, episodes, on_invalid_episode="skip")
    assert logs.names == ("demo_0", "demo_2")


def test_observations_are_chosen_before_the_final_one_is_looked_for(tmp_path: Path) -> None:
    def write(file: h5py.File, episodes: Logged) -> None:
        robomimic(file, episodes)
        for name in file["data"]:
            del file[f"data/{name}/next_obs/camera"]

    logs = read(tmp_path, write, logged([3, 2], [False, False]), observations=["position"])
    assert set(logs.observations) == {"position"} and logs.final_logged is None
    with pytest.raises(DataError, match="did you mean 'position'"):
        read(tmp_path, write, logged([3], [False]), observations=["positoin"])


@pytest.mark.parametrize(("largest", "discrete"), [(3, True), (300, False)])
def test_single_integers_are_classes_or_counts_in_all_episodes(
    tmp_path: Path, largest: int, discrete: bool
) -> None:
    episodes = logged([3, 3], [False, False])
    for number, episode in enumerate(episodes):
        episode["actions"] = np.array([[0], [1], [largest * number]])
    logs = read(tmp_path, d3rlpy, episodes)
    assert logs.action_spec.discrete == discrete


SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "odd_logs" / "nested"


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not there")
@pytest.mark.parametrize(
    ("name", "options", "count", "terminal"),
    [
        ("robomimic", {"roles": {"dones": "terminal"}}, 120, 4),
        ("robomimic", {"roles": {"dones": "end"}, "observations": ["eef_pos"]}, 120, 0),
        ("maniskill", {}, 90, 3),
        ("d3rlpy2", {}, 30, 1),
    ],
)
def test_odd_logs_of_others(name: str, options: dict, count: int, terminal: int) -> None:
    logs = load(HDF5Data(path=str(SHARED / f"{name}.hdf5"), **options))
    assert logs.num_transitions == count and logs.terminated.sum() == terminal
