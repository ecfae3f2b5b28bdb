"""CSV and Parquet tables: what the last row of an episode is, and where episodes end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import episodes, error, options, rows, text, written

from worldmodel.data import load
from worldmodel.data.readers.table import read
from worldmodel.errors import ConfigError

ODD = Path(__file__).parents[2].parent / "shared" / "data" / "odd_logs"
STEPS: dict[str, Any] = {
    "observations": ["pos", "vel"], "actions": ["force"], "reward": "reward", "terminal": "done"
}  # fmt: skip


@pytest.fixture
def odd() -> Path:
    if not ODD.is_dir():
        pytest.skip("the folder of odd logs is missing")
    return ODD


# --------------------------------------------------------------------------------- the last row


def test_the_last_row_of_a_loop_keeps_its_reward_and_is_the_terminal_transition(tmp_path: Path):
    steps = "pos,vel,force,reward,done\n1,0,1,-0.1,0\n2,0,1,-0.1,0\n3,0,1,99.9,1\n"
    (episode,) = episodes(text(tmp_path / "log.csv", steps), **STEPS)
    assert episode.terminated and not episode.final_logged
    np.testing.assert_array_equal(episode.observations["observation"][:, 0], [1, 2, 3])
    np.testing.assert_array_equal(episode.actions, [[1], [1], [1]])
    np.testing.assert_array_equal(np.ravel(episode.rewards), [-0.1, -0.1, 99.9])
    logs = load(options(tmp_path / "log.csv", **STEPS))
    assert logs.rewards is not None and logs.num_transitions == 3
    assert logs.rewards.max() == np.float32(99.9) and logs.terminated.tolist() == [True]


def test_the_reward_of_the_goal_is_kept(odd: Path):
    (episode,) = episodes(odd / "step_rows" / "mountaincar.csv", **STEPS)
    assert len(episode.actions) == 81 and episode.terminated and not episode.final_logged
    assert np.ravel(episode.rewards)[-1] == 99.9


def test_rows_without_rewards_and_ends_end_in_an_observation(tmp_path: Path):
    (episode,) = episodes(written(tmp_path / "log.csv", rows(4)))
    assert episode.final_logged and len(episode.actions) == 3


@pytest.mark.parametrize("cells", ["2,2,,\n", "2,2,,1\n", "2,2,6,\n"])
def test_a_blank_action_or_reward_makes_the_last_row_an_observation(tmp_path: Path, cells: str):
    file = text(tmp_path / "log.csv", f"x,y,u,r\n0,0,5,1\n1,1,6,2\n{cells}")
    (episode,) = episodes(file, reward="r")
    assert episode.final_logged and len(episode.actions) == 2


@pytest.mark.parametrize("last", ["2,2,,,", "2,2,,,1", "2,2,,,0"])
def test_the_mark_of_a_transition_may_precede_the_final_observation(tmp_path: Path, last: str):
    file = text(tmp_path / "log.csv", f"x,y,u,r,done\n0,0,5,1,0\n1,1,6,2,1\n{last}\n")
    (episode,) = episodes(file, reward="r", terminal="done")
    assert episode.terminated and episode.final_logged and len(episode.actions) == 2


@pytest.mark.parametrize(("last_row", "transitions"), [("transition", 4), ("observation", 3)])
def test_the_option_decides_what_the_last_row_is(
    tmp_path: Path, last_row: str, transitions: int, caplog: pytest.LogCaptureFixture
):
    file = written(tmp_path / "log.csv", rows(4, r=[0, 0, 0, 7.0]))
    with caplog.at_level(logging.WARNING):
        (episode,) = episodes(file, reward="r", last_row=last_row)
    assert len(episode.actions) == transitions
    assert episode.final_logged == (last_row == "observation")
    lost = "rewards are left out: 1 are not 0, 7 in all" in caplog.text
    assert lost == (last_row == "observation")


def test_what_the_last_row_is_read_as_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = written(tmp_path / "log.csv", rows(6, r=[1.0] * 6, ep=[1, 1, 1, 2, 2, 2]))
    with caplog.at_level(logging.INFO):
        episodes(file, reward="r", episode="ep")
    assert "the last row of 2 of 2 episodes is a transition" in caplog.text
    assert not [r for r in caplog.records if r.levelno > logging.INFO]


def test_zeros_in_all_last_rows_may_be_padding(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = written(tmp_path / "log.csv", rows(4, r=[1, 1, 1, 0], u=[1, 1, 1, 0]))
    episodes(file, reward="r")
    assert "if this is padding, set data.last_row=observation" in caplog.text
    caplog.clear()
    episodes(file, reward="r", last_row="transition")
    assert not caplog.records


# --------------------------------------------------------------------------- where episodes end


def test_marks_end_episodes_without_a_column_that_identifies_them(tmp_path: Path):
    columns = rows(7, done=[0, 0, 1, 0, 0, 0, 0], cut=[0, 0, 0, 0, 1, 0, 0])
    found = episodes(written(tmp_path / "log.csv", columns), terminal="done", truncated="cut")
    assert [len(e.actions) for e in found] == [3, 2, 2]
    assert [e.terminated for e in found] == [True, False, False]
    assert [e.observations["observation"][0, 0] for e in found] == [0, 3, 5]


def test_an_end_that_is_also_terminal_is_terminal(tmp_path: Path):
    columns = rows(4, done=[0, 0, 0, 1], end=[0, 1, 0, 1])
    found = episodes(written(tmp_path / "log.csv", columns), terminal="done", truncated="end")
    assert [e.terminated for e in found] == [False, True]


@pytest.mark.parametrize("role", ["terminal", "end", "not_terminal"])
def test_a_role_names_a_mark(tmp_path: Path, role: str):
    cells = [0, 1, 0, 1] if role != "not_terminal" else [0.99, 0, 0.99, 0]
    file = written(tmp_path / "log.csv", rows(4, mark=cells))
    found = episodes(file, roles={"mark": role})
    assert [e.terminated for e in found] == [role != "end"] * 2


def test_the_role_final_marks_rows_of_final_observations(tmp_path: Path):
    columns = rows(6, is_last=[0, 0, 1, 0, 0, 1], r=[1.0] * 6)
    found = episodes(
        written(tmp_path / "log.parquet", columns), reward="r", roles={"is_last": "final"}
    )
    assert [len(e.actions) for e in found] == [2, 2] and all(e.final_logged for e in found)


def test_other_roles_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="data.next_observations name others"):
        load(options(written(tmp_path / "log.csv", rows(3)), roles={"x": "next_observation"}))


@pytest.mark.parametrize("cell", ["nan", "-1", "0.5", "maybe", ""])
def test_a_mark_is_true_or_false(tmp_path: Path, cell: str):
    file = text(tmp_path / "log.csv", f"x,y,u,done\n0,0,0,0\n1,1,1,{cell}\n2,2,2,1\n")
    message = error(file, terminal="done")
    assert "column 'done' is" in message and "at row 1; accepted: true or false" in message


def test_columns_that_look_like_ends_and_are_not_read_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for name in "ab":
        written(
            tmp_path / f"{name}.csv", rows(3, done=[0, 0, 0], Reward=[1, 1, 1], episode_id=[0] * 3)
        )
    load(options(tmp_path))
    (record,) = [r for r in caplog.records if "not read" in r.message]
    for use in ("data.terminal=done", "data.reward=Reward", "data.episode=episode_id"):
        assert use in record.message
    caplog.clear()
    load(options(tmp_path, reward="Reward", episode="episode_id", roles={"done": "ignore"}))
    assert "not read" not in caplog.text


# --------------------------------------------------------------------------- next observations


def steps(lengths: list[int], **changes: Any) -> dict[str, Any]:
    """Rows of episodes end to end: x is the step, 10 apart between episodes; nx and ny follow."""
    x = np.concatenate([10.0 * e + np.arange(n) for e, n in enumerate(lengths)])
    return {"x": x, "y": -x, "u": x, "nx": x + 1, "ny": -x - 1, **changes}


NEXT = {"next_observations": ["nx", "ny"]}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(3, 6), min_size=1, max_size=6), st.sampled_from(["csv", "parquet"]))
def test_next_observations_tell_where_episodes_end(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], ending: str
):
    file = written(tmp_path_factory.mktemp("t") / f"log.{ending}", steps(lengths))
    found = episodes(file, **NEXT)
    assert [len(e.actions) for e in found] == lengths
    for number, episode in enumerate(found):
        expected = 10.0 * number + np.arange(lengths[number] + 1)
        np.testing.assert_array_equal(episode.observations["observation"][:, 0], expected)
        assert episode.final_logged


def test_next_observations_that_contradict_marks_are_counted(tmp_path: Path):
    columns = steps([3, 3, 3], ep=[0] * 9)
    message = error(written(tmp_path / "log.csv", columns), episode="ep", **NEXT)
    assert "in 2 of 8 rows inside episodes, first at row 2" in message
    assert "data.truncated names where episodes end" in message


def test_next_observations_of_something_else_are_refused(tmp_path: Path):
    columns = steps([6], nx=np.zeros(6))
    message = error(written(tmp_path / "log.csv", columns), **NEXT)
    assert "in 5 of 5 rows" in message


def test_next_observations_made_by_shifting_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    columns = steps([3, 3], done=[0, 0, 1, 0, 0, 1])
    columns |= {"nx": np.append(columns["x"][1:], 0), "ny": np.append(columns["y"][1:], 0)}
    found = episodes(written(tmp_path / "log.csv", columns), terminal="done", **NEXT)
    assert [len(e.actions) for e in found] == [3, 3]
    assert [e.final_logged for e in found] == [False, False]
    assert [e.terminated for e in found] == [True, True]
    assert "as if made by shifting rows" in caplog.text


def test_time_of_the_final_observation_is_one_step_later(tmp_path: Path):
    file = written(tmp_path / "log.csv", steps([3], t=[5.0, 5.5, 6.0]))
    (episode,) = read(options(file, time="t", **NEXT)).episodes
    np.testing.assert_array_equal(episode.time, [0, 0.5, 1, 1.5])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"next_observations": ["nx"]}, "has 1 columns and data.observations 2"),
        ({**NEXT, "feedthrough": True}, "set one"),
        ({**NEXT, "last_row": "observation"}, "set one of them"),
        ({"last_row": "transition", "feedthrough": True}, "set one"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path: Path, changes: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        load(options(written(tmp_path / "log.csv", steps([3])), **changes))


@pytest.mark.parametrize("placeholder", ["zero", "repeated"])
def test_placeholders_of_next_observations_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, placeholder: str
):
    states = np.random.default_rng(0).standard_normal((12, 2))
    following = np.roll(states, -1, 0)
    ends = [3, 7, 11]
    following[ends] = 0 if placeholder == "zero" else states[ends]
    file = written(
        tmp_path / "log.csv",
        {"x": states[:, 0], "y": states[:, 1], "u": np.zeros(12), "nx": following[:, 0],
         "ny": following[:, 1], "run": np.arange(12) // 4},
    )  # fmt: skip
    found = episodes(file, episode="run", last_row="transition", **NEXT)
    assert [e.final_logged for e in found] == [False] * 3
    assert "in the last rows of 3 episodes" in caplog.text


def test_a_column_of_steps_tells_rows_out_of_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run, step = np.repeat([0, 1], 5), np.tile(np.arange(5), 2)
    load(options(written(tmp_path / "a.csv", rows(10, run=run, step=step)), episode="run"))
    assert "step" not in caplog.text
    step[[1, 3]] = step[[3, 1]]
    load(options(written(tmp_path / "b.csv", rows(10, run=run, step=step)), episode="run"))
    assert "decreases in 2 of 8 steps, first after row 1 (from 3 to 2)" in caplog.text
    assert "data.time=step" in caplog.text


def test_a_column_of_steps_tells_that_episodes_begin(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    load(options(written(tmp_path / "a.parquet", rows(10, t=np.tile(np.arange(5), 2) / 10))))
    assert "begins again 1 times, first after row 4 (from 0.4 to 0)" in caplog.text
    assert "data.episode names" in caplog.text
