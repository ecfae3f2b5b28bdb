"""NumPy archives: every layout gives the same episodes, and transitions never mix episodes."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.data import Trajectories, load
from worldmodel.data.readers.npz import NPZData
from worldmodel.errors import DataError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
LENGTHS = np.array([3, 1, 4])  # transitions
TERMINATED = np.array([True, False, True])


def whole(lengths: np.ndarray = LENGTHS) -> dict[str, np.ndarray]:
    """T+1 observations per episode; observations, actions and rewards encode episode and step."""
    episode = np.repeat(np.arange(len(lengths)), lengths + 1)
    row = np.concatenate([np.arange(n + 1) for n in lengths])
    step = row < np.repeat(lengths, lengths + 1)
    return {
        "observations": np.stack([episode, row], 1).astype(np.float32),
        "actions": (episode + row / 100)[step, None].astype(np.float32),
        "rewards": (10 * episode + row)[step].astype(np.float32),
        "lengths": lengths,
        "terminated": (np.arange(len(lengths)) % 2 == 0),
    }


def by_rows(lengths: np.ndarray = LENGTHS) -> dict[str, np.ndarray]:
    """The same with T rows per episode and marks, as in D4RL, and separate final observations."""
    arrays, ends = whole(lengths), np.cumsum(lengths) - 1
    last = np.cumsum(lengths + 1) - 1
    first = np.delete(np.arange(len(arrays["observations"])), last)
    marks = {key: np.zeros(len(first), bool) for key in ("terminals", "timeouts")}
    marks["terminals"][ends] = arrays["terminated"]
    marks["timeouts"][ends] = ~arrays["terminated"]
    return marks | {
        "observations": arrays["observations"][first],
        "next_observations": arrays["observations"][first + 1],
        "last_next": arrays["observations"][last],
        "actions": arrays["actions"],
        "rewards": arrays["rewards"],
    }


def read(folder: Path, arrays: dict[str, Any], **options: Any) -> Trajectories:
    np.savez(folder / "logs.npz", **arrays)
    return load(NPZData(path=str(folder / "logs.npz"), **options))


def without(arrays: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in arrays.items() if key not in keys}


def transitions(logs: Trajectories) -> list[tuple]:
    """(observation, action, reward, next observation, terminal) of every transition, in order."""
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


def expected(lengths: np.ndarray, with_final: bool = True) -> list[tuple]:
    """The same, computed step by step."""
    found = []
    for e, n in enumerate(lengths.tolist()):
        for t in range(n):
            last, action = t == n - 1, np.float32(e + t / 100)
            after = (e, t + 1) if with_final or not last else (None, None)
            found.append((e, t, action, 10 * e + t, *after, e % 2 == 0 and last))
    return found


@pytest.mark.parametrize("final", ["next_observations", "last_next"])
def test_all_layouts_with_final_observations_give_the_same_transitions(
    tmp_path: Path, final: str
) -> None:
    other = {"next_observations": "last_next", "last_next": "next_observations"}[final]
    assert transitions(read(tmp_path, whole())) == expected(LENGTHS)
    assert transitions(read(tmp_path, without(by_rows(), other))) == expected(LENGTHS)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_no_transition_mixes_episodes(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int]
) -> None:
    folder, counts = tmp_path_factory.mktemp("npz"), np.array(lengths)
    rows = by_rows(counts)
    assert transitions(read(folder, whole(counts))) == expected(counts)
    assert transitions(read(folder, without(rows, "last_next"))) == expected(counts)
    assert transitions(read(folder, without(rows, "next_observations"))) == expected(counts)
    # Without time-outs, an episode ends where the next observation is not that of the next row.
    unmarked = without(rows, "last_next", "timeouts")
    assert transitions(read(folder, unmarked)) == expected(counts)
    bare = without(rows, "last_next", "next_observations")
    assert transitions(read(folder, bare)) == expected(counts, with_final=False)


def test_rows_by_episode_lengths_keep_their_names(tmp_path: Path) -> None:
    arrays = without(by_rows(), "terminals", "timeouts", "last_next", "next_observations")
    names = np.array(["hover", "short", "circle"])
    logs = read(tmp_path, arrays | {"episode_lengths": LENGTHS, "episode_names": names})
    assert logs.lengths.tolist() == [4, 2, 5] and not logs.terminated.any()
    assert [name.rsplit(" ")[-1] for name in logs.names] == ["hover", "short", "circle"]


def test_terminals_of_ogbench_are_ends_of_episodes(tmp_path: Path) -> None:
    """The last row is the final observation: no transition is lost, and none is terminal."""
    arrays = whole()
    ends = np.zeros(len(arrays["observations"]), np.float32)
    ends[np.cumsum(LENGTHS + 1) - 1] = 1
    padded = np.zeros((len(ends), 1), np.float32)
    padded[ends == 0] = arrays["actions"]
    archive = {"observations": arrays["observations"], "actions": padded, "terminals": ends}
    logs = read(tmp_path, archive | {"qpos": np.zeros((len(ends), 2))})
    assert logs.lengths.tolist() == (LENGTHS + 1).tolist()
    assert logs.rewards is None and not logs.terminated.any()
    np.testing.assert_array_equal(logs.observations["observation"], arrays["observations"])


def test_archives_of_stable_baselines_and_single_episodes_are_read(tmp_path: Path) -> None:
    rows = by_rows()
    starts = np.isin(np.arange(LENGTHS.sum()), np.cumsum(LENGTHS) - LENGTHS)
    archive = {"obs": rows["observations"], "actions": rows["actions"], "rewards": rows["rewards"]}
    logs = read(tmp_path, archive | {"episode_starts": starts})
    truncated = [(*step[:-1], False) for step in expected(LENGTHS, with_final=False)]
    assert transitions(logs) == truncated
    one = {"observations": np.zeros((5, 2)), "actions": np.zeros((4, 1))}
    assert read(tmp_path, one).lengths.tolist() == [5]
    one["actions"] = np.zeros((5, 1))
    assert read(tmp_path, one).lengths.tolist() == [6]


def test_dicts_images_and_classes_are_preserved(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), int((LENGTHS + 1).sum())
    camera = rng.integers(0, 256, (rows, 16, 16, 3)).astype(np.uint8)
    classes = rng.integers(0, 3, LENGTHS.sum())
    ends = without(whole(), "observations", "actions")
    named = {"observations/camera": camera, "observations/arm/angle": np.ones((rows, 2))}
    logs = read(tmp_path, ends | named | {"actions": classes[:, None]})
    assert list(logs.observations) == ["camera", "arm/angle"]
    np.testing.assert_array_equal(logs.observations["camera"], camera)
    assert logs.action_spec.discrete and logs.actions.dtype == np.int32
    single = read(tmp_path, ends | {"observations": camera, "actions": classes})
    assert list(single.observations) == ["image"]


def test_counts_of_a_converter_are_numbers(tmp_path: Path) -> None:
    counts = np.linspace(-300, 29_996, LENGTHS.sum()).astype(np.int16)
    logs = read(tmp_path, whole() | {"actions": counts[:, None]})
    assert not logs.action_spec.discrete and logs.action_spec.high == (29_996,)
    assert logs.actions[0, 0] == -300


def test_several_files_are_one_dataset_and_an_unreadable_one_can_be_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.savez(tmp_path / "a.npz", **whole())
    np.savez_compressed(tmp_path / "c.npz", **whole())
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    with pytest.raises(DataError, match=r"b\.npz: cannot be read"):
        load(NPZData(path=str(tmp_path)))
    with caplog.at_level(logging.WARNING):
        logs = load(NPZData(path=str(tmp_path / "*.npz"), on_invalid_episode="skip"))
    assert logs.num_episodes == 6 and "1 invalid episodes skipped" in caplog.text
    assert "b.npz" in caplog.text


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no actions": (without(whole(), "actions"), "has no actions"),
    "misspelt": (
        without(whole(), "observations") | {"obsrvations": np.zeros((11, 2))},
        "has no observations (did you mean 'obsrvations'?); present: actions",
    ),
    "sums": (whole() | {"lengths": LENGTHS + 1}, "lengths sum to 11 in 3 episodes, observations"),
    "a zero length": (whole() | {"lengths": np.array([0, 4, 4])}, "each 1 or more"),
    "float lengths": (whole() | {"lengths": LENGTHS * 1.0}, "lengths is float64 of shape (3,)"),
    "few rewards": (whole() | {"rewards": np.zeros(5)}, "rewards has 5 rows; accepted: 8"),
    "few ends": (whole() | {"terminated": np.zeros(2)}, "terminated has 2 rows; accepted: 3"),
    "few terminals": (by_rows() | {"terminals": np.zeros(7)}, "terminals has 7 rows; accepted: 8"),
    "few final rows": (
        without(by_rows(), "next_observations") | {"last_next": np.zeros((2, 2))},
        "last_next has 2 rows; accepted: 3",
    ),
    "few next rows": (
        by_rows() | {"next_observations": np.zeros((7, 2))},
        "next_observations has 7 rows; accepted: 8",
    ),
    "a scalar": (whole() | {"rewards": np.float32(1)}, "rewards is a single number"),
    "no rows": (
        {"observations": np.zeros((0, 2)), "actions": np.zeros((0, 1))},
        "actions has no rows",
    ),
    "text": (whole() | {"observations": np.full((11, 2), "a")}, "not numeric: 'observation' (<U1)"),
    "objects": (
        whole() | {"actions": np.array([{}] * 8, object)},
        "actions.npy: holds objects; accepted: 64 bytes of numbers",
    ),
    "not finite": (
        whole() | {"rewards": np.array([0, 0, 0, 0, np.nan, 0, 0, 0])},
        "reward is not finite: episode 2, step 0",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_invalid_archive_is_reported_with_what_is_accepted(tmp_path: Path, kind: str) -> None:
    arrays, words = BROKEN[kind]
    np.savez(tmp_path / "logs.npz", **arrays)
    with pytest.raises(DataError) as caught:
        load(NPZData(path=str(tmp_path / "logs.npz")))
    message = str(caught.value).replace(f"{tmp_path}/logs.npz ", "")
    assert words in message and "logs.npz" in str(caught.value)


def test_files_that_are_not_archives_are_refused(tmp_path: Path) -> None:
    for name, content in {"text.npz": b"hello", "empty.npz": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            load(NPZData(path=str(tmp_path / name)))
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="is a single array"):
        load(NPZData(path=str(tmp_path / "one.npy")))
    with pytest.raises(DataError, match="does not exist"):
        load(NPZData(path=str(tmp_path / "none.npz")))
    with pytest.raises(DataError, match=r"no file ends in \.npz"):
        load(NPZData(path=str(tmp_path / "none*")))


def test_a_damaged_array_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "logs.npz"
    np.savez(path, **whole())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("observations.npy").header_offset
    content = bytearray(path.read_bytes())
    content[place + 250] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read.*CRC"):
        load(NPZData(path=str(path)))


def test_large_arrays_are_read_row_by_row(tmp_path: Path) -> None:
    """They are given as small ones are, whatever the layout, and damage at their end is found."""
    lengths, path = np.full(40, 100), tmp_path / "logs.npz"
    rows = without(by_rows(lengths), "timeouts", "last_next")
    for save, small in ((np.savez_compressed, whole(lengths)), (np.savez, rows)):
        wide = {key: np.tile(small[key], 520) for key in small if key.endswith("observations")}
        save(path, **(small | wide))
        logs = load(NPZData(path=str(path), cache="never"))
        logs.observations["observation"] = logs.observations["observation"][:, -2:]
        assert transitions(logs) == expected(lengths)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("observations.npy")
    content[member.header_offset + member.compress_size] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"observations\.npy: cannot be read"):
        load(NPZData(path=str(path), cache="never"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of real datasets is missing")
@pytest.mark.parametrize(
    ("file", "episodes", "steps", "terminals"),
    [
        ("halfcheetah/halfcheetah-replay.npz", 80, 80_000, 0),
        ("halfcheetah/halfcheetah-medium.npz", 100, 100_000, 0),
        ("hopper/hopper-medium.npz", 280, 100_000, 279),
        ("nanobench/nanobench_50hz.npz", 74, 113_138, 0),
        ("formats/stable_baselines_pendulum.npz", 100, 20_000, 0),
    ],
)
def test_real_archives_are_read(file: str, episodes: int, steps: int, terminals: int) -> None:
    logs = load(NPZData(path=str(SHARED / file), cache="never"))
    assert (logs.num_episodes, logs.num_transitions) == (episodes, steps)
    assert logs.terminated.sum() == terminals


def test_declared_bounds_must_match_the_actions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"have shape \(1,\); accepted: \(2,\), as declared"):
        read(tmp_path, whole(), action_low=[0.0, 0.0], action_high=[1.0, 1.0])
    logs = read(tmp_path, whole(), action_low=[0.0], action_high=[4.0])
    assert (logs.action_spec.low, logs.action_spec.high) == ((0.0,), (4.0,))
    with pytest.raises(DataError, match=r"outside its bounds: episode 1, step 0.*low \[0.0\]"):
        read(tmp_path, whole(), action_low=[0.0], action_high=[0.5])


def test_long_episodes_are_cut_as_by_a_time_limit(tmp_path: Path) -> None:
    """Pieces share an observation, so no transition is lost; only the last one may be terminal."""
    logs = read(tmp_path, whole(), max_episode_steps=2)
    assert logs.lengths.tolist() == [3, 2, 2, 3, 3]
    assert logs.terminated.tolist() == [False, True, False, False, True]
    assert transitions(logs) == expected(LENGTHS)


def test_a_replay_of_dreamer_is_told_by_its_fields(tmp_path: Path) -> None:
    rows = {"image": np.zeros((5, 8, 8, 3), np.uint8), "action": np.ones((5, 2)), "reward": [0] * 5}
    np.savez(tmp_path / "a.npz", **rows, is_first=[1, 0, 0, 0, 0])
    with pytest.raises(DataError, match="data=dreamer reads replays of Dreamer"):
        load(NPZData(path=str(tmp_path / "a.npz")))


def test_a_missing_observation_names_the_file_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", observations=np.ones((5, 2)), actions=np.ones((4, 2)))
    with pytest.raises(DataError, match="has no observation 'speed'") as caught:
        load(NPZData(path=str(tmp_path / "a.npz"), observations=["speed"]))
    assert str(caught.value).count("a.npz") == 1
