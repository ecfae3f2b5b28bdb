"""Rewards and ends of OGBench's single tasks are those that its package computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldmodel.data import load
from worldmodel.data.readers.npz import NPZData
from worldmodel.errors import DataError

TASK = "cube-single-play-singletask-task2-v0"


def write(path: Path, **arrays: np.ndarray) -> str:
    """Three trajectories of 10 transitions as OGBench stores them, each with its last state."""
    rows = np.arange(33)
    content = {
        "observations": np.stack([rows // 11, rows % 11], 1).astype("f4"),
        "actions": np.ones((33, 5), "f4") * rows[:, None],
        "terminals": rows % 11 == 10,
    }
    np.savez(path, **(content | arrays))
    return str(path)


def test_rewards_and_ends_of_a_task_are_computed(tmp_path: Path) -> None:
    ogbench = pytest.importorskip("ogbench", reason="OGBench is not installed")
    environment = ogbench.make_env_and_datasets(TASK, env_only=True)
    environment.reset()
    target = environment.unwrapped._data.mocap_pos.copy()[0]
    qpos = np.zeros((33, 21))
    qpos[:, 14:17] = target + 1
    qpos[[3, 4, 30], 14:17] = target  # the cube is where it belongs
    logs = load(NPZData(path=write(tmp_path / "a.npz", qpos=qpos), ogbench_task=TASK))
    assert logs.num_transitions == 30
    assert (logs.lengths - 1).tolist() == [4, 1, 5, 10, 9, 1]
    assert logs.terminated.tolist() == [True, True, False, False, True, False]
    assert logs.rewards is not None
    first = logs.rewards[: logs.lengths[0] - 1].tolist()
    assert first == [-1, -1, -1, 0]


def test_a_missing_package_or_task_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", qpos=np.zeros((33, 21)))
    with pytest.raises(DataError, match="pip install ogbench|OGBench cannot compute its rewards"):
        load(NPZData(path=path, ogbench_task="cube-single-play-v0"))
