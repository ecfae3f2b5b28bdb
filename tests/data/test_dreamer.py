"""Dreamer's replay: episodes are joined over chunks, and actions and rewards stand where taken."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.data import Trajectories, load
from worldmodel.data.readers.dreamer import DreamerData, holds_replay
from worldmodel.data.sources import parse_source
from worldmodel.errors import DataError

Rows = dict[str, np.ndarray]


def episode(worker: int, number: int, count: int, terminal: bool) -> Rows:
    """T + 1 rows in which everything tells its episode and step; rewards as DreamerV3 logs them."""
    step, ended = np.arange(count + 1), np.arange(count + 1) == count
    place = np.stack([np.full(count + 1, worker), np.full(count + 1, number), step], 1)
    action = np.where(ended[:, None], 0, place[:, 1:]).astype("f4")
    return {
        "vector": place.astype("f4"),
        "image": np.repeat(step.astype("u1"), 12).reshape(-1, 2, 2, 3),
        "action": action,
        "reward": np.where(step == 0, 0, 100 * worker + 10 * number + step).astype("f4"),
        "is_first": step == 0,
        "is_last": ended,
        "is_terminal": ended & terminal,
        "dyn/deter": np.ones((count + 1, 5), "f4"),
        "stepid": np.zeros((count + 1, 20), "u1"),
    }


def join(episodes: list[Rows]) -> Rows:
    return {key: np.concatenate([e[key] for e in episodes]) for key in episodes[0]}


def write_chunks(folder: Path, worker: int, rows: Rows, size: int) -> list[Path]:
    """The chunks of a worker, of which each names the next one, which need not be there."""
    count, files = len(rows["action"]), []
    for index, begin in enumerate(range(0, count, size)):
        uuids = [f"w{worker}c{i}".rjust(22, "0") for i in (index, index + 1)]
        length = min(size, count - begin)
        name = f"20260101T0000{index:02}F{worker:06}-{uuids[0]}-{uuids[1]}-{length}.npz"
        part = {key: value[begin : begin + size] for key, value in rows.items()}
        np.savez_compressed(folder / name, **part)
        files.append(folder / name)
    return files


def read(folder: Path, **options: Any) -> Trajectories:
    return load(DreamerData(path=str(folder), **options))


def check(logs: Trajectories, whole: bool = True) -> None:
    """Every transition belongs together; `whole` episodes start at step 0."""
    assert logs.rewards is not None
    for begin, length in zip(logs.offsets, logs.lengths, strict=True):
        worker, number, step = logs.observations["vector"][begin : begin + length].T
        assert len({*worker}) == len({*number}) == 1
        np.testing.assert_array_equal(step, (0 if whole else step[0]) + np.arange(length))
        image = logs.observations["image"][begin : begin + length]
        np.testing.assert_array_equal(image[:, 0, 0, 0], step)
        actions = logs.actions[begin : begin + length - 1]
        np.testing.assert_array_equal(actions, np.stack([number, step], 1)[:-1])
        rewards = logs.rewards[begin : begin + length - 1]
        np.testing.assert_array_equal(rewards, (100 * worker + 10 * number + step)[1:])


@settings(max_examples=8, deadline=None)
@given(
    workers=st.lists(
        st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=4),
        min_size=1,
        max_size=3,
    ),
    size=st.integers(1, 12),
)
def test_episodes_are_joined_over_the_borders_of_chunks(
    workers: list[list[tuple[int, bool]]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("replay")
    for worker, kinds in enumerate(workers):
        episodes = [episode(worker, n, *kind) for n, kind in enumerate(kinds)]
        write_chunks(folder, worker, join(episodes), size)
    logs = read(folder)
    check(logs)
    kinds = [kind for worker in workers for kind in worker]
    assert (logs.lengths - 1).tolist() == [count for count, _ in kinds]
    assert logs.terminated.tolist() == [terminal for _, terminal in kinds]
    assert set(logs.observations) == {"vector", "image"}


def test_a_missing_first_chunk_and_an_interrupted_run_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = join([episode(0, n, 9, True) for n in range(3)])
    rows = {key: value[:-2] for key, value in rows.items()}  # the run stops inside episode 2
    files = write_chunks(tmp_path, 0, rows, 4)
    files[0].unlink()
    files[3].unlink()  # rows 12 to 15, inside episode 1
    with caplog.at_level(logging.WARNING):
        logs = read(tmp_path)
    check(logs, whole=False)
    assert logs.lengths.tolist() == [6, 2, 4, 8]
    assert "2 episodes begin inside an episode" in caplog.text
    assert "2 episodes end without is_last" in caplog.text


@pytest.mark.parametrize("missing", ["is_first", "is_last"])
@pytest.mark.parametrize("size", [3, 4, 100])
def test_either_mark_tells_episodes_of_chunks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: str, size: int
) -> None:
    rows = join([episode(0, n, 3, n == 1) for n in range(3)])
    del rows[missing]
    write_chunks(tmp_path, 0, rows, size)
    with caplog.at_level(logging.WARNING):
        logs = read(tmp_path)
    check(logs)
    assert logs.lengths.tolist() == [4, 4, 4] and logs.terminated.tolist() == [False, True, False]
    assert "begin inside" not in caplog.text
    told = "1 episodes end without is_last" if missing == "is_last" else "1 episodes begin where it"
    assert told in caplog.text


def test_chunks_without_both_marks_are_refused(tmp_path: Path) -> None:
    rows = episode(0, 0, 5, True)
    del rows["is_first"], rows["is_last"]
    write_chunks(tmp_path, 0, rows, 3)
    with pytest.raises(DataError, match="has neither is_first nor is_last"):
        read(tmp_path)


def test_an_abandoned_episode_is_truncated_where_the_next_one_begins(tmp_path: Path) -> None:
    whole, cut = episode(0, 1, 4, True), episode(0, 0, 6, True)
    cut = {key: value[:3] for key, value in cut.items()}
    write_chunks(tmp_path, 0, join([cut, whole]), 100)
    logs = read(tmp_path)
    check(logs)
    assert logs.lengths.tolist() == [3, 5] and logs.terminated.tolist() == [False, True]


def older(count: int, number: int, **changes: Any) -> Rows:
    """An episode of Dreamer 1 and 2: the action that led to each row, and discounts."""
    rows = episode(0, number, count, True)
    action = np.concatenate([np.zeros((1, 2), "f4"), rows["action"][:-1]])
    discount = 1 - rows["is_terminal"].astype("f4")
    kept = {key: rows[key] for key in ("vector", "image", "reward")}
    rows = kept | {"action": action, "discount": discount} | changes
    return {key: value for key, value in rows.items() if value is not None}


def write_older(folder: Path, episodes: list[Rows]) -> None:
    for number, rows in enumerate(episodes):
        np.savez(folder / f"20260101T00000{number}-{'ab' * 16}-{len(rows['image'])}.npz", **rows)


def test_actions_that_led_to_their_row_are_shifted(tmp_path: Path) -> None:
    write_older(tmp_path, [older(5, n + 1) for n in range(3)])
    logs = read(tmp_path)
    check(logs)
    assert logs.num_transitions == 15 and logs.terminated.all()


def test_alignment_is_asked_where_neither_end_is_zero(tmp_path: Path) -> None:
    write_older(tmp_path, [older(5, 1, action=np.ones((6, 2), "f4"))])
    with pytest.raises(DataError, match="data.actions_led_here"):
        read(tmp_path)
    assert read(tmp_path, actions_led_here=True).num_transitions == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discount": None}, "neither is_terminal nor discount"),
        ({"discount": np.array([1, 0, 1, 1.0])}, "a discount of 0 in row 1 of 4"),
        ({"discount": np.array([1, 1, 1, np.nan])}, "discount is nan in row 3"),
        ({"is_terminal": np.array([0, 0, 0, 0])}, "is_terminal and discount disagree"),
        ({"is_terminal": np.array([0, 0, 0, 2])}, "is_terminal is 2 in row 3"),
        ({"action": None, "control": np.ones((4, 2))}, "data.roles={KEY: action}"),
        ({"vector": np.ones((3, 2))}, "vector has 3 rows"),
    ],
)
def test_refusals_name_file_and_key(tmp_path: Path, changes: dict, message: str) -> None:
    write_older(tmp_path, [older(3, 1, **changes)])
    with pytest.raises(DataError) as refusal:
        read(tmp_path, actions_led_here=True)
    assert message in str(refusal.value) and "20260101T000000" in str(refusal.value)


def test_roles_name_keys(tmp_path: Path) -> None:
    rows = older(3, 1, discount=None, action=None, vector=None)
    rows |= {"control": older(3, 1)["action"], "over": np.array([0, 0, 0, 1])}
    write_older(tmp_path, [rows])
    logs = read(tmp_path, roles={"control": "action", "over": "terminal"})
    assert set(logs.observations) == {"image"} and logs.terminated.all()


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (file,) = write_chunks(tmp_path, 0, episode(0, 0, 3, True), 9)
    uuid = file.name.split("-")[1]
    file.rename(tmp_path / f"20260101T000000-{uuid}-{uuid}-4.npz")
    with pytest.raises(DataError, match="linked in a circle"):
        read(tmp_path)


def test_a_chunk_of_another_length_than_its_name_says_is_refused(tmp_path: Path) -> None:
    (file,) = write_chunks(tmp_path, 0, episode(0, 0, 3, True), 9)
    file.rename(file.with_name(file.name.replace("-4.npz", "-5.npz")))
    with pytest.raises(DataError, match="vector has 4 rows"):
        read(tmp_path)


def test_a_folder_of_replay_is_recognized_by_the_names_of_its_files(tmp_path: Path) -> None:
    write_chunks(tmp_path, 0, episode(0, 0, 3, True), 2)
    assert parse_source(str(tmp_path)).format == "dreamer"
    np.savez(tmp_path / "other.npz", observations=np.ones(3))
    assert not holds_replay(tmp_path)


def test_observations_that_are_not_chosen_are_not_read(tmp_path: Path) -> None:
    write_older(tmp_path, [older(3, 1, image=np.array([{}] * 4, object))])  # cannot be read
    assert set(read(tmp_path, observations=["vector"]).observations) == {"vector"}
    with pytest.raises(DataError, match="did you mean 'vector'"):
        read(tmp_path, observations=["vectro"])
