"""Ends of named arrays whose marks, next observations or last rows are not what they seem."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.array_logs import (
    ENDS,
    FALSE,
    LENGTHS,
    TRUE,
    Arrays,
    Read,
    bare,
    check,
    marks,
    system,
    with_finals,
    written,
)
from worldmodel.errors import DataError


@pytest.fixture(params=["npz", "hdf5"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Read:
    return lambda arrays, **options: written(tmp_path, request.param, arrays, **options)


@pytest.mark.parametrize("kind", ["repeats the observation before it", "is 0"])
@pytest.mark.parametrize("given", [{}, {"terminals": marks(ENDS)}])
def test_next_observations_of_ends_may_be_placeholders(
    read: Read, caplog: pytest.LogCaptureFixture, kind: str, given: Arrays
) -> None:
    arrays = system((4, 3, 5, 2)) | {k: np.append(v, [False, True]) for k, v in given.items()}
    ends = np.array([*ENDS, 13])
    arrays["next_observations"][ends] = arrays["observations"][ends] if kind[0] == "r" else 0
    with caplog.at_level(logging.WARNING):
        logs = read(arrays)
    assert f"next_observations {kind} at all 4 ends" in caplog.text
    assert (logs.lengths - 1).tolist()[:3] == [4, 3, 5]
    assert logs.final_logged is not None and not logs.final_logged.any()


def test_episodes_that_end_at_rest_keep_their_final_observations(read: Read) -> None:
    arrays = system()
    arrays["next_observations"][ENDS[:2]] = arrays["observations"][ENDS[:2]]
    assert read(arrays | {"terminals": marks(ENDS)}).final_logged is None
    alone = {"observations": np.ones((3, 2), "f4"), "next_observations": np.ones((3, 2), "f4")}
    one = alone | {"actions": np.ones((3, 1), "f4"), "terminals": [False, False, True]}
    assert read(one).final_logged is None
    arrays = system()  # at rest for some time
    for name in ("observations", "next_observations"):
        arrays[name][ENDS] = arrays["observations"][ENDS - 1]
        arrays["next_observations"][ENDS - 1] = arrays["observations"][ENDS - 1]
    assert read(arrays | {"terminals": marks(ENDS)}).final_logged is None


@pytest.mark.parametrize(
    ("cut", "mask"), [("timeouts", "masks"), ("truncated", "discount"), ("time_out", "mask")]
)
def test_masks_beside_time_outs_mark_ends_of_records(read: Read, cut: str, mask: str) -> None:
    ends = {cut: marks(ENDS[1:2]), mask: 1.0 - marks(ENDS[::2])}
    check(read(bare() | ends), [True, False, True], logged=False)
    check(read(system() | ends), [True, False, True], logged=True)


@pytest.mark.parametrize("name", ["masks", "discount"])
def test_masks_just_after_the_ends_of_lengths_are_late(read: Read, name: str) -> None:
    late = {"episode_lengths": np.array(LENGTHS), name: 1.0 - marks(ENDS[:-1] + 1)}
    with pytest.raises(DataError, match=f"{name} mark 2 rows that are not the last"):
        read(bare() | late)


def test_masks_that_are_no_masks_are_refused(read: Read) -> None:
    wrong = {"dones": marks(ENDS), "masks": marks(ENDS, float)}
    with pytest.raises(DataError, match="masks is 0 in 9 of 12 rows, and in none of the 3"):
        read(bare() | wrong)
    check(read(bare() | wrong, roles={"masks": "terminal"}), TRUE, logged=False)


@pytest.mark.parametrize(
    ("counts", "how"),
    [(np.array(LENGTHS), "sum to"), (ENDS, "end at"), (ENDS + 1, "end at")],
)
def test_counts_of_episodes_under_other_names_are_asked_about(
    read: Read, counts: np.ndarray, how: str
) -> None:
    arrays = bare() | {"traj_lens": counts}
    with pytest.raises(DataError, match=f"traj_lens holds 3 integers that {how} the 12 rows"):
        read(arrays)
    check(read(arrays, roles={"traj_lens": "length"}), FALSE, logged=False)
    assert len(read(arrays, roles={"traj_lens": "ignore"}).lengths) == 1
    check(read(arrays | {"terminals": marks(ENDS)}), TRUE, logged=False)


def test_terminals_without_rewards_are_told(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    arrays = {k: v for k, v in bare().items() if k != "rewards"} | {"terminals": marks(ENDS)}
    with caplog.at_level(logging.WARNING):
        assert read(arrays).num_transitions == 9
    assert "terminals without rewards and other marks are read as OGBench's" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        read(arrays | {"qpos": np.zeros((12, 3))}, roles={"qpos": "ignore"})
        assert read(arrays, roles={"terminals": "final"}).num_transitions == 9
        assert read(arrays, roles={"terminals": "terminal"}).terminated.all()
    assert "OGBench" not in caplog.text


def test_last_rows_without_action_and_reward_are_told(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    rows, final, _ = with_finals(bare())
    ends = {"timeouts": marks(final, count=15)}
    with caplog.at_level(logging.WARNING):
        assert read(rows | ends).num_transitions == 15
    assert "the last rows of all 3 episodes have no action and no reward" in caplog.text
    check(read(rows | ends, roles={"timeouts": "final"}), FALSE, logged=True)


def test_shifted_next_observations_are_none_after_any_end(read: Read) -> None:
    """Resets are as near as steps, so that only the terminal ends show the shift."""
    states, last = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 10 == 9
    terminal = last & (np.arange(60) < 35)
    marked = {"terminals": terminal, "timeouts": last & ~terminal}
    shifted = {"observations": states, "next_observations": np.roll(states, -1, 0)}
    dataset = read(shifted | marked | {"actions": states[:, :1]})
    assert dataset.num_episodes == 6 and dataset.terminated.sum() == 3
    assert dataset.final_logged is not None and not dataset.final_logged.any()
