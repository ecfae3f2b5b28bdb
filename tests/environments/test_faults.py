"""Every fault of an environment is a message: the call, what it did, and what is accepted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldmodel.config.environment_ids import EnvironmentId, local_code
from worldmodel.data import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.environment import GuardedEnvironment
from worldmodel.data.readers import gymnasium as collecting
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.environments import check_environment, episode_limit
from worldmodel.errors import UserError

SPEC = DataSpec(
    {"x": ObservationSpec((2,), "float32", low=(0.0, 0.0), high=(1.0, 1.0))},
    ActionSpec(False, 1, (-1.0,), (1.0,)),
)


class Plain(gymnasium.Env):
    """Right in all its calls; subclasses have one fault each."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, gain: float = 1.0, layout: dict | None = None):
        self.gain, self.layout = gain, layout

    def reset(self, *, seed=None, options=None):
        return np.full(2, 0.5, np.float32), {}

    def step(self, action):
        return np.full(2, 0.5, np.float32), self.gain, False, False, {}


class NoSeed(Plain):
    def reset(self):
        return np.zeros(2, np.float32), {}


class NoInfo(Plain):
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32)


class FourValues(Plain):
    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, {}


class InfoLast(Plain):
    def step(self, action):
        return np.zeros(2, np.float32), 1.0, {}, False, False


class WordAsEnd(Plain):
    def step(self, action):
        return np.zeros(2, np.float32), 1.0, "False", False, {}


class NoReward(Plain):
    def step(self, action):
        return np.zeros(2, np.float32), None, False, False, {}


class NaNReward(Plain):
    def step(self, action):
        return np.zeros(2, np.float32), np.nan, False, False, {}


class NaNObserved(Plain):
    def step(self, action):
        return np.full(2, np.nan, np.float32), 1.0, False, False, {}


class OtherShape(Plain):
    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, False, {}


class Words(Plain):
    def reset(self, *, seed=None, options=None):
        return ["left", "right"], {}


class Raises(Plain):
    def step(self, action):
        raise KeyError("gripper")


class NoSpaces(Plain):
    observation_space = None  # pyright: ignore[reportAssignmentType]


FAULTS: dict[type, str] = {
    NoSeed: r"reset\(seed=0\) raises TypeError: .*'seed'.*accepted: .*reset\(seed=\.\.\.",
    NoInfo: r"reset\(seed=0\) returns a ndarray; accepted: .*\(observation, info\)",
    FourValues: r"step\(action\) .*4.*accepted: .*terminated, truncated, info\)",
    InfoLast: r"step\(action\) returns info of type bool",
    WordAsEnd: r"step\(action\) returns terminated 'False'; accepted: one number",
    NoReward: r"step\(action\) returns reward None; accepted: one number",
    NaNReward: r"step\(action\) returns reward nan; accepted: a finite number",
    NaNObserved: r"observation 'x' with numbers that are not finite",
    OtherShape: r"observation 'x' has shape \(3,\); its space has \(2,\)",
    Words: r"observation 'x' is <U5; its space has float32",
    Raises: r"step\(action\) raises KeyError: 'gripper' \(test_faults.py, line \d+\)",
    NoSpaces: r"its observation_space is a builtins.NoneType; accepted: a gymnasium.spaces.Space",
}


@pytest.fixture
def register() -> Iterator[Callable[[Any], str]]:
    names = []

    def add(entry_point: Any) -> str:
        names.append(f"Fault{len(names)}-v0")
        gymnasium.register(names[-1], entry_point, max_episode_steps=9)
        return names[-1]

    yield add
    for name in names:
        del gymnasium.registry[name]


@pytest.mark.parametrize("kind", FAULTS)
def test_the_step_before_training_finds_the_fault_and_names_the_call(register, kind):
    name = register(kind)
    with pytest.raises(UserError, match=FAULTS[kind]) as error:
        check_environment(name, SPEC)
    assert str(error.value).startswith(f"data.environment={name}: ")
    assert "unpack" not in str(error.value) or "accepted" in str(error.value)


@pytest.mark.parametrize("kind", [NoSeed, FourValues, OtherShape, Raises])
def test_collection_says_the_same(register, kind, tmp_path):
    options = GymnasiumData(environment=register(kind), episodes=1, cache_dir=str(tmp_path))
    with pytest.raises(UserError, match=FAULTS[kind].replace("'x'", "'observation'")):
        collecting.collect(options)


def test_an_environment_without_faults_passes(register):
    check_environment(register(Plain), SPEC)


def test_a_constructor_that_raises_is_quoted_with_its_arguments(register):
    name = register(Plain)
    with pytest.raises(UserError, match=r"constructor raises TypeError: .*'speed'.*{speed: 3}"):
        check_environment(EnvironmentId(name, {"speed": 3}), SPEC)


def test_a_missing_render_is_told(register):
    environment = GuardedEnvironment(register(Plain))
    environment.reset(0)
    with pytest.raises(UserError, match=r"render\(\) raises .*accepted: render_mode='rgb_array'"):
        environment.render()


def test_arguments_reach_the_constructor_and_the_time_limit(register):
    identity = EnvironmentId(register(Plain), {"gain": 3.5, "layout": {"lanes": [1, 2]}})
    environment = GuardedEnvironment(identity)
    assert environment.environment.unwrapped.layout == {"lanes": [1, 2]}
    environment.reset(0)
    assert environment.step(np.zeros(1)).reward == 3.5
    assert episode_limit(identity) == 9
    assert episode_limit(EnvironmentId(identity.name, {"max_episode_steps": 4})) == 4


def test_arguments_are_part_of_what_is_collected(register, tmp_path):
    name = register(Plain)
    plain, changed = (
        GymnasiumData(environment=name, environment_options=given, episodes=1, cache_dir="unused")
        for given in ({}, {"gain": 2.0})
    )
    assert collecting.cache_folder(plain) != collecting.cache_folder(changed)
    assert collecting.collect(changed).rewards[0] == 2.0


@pytest.mark.parametrize("name", ["render_mode", "disable_env_checker", "a b"])
def test_arguments_that_are_not_the_constructors_are_refused(name):
    options = GymnasiumData(environment="Pendulum-v1", environment_options={name: 1})
    assert any(f"data.environment_options.{name}" in error for error in options.errors())


def test_values_in_other_units_are_told_once(register, caplog):
    far = DataSpec(
        {"x": ObservationSpec((2,), "float32", low=(10.0, 0.0), high=(11.0, 1.0))},
        ActionSpec(False, 1, (-100.0,), (100.0,)),
    )
    name = register(Plain)
    for _ in range(2):
        check_environment(name, far)
    words = "\n".join(record.getMessage() for record in caplog.records)
    assert words.count("has 0.5 in dimension 0, and from 10 to 11 in the dataset") == 1
    assert words.count("reach 100 in dimension 0, and the environment's 1") == 1


MODULE = f"""
import gymnasium, {__name__}
gymnasium.register("Local-v0", {__name__}.Plain)
"""


def test_an_environment_of_the_working_folder_is_found_unless_it_came_with_a_run(
    tmp_path, monkeypatch
):
    Path(tmp_path, "local_environment.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    name = "local_environment:Local-v0"
    options = GymnasiumData(environment=name)
    assert "allow_code=true" in "".join(local_code(options))  # nothing is imported for that
    assert "local_environment" not in sys.modules
    check_environment(name, SPEC)
    assert str(tmp_path) not in sys.path
    del gymnasium.registry["Local-v0"], sys.modules["local_environment"]
