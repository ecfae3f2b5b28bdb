"""A replay of logged actions tells whether logs and environment agree, and where they part."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldmodel.config.environment_ids import EnvironmentId
from worldmodel.data import Episode, Trajectories, load, stack_episodes
from worldmodel.data.collection import collect_episodes
from worldmodel.data.commands import run
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.environments.replay import Replay, replay
from worldmodel.environments.replay_report import sentences
from worldmodel.environments.states import state_setter
from worldmodel.errors import UserError

needs_mujoco = pytest.mark.skipif(
    importlib.util.find_spec("mujoco") is None, reason="MuJoCo is not installed"
)
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of older versions


@pytest.fixture(scope="module")
def pendulum_logs() -> Trajectories:
    return collect_episodes("Pendulum-v1", ["uniform"], 4, seed=0)


def told(found: Replay) -> str:
    return " ".join(sentences(found, "ID"))


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1"]
)
def test_logs_of_an_environment_agree_with_it(name):
    logs = collect_episodes(name, ["uniform", "sticky"], 4, seed=0)
    found = replay(logs, name, 4)
    assert found.from_states and not found.random
    assert not any(map(found.parted, found.judged)) and len(found.judged) > 50
    assert max(step.error for step in found.steps) < 1e-2
    assert "The logs and ID agree" in told(found)


def test_every_way_to_part_is_told(pendulum_logs):
    assert "agree: " in told(replay(pendulum_logs, "Pendulum-v1", 2))
    named = {"state": pendulum_logs.observations["observation"]}  # what it shows, by any name
    renamed = dataclasses.replace(pendulum_logs, observations=named)
    assert "agree: " in told(replay(renamed, "Pendulum-v1", 2))
    heavier = replay(pendulum_logs, EnvironmentId("Pendulum-v1", {"g": 9.81}), 2)
    assert "do not agree" in told(heavier)
    assert "first part at episode 0, step 0: observation 'observation', dimension" in told(heavier)
    assert "fits better" not in told(heavier)
    scaled = dataclasses.replace(pendulum_logs, rewards=pendulum_logs.rewards * 2)
    assert "the reward differs by" in told(replay(scaled, "Pendulum-v1", 2))
    ended = dataclasses.replace(pendulum_logs, terminated=np.ones(4, bool))
    words = told(replay(ended, "Pendulum-v1", 2))
    assert "the logs end and the environment does not" in words and "2 in ends" in words


@pytest.mark.parametrize(("moved", "words"), [(1, "the row after"), (-1, "the row before")])
def test_shifted_actions_are_recognized(pendulum_logs, moved, words):
    actions = np.roll(pendulum_logs.actions, moved, axis=0)
    found = replay(dataclasses.replace(pendulum_logs, actions=actions), "Pendulum-v1", 2)
    assert "do not agree" in told(found) and f"The action of {words} fits better" in told(found)


@needs_mujoco
@quiet
def test_another_version_is_recognized_by_what_it_changed():
    hopper = collect_episodes("Hopper-v4", ["uniform"], 6, seed=0)  # pays at the step it falls
    assert hopper.terminated.all()
    words = told(replay(hopper, "Hopper-v5", 6))
    assert "do not agree" in words and "All rewards that differ are those of an episode's" in words
    assert "agree: " in told(replay(hopper, "Hopper-v4", 6))


@needs_mujoco
def test_states_are_set_from_logged_positions_and_velocities():
    environment = gymnasium.make("InvertedDoublePendulum-v5", disable_env_checker=True)
    unwrapped = environment.unwrapped
    environment.reset(seed=3)
    model = unwrapped.model  # pyright: ignore[reportAttributeAccessIssue]
    assert (
        state_setter(environment, {"observation": 9}, ["observation"]) is None
    )  # sines, and no angles
    before = np.concatenate([unwrapped.data.qpos, unwrapped.data.qvel])
    after, *_ = environment.step(np.ones(1, np.float32))
    for values in (
        {"infos/qpos": before[: model.nq], "infos/qvel": before[model.nq :]},
        {"states": np.concatenate([[0.7], before])},
    ):
        sizes = {key: len(value) for key, value in values.items()}
        setter = state_setter(environment, {"observation": 9, **sizes}, ["observation"])
        assert setter is not None
        setter.apply(values)
        again, *_ = environment.step(np.ones(1, np.float32))
        np.testing.assert_allclose(again, after, atol=1e-6)


class Hidden(gymnasium.Env):
    """Observes the square of a state that cannot be set, and draws it at the reset."""

    observation_space = spaces.Box(0, 9, (1,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, gain: float = 0.1):
        self.gain = gain

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1)
        return np.array([self.place**2]), {}

    def step(self, action):
        self.place += self.gain * float(action[0])
        return np.array([self.place**2]), self.place, False, False, {}


@pytest.fixture
def hidden() -> Iterator[str]:
    gymnasium.register("Hidden-v0", Hidden, max_episode_steps=20)
    yield "Hidden-v0"
    del gymnasium.registry["Hidden-v0"]


def test_without_states_the_resets_of_recorded_seeds_are_replayed(hidden):
    logs = collect_episodes(hidden, ["uniform"], 3, seed=7)
    found = replay(logs, hidden, 3, seeds=[7, 8, 9])
    assert not found.from_states and len(found.judged) == 60 and "agree: " in told(found)
    other = told(replay(logs, EnvironmentId(hidden, {"gain": 0.2}), 3, seeds=[7, 8, 9]))
    assert "do not agree" in other and "step 0: observation" in other
    assert "The reset of episode 0 is another" in told(replay(logs, hidden, 3, seeds=[1, 2, 3]))
    with pytest.raises(UserError, match="state cannot be set.*no seeds.*Accepted: Pendulum"):
        replay(logs, hidden, 3)


def test_an_environment_that_draws_at_random_is_told(pendulum_logs):
    class Noisy(gymnasium.Wrapper):
        def step(self, action):
            noise = self.unwrapped.np_random.normal()
            return self.env.step(np.asarray(action) + np.float32(noise))

    gymnasium.register("Noisy-v0", lambda: Noisy(gymnasium.make("Pendulum-v1")))
    try:
        assert "differs after the same state and action" in told(
            replay(pendulum_logs, "Noisy-v0", 2)
        )
    finally:
        del gymnasium.registry["Noisy-v0"]


def test_the_last_observation_need_not_be_logged(pendulum_logs):
    def cut(e: int) -> Episode:
        rows = slice(int(pendulum_logs.offsets[e]), int(pendulum_logs.last_steps[e]))
        return Episode(
            {"x": pendulum_logs.observations["observation"][rows]},
            pendulum_logs.actions[rows],
            pendulum_logs.rewards[rows],
            terminated=False,
            final_logged=False,
        )

    logs = stack_episodes([cut(0), cut(1)], "cut", pendulum_logs.action_spec)
    found = replay(logs, "Pendulum-v1", 2)
    assert "agree: " in told(found) and max(step.row for step in found.steps) == 199


# ------------------------------------------------------------------------------------ the command


def test_the_command_prints_a_table_and_a_verdict(
    pendulum_logs, tmp_path: Path, capsys: pytest.CaptureFixture
):
    path = tmp_path / "logs.npz"
    np.savez(
        path,
        observations=pendulum_logs.observations["observation"],
        actions=np.delete(pendulum_logs.actions, pendulum_logs.last_steps, axis=0),
        rewards=np.delete(pendulum_logs.rewards, pendulum_logs.last_steps),
        lengths=pendulum_logs.lengths - 1,
    )
    assert run(["replay", str(path), "environment=Pendulum-v1", "episodes=2"]) == 0
    printed = capsys.readouterr().out
    assert (
        "2 of 4 episodes" in " ".join(printed.split())
        and "horizon" in printed
        and "agree: " in printed
    )
    with pytest.raises(UserError, match="accepted: environment=ID"):
        run(["replay", str(path)])


def test_seeds_of_collected_episodes_are_those_of_their_resets(
    hidden, tmp_path: Path, capsys: pytest.CaptureFixture
):
    options = GymnasiumData(
        environment=hidden, episodes=3, collection_seed=4, cache_dir=str(tmp_path)
    )
    load(options)
    words = [f"gymnasium:{hidden}", "collection_seed=4", "data.episodes=3", f"cache_dir={tmp_path}"]
    assert run(["replay", *words]) == 0
    assert "the resets of the recorded seeds" in (
        printed := " ".join(capsys.readouterr().out.split())
    )
    assert "agree: 60 of 60" in printed
    (folder,) = tmp_path.iterdir()  # its metadata name the environment and the seeds
    assert run(["replay", str(folder)]) == 0 and "agree: 60 of 60" in capsys.readouterr().out
