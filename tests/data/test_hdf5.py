"""D4RL's HDF5 layout: time-outs are not terminal, and transitions never mix episodes."""

from __future__ import annotations

import logging
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

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
# (transitions, terminal) of each episode; the last one is cut off, without a mark.
EPISODES = [(3, True), (2, False), (4, True), (2, None)]

Kinds = list[tuple[int, bool | None]]


def arrays(episodes: Kinds = EPISODES) -> dict[str, np.ndarray]:
    """T rows per episode that encode episode and step; `None` has no mark at its end."""
    rows = [(e, t) for e, (n, _) in enumerate(episodes) for t in range(n)]
    last = np.cumsum([n for n, _ in episodes]) - 1
    place = np.array(rows, np.float32)
    marks = {key: np.zeros(len(rows), bool) for key in ("terminals", "timeouts")}
    marks["terminals"][last] = [end is True for _, end in episodes]
    marks["timeouts"][last] = [end is False for _, end in episodes]
    return marks | {
        "observations": place,
        "next_observations": place + np.array([0, 1], np.float32),
        "actions": place[:, :1] + place[:, 1:] / 100,
        "rewards": 10 * place[:, 0] + place[:, 1],
    }


def write(path: Path, content: dict[str, Any]) -> str:
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            file.create_dataset(key, data=value)
    return str(path)


def read(folder: Path, content: dict[str, Any], **options: Any) -> Trajectories:
    return load(HDF5Data(path=write(folder / "logs.hdf5", content), **options))


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def transitions(logs: Trajectories) -> list[tuple]:
    found = []
    logged = np.full(logs.num_episodes, True) if logs.final_logged is None else logs.final_logged
    ends = zip(logs.offsets, logs.lengths, logs.terminated, logged, strict=True)
    for first, length, ended, known in ends:
        x = logs.observations["observation"]
        for row in range(first, first + length - 1):
            last = row == first + length - 2
            after = x[row + 1] if known or not last else (None, None)
            found.append(
                (*x[row], *logs.actions[row], logs.rewards[row], *after, bool(ended) and last)
            )
    return found


def expected(episodes: Kinds = EPISODES, with_final: bool = True) -> list[tuple]:
    found = []
    for e, (n, end) in enumerate(episodes):
        for t in range(n):
            last, action = t == n - 1, np.float32(e) + np.float32(t) / np.float32(100)
            after = (e, t + 1) if with_final or not last else (None, None)
            found.append((e, t, action, 10 * e + t, *after, end is True and last))
    return found


KINDS = st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=6)


@settings(max_examples=12, deadline=None)
@given(KINDS)
def test_no_transition_mixes_episodes(
    tmp_path_factory: pytest.TempPathFactory, kinds: Kinds
) -> None:
    folder = tmp_path_factory.mktemp("hdf5")
    assert transitions(read(folder, arrays(kinds))) == expected(kinds)
    # Without time-outs, an episode ends where the next observation is not that of the next row.
    assert transitions(read(folder, without(arrays(kinds), "timeouts"))) == expected(kinds)
    bare = without(arrays(kinds), "next_observations")
    assert transitions(read(folder, bare)) == expected(kinds, with_final=False)


def test_a_row_marked_as_both_is_terminal_and_an_unmarked_end_is_not(tmp_path: Path) -> None:
    content = arrays()
    content["timeouts"] |= content["terminals"]
    logs = read(tmp_path, content)
    assert logs.terminated.tolist() == [True, False, True, False]
    assert logs.lengths.tolist() == [4, 3, 5, 3]


def test_groups_images_classes_and_missing_rewards_are_read(tmp_path: Path) -> None:
    rng, base = np.random.default_rng(0), without(arrays(), "observations", "rewards")
    count = len(base["actions"])
    camera = rng.integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)
    named = {"observations/camera": camera, "observations/arm/angle": np.ones((count, 2))}
    content = without(base, "next_observations") | named
    logs = read(tmp_path, content | {"actions": rng.integers(0, 3, count)})
    assert set(logs.observations) == {"camera", "arm/angle"} and logs.rewards is None
    assert logs.observations["camera"].dtype == np.uint8 and logs.action_spec.discrete
    single = without(base, "next_observations") | {"observations": camera}
    assert list(read(tmp_path, single).observations) == ["image"]


def test_an_unreadable_file_among_others_can_be_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.hdf5", arrays())
    whole = Path(write(tmp_path / "b.h5", arrays())).read_bytes()
    (tmp_path / "b.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"b\.h5: cannot be read"):
        load(HDF5Data(path=str(tmp_path)))
    with caplog.at_level(logging.WARNING):
        logs = load(HDF5Data(path=str(tmp_path), on_invalid_episode="skip"))
    assert logs.num_episodes == 4 and "b.h5" in caplog.text


def shorter(key: str) -> dict[str, Any]:
    content = arrays()
    return content | {key: content[key][:-1]}


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no actions": (without(arrays(), "actions"), "has no actions"),
    "misspelt": (
        without(arrays(), "observations") | {"obsrvations": np.zeros((11, 2))},
        "has no observations (did you mean 'obsrvations'?)",
    ),
    "few rewards": (shorter("rewards"), "rewards has 10 rows; accepted: 11"),
    "few observations": (shorter("observations"), "observations has 10 rows; accepted: 11"),
    "few terminals": (shorter("terminals"), "terminals has 10 rows; accepted: 11"),
    "few time-outs": (shorter("timeouts"), "timeouts has 10 rows; accepted: 11"),
    "few next ones": (shorter("next_observations"), "next_observations has 10 rows"),
    "other next ones": (
        without(arrays(), "next_observations") | {"next_observations/x": np.zeros((11, 2))},
        "next_observations holds x; accepted: observation",
    ),
    "empty": (
        {key: value[:0] for key, value in arrays().items()},
        "actions has no rows; accepted: at least one transition",
    ),
    "text": (
        arrays() | {"actions": np.array([b"a"] * 11)},
        "accepted: numbers",
    ),
    "not finite": (
        arrays() | {"actions": np.full((11, 1), np.inf)},
        "action is not finite",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_invalid_file_is_reported_with_what_is_accepted(tmp_path: Path, kind: str) -> None:
    content, words = BROKEN[kind]
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    assert words in str(caught.value) and "logs.hdf5" in str(caught.value)


def test_files_that_are_not_hdf5_are_refused(tmp_path: Path) -> None:
    for name, content in {"text.hdf5": b"hello", "empty.hdf5": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            load(HDF5Data(path=str(tmp_path / name)))
    with pytest.raises(DataError, match="does not exist"):
        load(HDF5Data(path=str(tmp_path / "none.hdf5")))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of real datasets is missing")
def test_a_real_hopper_dataset_is_read() -> None:
    logs = load(HDF5Data(path=str(SHARED / "formats" / "hopper_medium_mini_d4rl.hdf5")))
    assert (logs.num_episodes, logs.num_transitions) == (28, 10_000)
    assert logs.terminated.sum() == 27 and not logs.terminated[-1]
