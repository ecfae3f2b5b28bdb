"""Collecting episodes in environments: what is stored, what is refused, and that it runs once."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldmodel.data import ActionSpec, collection, load, rlds_writer
from worldmodel.data.behaviours import BEHAVIOURS, LONGEST_HOLD_STEPS, behaviour
from worldmodel.data.readers import gymnasium as reader
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.errors import ConfigError, DataError, UserError


class Probe(gymnasium.Env):
    """Ends after `steps` steps; observations are random points, in one reused array."""

    def __init__(self, observation_space=None, action_space=None, steps=3):
        self.observation_space = observation_space or spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = action_space or spaces.Box(-1, 1, (1,), np.float32)
        self.steps = steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.observation = self.observation_space.sample()
        self.t = 0
        return self.observation, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        fresh = self.observation_space.sample()
        if isinstance(fresh, np.ndarray):
            self.observation[:] = fresh
        else:
            self.observation = fresh
        return self.observation, 1.0, self.t == self.steps, False, {}


@pytest.fixture
def register():
    """Registers a Probe with the given spaces for the duration of a test; returns its id."""
    names = []

    def _register(**kwargs) -> str:
        names.append(f"Probe{len(names)}-v0")
        gymnasium.register(names[-1], entry_point=Probe, kwargs=kwargs)
        return names[-1]

    yield _register
    for name in names:
        del gymnasium.registry[name]


def options(environment: str, folder: object = "unused", **changes) -> GymnasiumData:
    return GymnasiumData(environment=environment, cache_dir=str(folder), **changes)


# ----------------------------------------------------------------------------- what is collected


def test_default_episodes_of_pendulum_vary_and_none_is_good():
    logs = reader.collect(options("Pendulum-v1", episodes=30))
    returns = logs.returns()
    assert logs.num_transitions == 30 * 200 and not logs.terminated.any()
    assert returns.mean() <= -900
    assert returns.max() < -500  # a swing-up policy earns about -150
    for behaviour_index in range(3):
        assert returns[behaviour_index::3].mean() <= -900
    speed = np.abs(logs.observations["observation"][:, 2])
    cosine = logs.observations["observation"][:, 0]
    assert (speed > 6).mean() > 0.05 and (cosine > 0.9).mean() > 0.03


def test_replaying_the_actions_reproduces_the_episode_up_to_its_final_observation():
    logs = reader.collect(options("Pendulum-v1", episodes=2, collection_seed=5))
    environment = gymnasium.make("Pendulum-v1")
    for episode, start in enumerate(logs.offsets):
        observation, _ = environment.reset(seed=5 + episode)
        for row in range(start, start + logs.lengths[episode] - 1):
            np.testing.assert_array_equal(logs.observations["observation"][row], observation)
            observation, reward, _, truncated, _ = environment.step(logs.actions[row])
            assert logs.rewards[row] == np.float32(reward)
        assert truncated
        np.testing.assert_array_equal(logs.observations["observation"][row + 1], observation)
        assert logs.rewards[row + 1] == 0 and not logs.actions[row + 1].any()


def test_a_fallen_pole_is_terminal_and_a_time_limit_is_not():
    cartpole = reader.collect(options("CartPole-v1", episodes=6))
    assert cartpole.terminated.all() and cartpole.action_spec == ActionSpec(True, 2)
    assert set(np.unique(cartpole.actions)) == {0, 1}
    mountain_car = reader.collect(options("MountainCar-v0", episodes=1))
    assert not mountain_car.terminated.any() and mountain_car.num_transitions == 200


def test_an_environment_without_a_time_limit_is_truncated(register, monkeypatch):
    monkeypatch.setattr(collection, "LONGEST_EPISODE_STEPS", 7)
    logs = reader.collect(options(register(steps=10**9), episodes=2))
    assert logs.lengths.tolist() == [8, 8] and not logs.terminated.any()


def test_observations_are_copied_if_the_environment_reuses_its_array(register):
    rows = reader.collect(options(register(), episodes=1)).observations["observation"]
    assert len(np.unique(rows, axis=0)) == 4


def test_images_and_named_observations_keep_their_names(register):
    camera = spaces.Box(0, 255, (4, 5, 3), np.uint8)
    alone = reader.collect(options(register(observation_space=camera), episodes=2))
    assert alone.observations["image"].shape == (8, 4, 5, 3)
    assert alone.observations["image"].dtype == np.uint8
    named = spaces.Dict(camera=camera, joints=spaces.Box(-1, 1, (2, 3), np.float64))
    both = reader.collect(options(register(observation_space=named), episodes=2))
    assert both.observations["camera"].dtype == np.uint8
    assert both.observations["joints"].shape == (8, 6)
    assert both.observations["joints"].dtype == np.float32


def test_actions_have_the_shape_of_the_environment(register):
    matrix = spaces.Box(np.array([[-1, 0], [2, -4]]), np.array([[1, 3], [5, -2]]), dtype=np.float64)
    logs = reader.collect(options(register(action_space=matrix), episodes=3))
    assert logs.action_spec == ActionSpec(False, 4, (-1, 0, 2, -4), (1, 3, 5, -2))
    shifted = reader.collect(
        options(register(action_space=spaces.Discrete(3, start=5)), episodes=9)
    )
    assert set(np.unique(shifted.actions)) == {0, 1, 2}


def test_the_same_options_give_the_same_episodes_and_another_seed_gives_others():
    first, again = (reader.collect(options("Pendulum-v1", episodes=3)) for _ in range(2))
    other = reader.collect(options("Pendulum-v1", episodes=3, collection_seed=100))
    assert first.actions.tobytes() == again.actions.tobytes()
    np.testing.assert_array_equal(
        first.observations["observation"], again.observations["observation"]
    )
    assert first.actions.tobytes() != other.actions.tobytes()


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (
            {"observation_space": spaces.Sequence(spaces.Discrete(4))},
            "observation 'observation' is Seq",
        ),
        ({"observation_space": spaces.Dict(x=spaces.Text(9))}, "no numeric observations"),
        ({"action_space": spaces.Box(-np.inf, 1, (1,))}, "without finite bounds"),
        ({"action_space": spaces.Dict(a=spaces.Text(9))}, "action is Text"),
    ],
)
def test_unsupported_spaces_are_reported(register, kwargs, words):
    with pytest.raises(DataError, match=words.replace("(", r"\(")):
        reader.collect(options(register(**kwargs), episodes=1))


def test_a_misspelt_environment_or_behavior_policy_gets_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'Pendulum-v1'"):
        reader.collect(options("Pendulm-v1"))
    with pytest.raises(UserError, match="did you mean 'uniform'.*accepted.*sticky"):
        reader.collect(options("Pendulum-v1", behaviour_policies=["unifrom"]))
    with pytest.raises(ConfigError, match="data.environment needs a value for data=gymnasium"):
        load(GymnasiumData())


# ---------------------------------------------------------------------------------- the cache


def test_episodes_are_collected_once_and_read_back_bit_for_bit(tmp_path, monkeypatch, capsys):
    choice = options("Pendulum-v1", tmp_path, episodes=3)
    expected = reader.collect(choice)
    capsys.readouterr()
    load(choice)
    lines = capsys.readouterr()
    assert lines.out == "" and lines.err.count("\n") == 2  # one line at the start, one at the end
    monkeypatch.setattr(reader, "collect", lambda _: pytest.fail("collected again"))
    logs = load(choice)
    assert logs.actions.tobytes() == expected.actions.tobytes()
    np.testing.assert_array_equal(
        logs.observations["observation"], expected.observations["observation"], strict=True
    )
    assert logs.rewards.tobytes() == expected.rewards.tobytes()
    assert logs.action_spec == expected.action_spec
    folder = reader.cache_folder(choice)
    assert folder.name.startswith("Pendulum-v1-3-episodes-")
    assert reader.tfds.read_metadata(folder)["environment"] == "Pendulum-v1"
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]


def test_every_option_that_changes_the_episodes_changes_the_folder():
    base = options("Pendulum-v1")
    changed = [
        base,
        options("CartPole-v1"),
        options("Pendulum-v1", behaviour_policies=["uniform"]),
        options("Pendulum-v1", episodes=7),
        options("Pendulum-v1", collection_seed=7),
    ]
    assert len({reader.cache_folder(choice) for choice in changed}) == len(changed)
    assert reader.cache_folder(options("Pendulum-v1", holdout=0.5)) == reader.cache_folder(base)


KILLED = """
import os, signal, sys
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data import rlds_writer
from worldmodel.data.readers import gymnasium

steps = rlds_writer._steps
def die_at_the_second_episode(trajectories, episode):
    if episode == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return steps(trajectories, episode)

rlds_writer._steps = die_at_the_second_episode
gymnasium.read(GymnasiumData(environment="CartPole-v1", episodes=3, cache_dir=sys.argv[1]))
"""


def test_a_killed_process_leaves_no_incomplete_dataset(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    choice = options("CartPole-v1", tmp_path, episodes=3)
    assert not reader.cache_folder(choice).exists()
    assert load(choice).num_episodes == 3


def test_two_processes_that_collect_at_once_store_one_dataset(tmp_path, monkeypatch):
    choice = options("CartPole-v1", tmp_path, episodes=2)
    prepare, logs = rlds_writer._prepare, reader.collect(choice)

    def overtaken(*arguments):
        prepared = prepare(*arguments)
        monkeypatch.setattr(rlds_writer, "_prepare", prepare)
        rlds_writer.write_rlds(logs, reader.cache_folder(choice), "the_faster_process")
        return prepared

    monkeypatch.setattr(rlds_writer, "_prepare", overtaken)
    assert load(choice).actions.tobytes() == logs.actions.tobytes()
    assert [entry.name for entry in tmp_path.iterdir()] == [reader.cache_folder(choice).name]


# --------------------------------------------------------------------------------- behaviours

TORQUE = ActionSpec(False, 2, (-2.0, 0.0), (2.0, 10.0))


def actions_of(name: str, spec: ActionSpec, steps: int, seed: int = 0) -> np.ndarray:
    actions = behaviour(name)(spec, np.random.default_rng(seed))
    return np.array(list(itertools.islice(actions, steps)))


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_every_behavior_policy_is_seeded_and_covers_its_bounds(name):
    actions = actions_of(name, TORQUE, 3000)
    assert (actions >= TORQUE.low).all() and (actions <= TORQUE.high).all()
    assert (np.ptp(actions, axis=0) > 0.9 * np.subtract(TORQUE.high, TORQUE.low)).all()
    np.testing.assert_array_equal(actions, actions_of(name, TORQUE, 3000))
    classes = actions_of(name, ActionSpec(True, 5), 3000)
    assert set(classes) == set(range(5))


def test_ornstein_uhlenbeck_is_correlated_and_sticky_holds_actions():
    def correlation(name: str) -> float:
        action = actions_of(name, TORQUE, 3000)[:, 0]
        return float(np.corrcoef(action[:-1], action[1:])[0, 1])

    assert abs(correlation("uniform")) < 0.1
    assert correlation("ornstein_uhlenbeck") > 0.7
    for seed in range(5):
        action = actions_of("sticky", TORQUE, 3000, seed)[:, 0]
        changes = np.flatnonzero(np.diff(action))
        assert np.diff(changes).max() <= LONGEST_HOLD_STEPS
    assert max(np.diff(np.flatnonzero(np.diff(action)))) > 1
