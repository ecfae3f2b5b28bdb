"""Ends of episodes in RLDS: what tells where is_terminal is missing, and what is told otherwise."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlds_datasets import foreign, simple, simple_steps

from worldmodel.data import Trajectories, load
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.errors import DataError

ROWS = 5


def read(folder: Path, roles: dict[str, str] | None = None, **fields: Any) -> Trajectories:
    """An episode of 5 steps without is_terminal, and with other fields."""
    steps = simple_steps() | {key: np.float32 for key in fields}
    episode = simple(ROWS) | {key: np.array(value, "f4") for key, value in fields.items()}
    for part in (steps, episode):
        part.pop("is_terminal")
    return load(TFDSData(path=str(foreign(folder, steps, [episode])), roles=roles or {}))


@pytest.mark.parametrize("discount", [[1, 1, 1, 0, 0], [1, 1, 1, 0, 1]])
def test_a_discount_of_zero_with_the_last_action_is_terminal(tmp_path: Path, discount: list):
    logs = read(tmp_path, discount=discount)
    assert logs.terminated.all() and logs.num_transitions == 4


def test_discounts_of_one_are_no_end(tmp_path: Path):
    assert not read(tmp_path, discount=[0.9] * 5).terminated.any()


def test_a_discount_of_zero_in_the_padding_alone_is_asked_about(tmp_path: Path):
    discount = [1, 1, 1, 1, 0]
    with pytest.raises(DataError, match="discount is 0 in its last step alone"):
        read(tmp_path / "a", discount=discount)
    for role, terminal in (("not_terminal", True), ("ignore", False)):
        logs = read(tmp_path / role, {"discount": role}, discount=discount)
        assert logs.terminated.all() == terminal


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dones": [0, 0, 0, 1, 0]}, "data.roles={dones: terminal} reads a terminal episode"),
        ({"masks": [1, 1, 1, 0, 0]}, "data.roles={masks: not_terminal} reads a terminal"),
        ({"discount": [1, 0, 1, 1, 1]}, "discount of 0 at step 1, before the last step, 4"),
        ({"terminated": [0, 1, 0, 0, 0]}, "terminated at step 1, before the last step, 4"),
        ({"terminated": [0, 0, 0, 0.5, 0]}, "terminated is 0.5 in row 3"),
        ({"discount": [1, 1, np.nan, 1, 1]}, "discount is nan in row 2"),
    ],
)
def test_marks_that_are_not_clear_are_refused(tmp_path: Path, fields: dict, message: str):
    with pytest.raises(DataError) as refusal:
        read(tmp_path, **fields)
    assert message in str(refusal.value) and "episode 0" in str(refusal.value)


def test_roles_answer(tmp_path: Path):
    dones = [0, 0, 0, 1, 0]
    assert read(tmp_path / "a", {"dones": "terminal"}, dones=dones).terminated.all()
    assert not read(tmp_path / "b", {"dones": "end"}, dones=dones).terminated.any()
    with pytest.raises(DataError, match="data.roles names done .did you mean 'dones'"):
        read(tmp_path / "c", {"done": "end"}, dones=dones)


def test_steps_without_any_mark_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert not read(tmp_path).terminated.any()
    assert "its steps have no is_terminal and no discount" in caplog.text


def test_fields_that_nobody_understood_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        read(tmp_path, discount=[1] * 5, goal=[3] * 5)
    assert caplog.text.count("goal: as long as the actions") == 1


def test_zeros_in_place_of_the_last_observation_are_not_used(tmp_path: Path):
    episode = simple(4, terminal=True)
    episode["observation"] += 1
    episode["observation"][-1] = 0
    folder = foreign(tmp_path, simple_steps(), [episode, simple(4)], called="d4rl_hopper")
    logs = load(TFDSData(path=str(folder)))
    assert logs.num_transitions == 6 and logs.terminated.tolist() == [True, False]
    assert logs.final_logged is not None and logs.final_logged.tolist() == [False, True]


def open_x(folder: Path, rewards: list[float], called: str = "foreign", **options: Any):
    episode = simple(ROWS, terminal=True) | {"reward": np.array(rewards, "f4")}
    place = foreign(folder, simple_steps(), [episode], called=called)
    return load(TFDSData(path=str(place), **options))


def test_a_reward_in_the_last_step_is_asked_about(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    sparse = [0, 0, 0, 0, 1]
    with pytest.raises(DataError, match="data.roles={is_last: end} reads the last step of each"):
        open_x(tmp_path / "a", sparse)
    with pytest.raises(DataError, match="a reward of 1 at its last step"):
        open_x(tmp_path / "b", sparse, roles={"is_last": "ignore"})
    kept = open_x(tmp_path / "c", sparse, roles={"is_last": "end"})
    assert kept.num_transitions == 5 and kept.terminated.all() and kept.final_logged is not None
    assert not kept.final_logged.any() and kept.rewards is not None and kept.rewards.sum() == 1
    with caplog.at_level(logging.WARNING):
        padded = open_x(tmp_path / "d", sparse, roles={"is_last": "final"})
    assert padded.num_transitions == 4 and padded.final_logged is None
    assert "1 episodes have a reward at their last step" in caplog.text
    assert "it is left out (in all 1)" in caplog.text
    assert open_x(tmp_path / "e", sparse, called="d4rl_hopper").num_transitions == 4


def test_an_action_in_the_last_step_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert open_x(tmp_path, [1, 0, 0, 0, 0]).num_transitions == 4
    assert "1 episodes have an action other than 0 at their last step" in caplog.text


def test_a_second_start_in_a_record_is_refused(tmp_path: Path):
    episode = simple(ROWS) | {"is_first": np.arange(ROWS) % 3 == 0}
    path = str(foreign(tmp_path, simple_steps(), [episode]))
    with pytest.raises(DataError, match="is_first at step 3, after the first step") as refusal:
        load(TFDSData(path=path))
    assert "episode 0" in str(refusal.value)
    assert load(TFDSData(path=path, roles={"is_first": "ignore"})).num_transitions == 4
