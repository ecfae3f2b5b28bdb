"""Pickles of dicts of arrays are read value by value, and nothing else in them is made."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from worldmodel.data import Trajectories, load
from worldmodel.data.readers.pickles import PickleData
from worldmodel.data.readers.safe_pickle import load_pickle
from worldmodel.errors import DataError


def episode(number: int, count: int, terminal: bool) -> dict[str, Any]:
    """An episode as Decision Transformer writes D4RL's; its rows encode their place."""
    place = np.stack([np.full(count, number), np.arange(count)], 1).astype("f4")
    return {
        "observations": place,
        "next_observations": place + np.array([0, 1], "f4"),
        "actions": place[:, ::-1] + 1,
        "rewards": np.arange(count, dtype="f4") + 10 * number,
        "terminals": np.arange(count) == (count - 1 if terminal else count),
    }


def read(folder: Path, content: Any, protocol: int = 4, **options: Any) -> Trajectories:
    (folder / "log.pkl").write_bytes(pickle.dumps(content, protocol))
    return load(PickleData(path=str(folder / "log.pkl"), **options))


@settings(max_examples=10, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=5),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_every_value_survives(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[int, bool]], protocol: int
) -> None:
    content = [episode(number, *kind) for number, kind in enumerate(kinds)]
    logs = read(tmp_path_factory.mktemp("pickle"), content, protocol)
    assert (logs.lengths - 1).tolist() == [count for count, _ in kinds]
    assert logs.terminated.tolist() == [terminal for _, terminal in kinds]
    assert logs.rewards is not None
    for logged, begin, length in zip(content, logs.offsets, logs.lengths, strict=True):
        whole = np.concatenate([logged["observations"], logged["next_observations"][-1:]])
        found = logs.observations["observation"][begin : begin + length]
        np.testing.assert_array_equal(found, whole)
        rows = slice(begin, begin + length - 1)
        np.testing.assert_array_equal(logs.actions[rows], logged["actions"])
        np.testing.assert_array_equal(logs.rewards[rows], logged["rewards"])


NUMBERS = st.one_of(
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    arrays.boolean_dtypes(),
)


@settings(max_examples=40, deadline=None)
@given(
    value=arrays.arrays(NUMBERS, arrays.array_shapes(min_dims=0, min_side=0)),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
    fortran=st.booleans(),
)
def test_arrays_of_every_type_and_order_survive(
    tmp_path_factory: pytest.TempPathFactory, value: np.ndarray, protocol: int, fortran: bool
) -> None:
    value = np.asfortranarray(value) if fortran else value
    path = tmp_path_factory.getbasetemp() / "value.pkl"
    number = value.reshape(-1)[0] if value.size else np.float32(1)
    path.write_bytes(pickle.dumps({"a": [value, 1.5, "text", None], "b": number}, protocol))
    loaded = load_pickle(path)
    np.testing.assert_array_equal(loaded["a"][0], value)
    assert loaded["a"][0].dtype == value.dtype and loaded["a"][1:] == [1.5, "text", None]
    np.testing.assert_array_equal(loaded["b"], number)


def test_a_dict_of_arrays_end_to_end_is_read_as_d4rl_returns_it(tmp_path: Path) -> None:
    parts = [episode(0, 4, True), episode(1, 3, False)]
    flat = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    flat["timeouts"] = np.arange(7) == 6
    logs = read(tmp_path, flat)
    assert logs.lengths.tolist() == [5, 4] and logs.terminated.tolist() == [True, False]


def test_named_episodes_of_nested_observations_and_lists_of_numbers(tmp_path: Path) -> None:
    logged = {"obs": {"arm": np.ones((4, 2)), "base": np.ones(4)}, "actions": [0.5, 1, 2, 3.0]}
    logs = read(tmp_path, {"first": logged, "second": logged | {"infos": [{"x": 1}] * 4}})
    assert set(logs.observations) == {"arm", "base"} and logs.names == ("first", "second")
    assert logs.num_transitions == 8


class Runs:
    """Calls a function when it is loaded."""

    def __init__(self, *call: Any):
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Runs(os.mkdir, "proof"), "posix.mkdir"),
        (Runs(eval, "1"), "eval"),
        (Runs(np.load, "x.npy"), "load"),
        (Path("x"), "Path"),
        (np.array([{}], object), "'O8'"),
        (np.zeros(2, [("x", "f4")]), "'V4'"),
        (np.array(["text"]), "'U4'"),
        (np.zeros(2, complex), "'c16'"),
    ],
)
def test_what_is_no_array_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as refusal:
        read(tmp_path, [episode(0, 3, False) | {"infos": value}], protocol)
    assert name in str(refusal.value) or "makes; accepted" in str(refusal.value)
    assert "log.pkl" in str(refusal.value) and not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones(3), "holds an array of shape (3,)"),
        ([], "holds an empty list"),
        ([np.ones(3)], "holds a list of an array of shape (3,)"),
        ([{"actions": np.ones(3)}], "episode 0: has no obs; present: actions"),
        ("text", "holds a str"),
    ],
)
def test_other_content_is_described(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError) as refusal:
        read(tmp_path, content)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("shifted", "is the first observation of the next episode at the end of 3 of 4"),
        ("repeated", "repeats the observation before it at the end of 4 of 4"),
        ("zero", "is 0 at the end of 4 of 4"),
    ],
)
def test_next_observations_of_last_steps_that_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, words: str
) -> None:
    content = [episode(number, 5, terminal=False) for number in range(4)]
    for number, log in enumerate(content):
        following = content[number + 1]["observations"][0] if number < 3 else [3, 5]
        other = {"shifted": following, "repeated": log["observations"][-1], "zero": 0}
        log["next_observations"][-1] = other[kind]
    with caplog.at_level(logging.WARNING):
        logs = read(tmp_path, content)
    assert f"next_observations {words}" in caplog.text and logs.final_logged is not None
    assert logs.final_logged.tolist() == [False] * 3 + [kind == "shifted"]


def test_parts_of_a_record_and_ends_at_rest_keep_their_last_observation(tmp_path: Path) -> None:
    whole = episode(0, 20, terminal=False)
    parts = [{k: v[n : n + 5] for k, v in whole.items()} for n in range(0, 20, 5)]
    assert read(tmp_path, parts).final_logged is None
    content = [episode(number, 5, terminal=False) for number in range(4)]
    for log in content[:3]:
        log["next_observations"][-1] = log["observations"][-1]
    assert read(tmp_path, content).final_logged is None
    assert read(tmp_path, content[:2]).final_logged is None


def test_last_rows_without_action_and_reward_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = [episode(number + 1, 5, terminal=False) for number in range(4)]
    for log in content:
        del log["next_observations"], log["terminals"]
        log["actions"][-1] = log["rewards"][-1] = 0
        log["ends"] = np.arange(5) == 4
    for roles, told in (({"ends": "end"}, True), ({"ends": "final"}, False)):
        with caplog.at_level(logging.WARNING):
            logs = read(tmp_path, content, roles=roles)
        assert ("last rows of all 4 episodes have no action" in caplog.text) == told
        assert (logs.final_logged is None) != told
        caplog.clear()
