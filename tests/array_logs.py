"""A small system logged as named arrays, so that every transition is checked by its arithmetic:
`next[0] = now[0] + 0.1 action`, `next[1:] = 0.9 now[1:]`, `reward = -|next[0]|`, resets 10 apart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldmodel.data import Trajectories, load
from worldmodel.data.readers.hdf5 import HDF5Data
from worldmodel.data.readers.npz import NPZData

Arrays = dict[str, Any]

Read = Callable[..., Trajectories]

LENGTHS = (4, 3, 5)

ENDS = np.cumsum(LENGTHS) - 1


def written(folder: Path, kind: str, arrays: Arrays, **options: Any) -> Trajectories:
    path = str(folder / f"logs.{kind}")
    if kind == "npz":
        np.savez(path, **arrays)
        return load(NPZData(path=path, **options))
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value
    return load(HDF5Data(path=path, **options))


def system(lengths: tuple[int, ...] = LENGTHS) -> Arrays:
    """Rows of all episodes, with every next observation."""
    rng, rows, after = np.random.default_rng(0), [], []
    actions = rng.uniform(-1, 1, (sum(lengths), 1)).astype(np.float32)
    step = iter(actions[:, 0])
    for episode, length in enumerate(lengths):
        now = np.array([10.0 * episode, 1, -1])
        for _ in range(length):
            rows.append(now)
            now = np.array([now[0] + 0.1 * next(step), *0.9 * now[1:]])
            after.append(now)
    following = np.array(after, np.float32)
    return {
        "observations": np.array(rows, np.float32),
        "actions": actions,
        "rewards": -np.abs(following[:, 0]),
        "next_observations": following,
    }


def bare(lengths: tuple[int, ...] = LENGTHS) -> Arrays:
    return {key: value for key, value in system(lengths).items() if key != "next_observations"}


def marks(rows: list[int] | np.ndarray, kind: Any = bool, count: int = sum(LENGTHS)) -> np.ndarray:
    return np.isin(np.arange(count), rows).astype(kind)


def check(
    logs: Trajectories, terminal: list[bool], logged: bool, lengths: tuple[int, ...] = LENGTHS
) -> None:
    """Every transition obeys the system, and episodes and ends are those that were logged."""
    assert (logs.lengths - 1).tolist() == list(lengths) and logs.terminated.tolist() == terminal
    known = np.full(len(terminal), True) if logs.final_logged is None else logs.final_logged
    assert known.tolist() == [logged] * len(terminal)
    observed = logs.observations["observation"]
    for first, length in zip(logs.offsets, logs.lengths, strict=True):
        assert observed[first, 1] == 1  # an episode begins at a reset
        for row in range(first, first + length - 1):
            now, action = observed[row], logs.actions[row, 0]
            after = np.array([now[0] + 0.1 * action, *0.9 * now[1:]])
            assert logs.rewards is not None
            np.testing.assert_allclose(logs.rewards[row], -abs(after[0]), atol=1e-5)
            if logged or row < first + length - 2:
                np.testing.assert_allclose(observed[row + 1], after, atol=1e-5)


TRUE, FALSE = [True] * 3, [False] * 3


def with_finals(arrays: Arrays, pad: float = 0.0) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """Rows as OGBench and RLDS have them: a row of its own for each final observation."""
    final = np.arange(3) + ENDS + 1
    count = sum(LENGTHS) + 3
    inner = np.setdiff1d(np.arange(count), final)
    rows = {
        key: np.full((count, *value.shape[1:]), pad, value.dtype) for key, value in arrays.items()
    }
    for key, value in arrays.items():
        rows[key][inner] = value
    rows["observations"][final] = system()["next_observations"][ENDS]
    return rows, final, inner
