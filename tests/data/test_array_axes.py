"""Arrays with two axes before those of a step are episodes or environments, where their ends or an
option say so, and are refused otherwise: never vectors of whole episodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.array_logs import written
from worldmodel.data import Trajectories, load
from worldmodel.data.readers.npz import STREAMED_BYTES, NPZData
from worldmodel.errors import DataError

EPISODES, STEPS = 3, 5


def batch(extra: int = 0) -> dict[str, Any]:
    """Numbers that encode episode and step."""
    place = np.stack(np.meshgrid(np.arange(EPISODES), np.arange(STEPS + extra), indexing="ij"), -1)
    return {
        "observations": place.astype(np.float32),
        "actions": place[:, :STEPS].sum(-1, keepdims=True) / 100,
        "rewards": 10.0 * place[:, :STEPS, 0] + place[:, :STEPS, 1],
    }


def ends(*places: tuple[int, int]) -> np.ndarray:
    mark = np.zeros((EPISODES, STEPS), bool)
    for place in places:
        mark[place] = True
    return mark


def swapped(arrays: dict[str, Any]) -> dict[str, Any]:
    return {key: np.swapaxes(value, 0, 1) for key, value in arrays.items()}


@pytest.fixture(params=["npz", "hdf5"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return lambda arrays, **options: written(tmp_path, request.param, arrays, **options)


def check(logs: Trajectories, parts: list[tuple[int, int, int]], logged: bool) -> None:
    """Each of `parts` is (record, first step, steps), and every number is that of its place."""
    assert (logs.lengths - 1).tolist() == [steps for _, _, steps in parts]
    assert (logs.final_logged is None) == logged and logs.rewards is not None
    for offset, (record, first, steps) in zip(logs.offsets, parts, strict=True):
        for step in range(steps):
            row = logs.observations["observation"][offset + step]
            assert row.tolist() == [record, first + step]
            assert logs.rewards[offset + step] == 10 * record + first + step
            assert logs.actions[offset + step, 0] == np.float32((record + first + step) / 100)
        if logged:
            last = logs.observations["observation"][offset + steps]
            assert last.tolist() == [record, first + steps]


WHOLE = [(episode, 0, STEPS) for episode in range(EPISODES)]


def test_episodes_of_equal_length_are_recognized(read: Any) -> None:
    check(read(batch(extra=1)), WHOLE, logged=True)
    all_ended = {"terminals": ends((0, 4), (1, 4), (2, 4))}
    logs = read(batch() | all_ended)
    check(logs, WHOLE, logged=False)
    assert logs.terminated.all()
    whole = read(batch(extra=1) | {"terminals": ends((1, 4))})
    assert whole.terminated.tolist() == [False, True, False]
    by_episode = {"terminated": np.array([True, False, False])}
    assert read(batch(extra=1) | by_episode).terminated.tolist() == [True, False, False]


def test_padded_episodes_have_lengths(read: Any) -> None:
    lengths = {"lengths": np.array([5, 2, 3])}
    parts = [(0, 0, 5), (1, 0, 2), (2, 0, 3)]
    check(read(batch(extra=1) | lengths), parts, logged=True)
    check(read(batch() | lengths, axes="episodes_time"), parts, logged=False)


def test_axes_that_cannot_be_told_are_asked(read: Any) -> None:
    for marks in ({}, {"terminals": ends((0, 2))}):
        with pytest.raises(DataError) as caught:
            read(batch() | marks)
        message = str(caught.value)
        assert "observations 'observation' (3, 5, 2)" in message and "logs." in message
        for axes in ("episodes_time", "environments_time", "time_environments", "rows"):
            assert f"data.axes={axes}" in message
    check(read(batch(), axes="episodes_time"), WHOLE, logged=False)
    with pytest.raises(DataError, match=r"terminals mark 1 rows that are not the last"):
        read(batch() | {"terminals": ends((0, 2))}, axes="episodes_time")


def test_environments_are_reset_inside_their_records(read: Any) -> None:
    parts = [(0, 0, 3), (0, 3, 2), (1, 0, 5), (2, 0, 5)]
    marked = batch() | {"terminals": ends((0, 2))}
    for arrays, axes in ((marked, "environments_time"), (swapped(marked), "time_environments")):
        logs = read(arrays, axes=axes)
        check(logs, parts, logged=False)
        assert logs.terminated.tolist() == [True, False, False, False]


def test_rows_are_rows_where_rewards_say_so(read: Any) -> None:
    """Blocks of numbers per step, and 2-D marks that fit nothing, which are refused."""
    arrays = {"observations": np.ones((6, 4, 3)), "actions": np.ones((6, 4)), "rewards": np.ones(6)}
    assert read(arrays).num_transitions == 6
    with pytest.raises(DataError, match=r"terminals has shape \(6, 2\); accepted: one number"):
        read(arrays | {"terminals": np.zeros((6, 2), bool)})
    with pytest.raises(DataError, match="accepted for data.axes=episodes_time: as many, or one"):
        read(arrays | {"observations": np.ones((6, 7, 3))}, axes="episodes_time")


def test_large_batches_are_read_record_by_record(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    observations = np.tile(rng.normal(size=(8, 26, 12)), 1000)
    np.savez(tmp_path / "a.npz", observations=observations, actions=rng.normal(size=(8, 25, 1)))
    assert observations.nbytes >= STREAMED_BYTES
    read = load(NPZData(path=str(tmp_path / "a.npz"))).observations["observation"]
    np.testing.assert_array_equal(read, observations.astype(np.float32).reshape(8 * 26, -1))
