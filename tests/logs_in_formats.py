"""One log, written in every format: episodes of a system whose every transition can be checked.

Observations are 3 numbers, actions 1: `next[0] = now[0] + 0.1 action`, `next[1:] = 0.9 now[1:]`,
`reward = -|next[0]|`. Resets lie some 10 apart, so a transition across one is seen.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import lerobot_sets
import numpy as np
import pyarrow as pa
from foreign_files import write_memmap, zarr_buffer
from pyarrow import csv, parquet

from worldmodel.config import DataOptions
from worldmodel.data import Trajectories
from worldmodel.data.readers.dreamer import DreamerData
from worldmodel.data.readers.hdf5 import HDF5Data
from worldmodel.data.readers.lerobot import LeRobotData
from worldmodel.data.readers.minari import MinariData
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.readers.pickles import PickleData
from worldmodel.data.readers.table import TableData
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.readers.torchrl import TorchRLData
from worldmodel.data.readers.zarr import ZarrData

Fields = dict[str, np.ndarray]


@dataclass(frozen=True)
class Log:
    """Episodes as logs have them; `fields` of T rows are written beside observations and actions.

    observations: (T+1, ...) of each episode; actions: (T, ...); rewards: (T,)
    terminal: of each episode, else it was truncated
    fields: of each episode, name -> (T, ...)
    """

    observations: list[Fields]
    actions: list[np.ndarray]
    rewards: list[np.ndarray]
    terminal: list[bool]
    fields: list[Fields] = field(default_factory=list)

    @property
    def lengths(self) -> list[int]:
        return [len(actions) for actions in self.actions]


def system_log(lengths: Sequence[int], terminal: Sequence[bool], seed: int = 0) -> Log:
    """Episodes of the system with uniform actions."""
    rng = np.random.default_rng(seed)
    observations, acted, rewards = [], [], []
    for number, length in enumerate(lengths):
        actions = rng.uniform(-1, 1, (length, 1)).astype(np.float32)
        first = 10.0 * number + np.concatenate([[0], 0.1 * np.cumsum(actions[:, 0])])
        rest = (number + 1) * 0.9 ** np.arange(length + 1)[:, None] * np.array([1.0, -2.0])
        observations.append({"state": np.concatenate([first[:, None], rest], 1)})
        acted.append(actions)
        rewards.append(-np.abs(first[1:]))
    return Log(observations, acted, rewards, list(terminal))


def check_transitions(dataset: Trajectories, log: Log) -> None:
    """Asserts that a dataset holds all transitions of a log, and no others."""
    assert dataset.num_episodes == len(log.lengths)
    assert (dataset.lengths - 1).tolist() == log.lengths
    assert dataset.terminated.tolist() == log.terminal
    name = next(name for name in dataset.observations if name != "camera")
    values = dataset.raw_observations()[name]
    for number, (begin, length) in enumerate(zip(dataset.offsets, log.lengths, strict=True)):
        rows = slice(begin, begin + length)
        logged = dataset.final_logged is None or bool(dataset.final_logged[number])
        read = values[begin : begin + length + logged]
        expected = log.observations[number]["state"][: length + logged]
        np.testing.assert_allclose(read, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(dataset.actions[rows], log.actions[number], rtol=1e-6)
        assert dataset.rewards is not None
        np.testing.assert_allclose(dataset.rewards[rows], log.rewards[number], rtol=1e-6)


# --------------------------------------------------------------------------------- rows end to end


def _rows(log: Log, observed: str = "observations") -> Fields:
    """T rows an episode, laid end to end."""
    names = list(log.observations[0])
    rows = {
        observed if len(names) == 1 else f"{observed}/{name}": np.concatenate(
            [o[name][:-1] for o in log.observations]
        )
        for name in names
    }
    rows |= {"actions": np.concatenate(log.actions), "rewards": np.concatenate(log.rewards)}
    for name in log.fields[0] if log.fields else ():
        rows[name] = np.concatenate([fields[name] for fields in log.fields])
    return rows


def write_npz(log: Log, folder: Path) -> DataOptions:
    np.savez(folder / "log.npz", **_rows(log))
    return NPZData(path=str(folder / "log.npz"))


def write_hdf5(log: Log, folder: Path) -> DataOptions:
    with h5py.File(folder / "log.hdf5", "w") as file:
        for name, value in _rows(log).items():
            text = value.dtype.kind in "UO"
            file.create_dataset(name, data=value.astype(h5py.string_dtype()) if text else value)
    return HDF5Data(path=str(folder / "log.hdf5"))


def _table(log: Log) -> tuple[pa.Table, TableData]:
    rows = _rows(log)
    observations, actions = rows.pop("observations"), rows.pop("actions")
    columns = {}
    for name, value in (("o", observations), ("a", actions.reshape(len(actions), -1))):
        columns |= {f"{name}{i}": value[:, i] for i in range(value.shape[1])}
    names = [list(columns)[: observations.shape[1]], list(columns)[observations.shape[1] :]]
    following = rows.pop("next_observations", None)
    options = TableData(observations=names[0], actions=names[1], reward="rewards")
    if following is not None:
        columns |= {f"n{i}": following[:, i] for i in range(following.shape[1])}
        options.next_observations = [f"n{i}" for i in range(following.shape[1])]
    options.terminal = "terminals" if "terminals" in rows else None
    options.truncated = "timeouts" if "timeouts" in rows else None
    return pa.table(columns | rows), options


def write_csv(log: Log, folder: Path) -> DataOptions:
    table, options = _table(log)
    csv.write_csv(table, folder / "log.csv")
    options.path = str(folder / "log.csv")
    return options


def write_parquet(log: Log, folder: Path) -> DataOptions:
    table, options = _table(log)
    parquet.write_table(table, folder / "log.parquet")
    options.path = str(folder / "log.parquet")
    return options


# --------------------------------------------------------------------------------- by the episode


def write_robomimic(log: Log, folder: Path) -> DataOptions:
    with h5py.File(folder / "demos.hdf5", "w") as file:
        for number, length in enumerate(log.lengths):
            group = file.create_group(f"data/demo_{number}")
            group.attrs["num_samples"] = length
            for name, value in log.observations[number].items():
                value = value.astype(h5py.string_dtype()) if value.dtype.kind == "U" else value
                group[f"obs/{name}"], group[f"next_obs/{name}"] = value[:-1], value[1:]
            group["actions"], group["rewards"] = log.actions[number], log.rewards[number]
            group["dones"] = (np.arange(length) == length - 1) & log.terminal[number]
            for name, value in (log.fields[number] if log.fields else {}).items():
                group[name] = value
    return HDF5Data(path=str(folder / "demos.hdf5"), roles={"dones": "terminal"})


def write_dreamer(log: Log, folder: Path) -> DataOptions:
    """Chunks of DreamerV3 of 7 rows, over which the episodes run."""
    episodes = []
    for number, length in enumerate(log.lengths):
        last = np.arange(length + 1) == length
        rows = dict(log.observations[number]) | {
            "action": np.concatenate([log.actions[number], 0 * log.actions[number][:1]]),
            "reward": np.concatenate([[0], log.rewards[number]]),
            "is_first": np.arange(length + 1) == 0,
            "is_last": last,
            "is_terminal": last & log.terminal[number],
        }
        for name, value in (log.fields[number] if log.fields else {}).items():
            rows[name] = np.concatenate([value, value[-1:]])
        episodes.append(rows)
    joined = {name: np.concatenate([e[name] for e in episodes]) for name in episodes[0]}
    count, size = len(joined["action"]), 7
    for index, begin in enumerate(range(0, count, size)):
        here, following = (f"w0c{i}".rjust(22, "0") for i in (index, index + 1))
        length = min(size, count - begin)
        name = f"20260101T0000{index:02}F000000-{here}-{following}-{length}.npz"
        np.savez(folder / name, **{k: v[begin : begin + size] for k, v in joined.items()})
    return DreamerData(path=str(folder))


def write_minari(log: Log, folder: Path) -> DataOptions:
    from gymnasium import spaces
    from minari import create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

    def space(value: np.ndarray) -> spaces.Space:
        if value.dtype == np.uint8:
            return spaces.Box(0, 255, value.shape[1:], np.uint8)
        if value.dtype.kind in "iu" and value.ndim > 1:
            return spaces.MultiDiscrete(value.max(0) + 1)
        return spaces.Box(-np.inf, np.inf, value.shape[1:], value.dtype.type)

    buffers = [
        EpisodeBuffer(
            id=number,
            observations={k: list(v) for k, v in log.observations[number].items()},
            actions=list(log.actions[number]),
            rewards=log.rewards[number].tolist(),
            terminations=[False] * (length - 1) + [log.terminal[number]],
            truncations=[False] * (length - 1) + [not log.terminal[number]],
        )
        for number, length in enumerate(log.lengths)
    ]
    observed = {k: space(v) for k, v in log.observations[0].items()}
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        create_dataset_from_buffers(
            "log/test-v0", buffers, observation_space=spaces.Dict(observed),
            action_space=space(np.concatenate(log.actions)), data_format="hdf5",
        )  # fmt: skip
    return MinariData(dataset="log/test-v0", path=str(folder))


def write_tfds(log: Log, folder: Path) -> DataOptions:
    """RLDS; rows that are not there at the last step are zeros."""
    import tensorflow_datasets as tfds
    from rlds_datasets import foreign

    def feature(value: np.ndarray) -> Any:
        if value.dtype == np.uint8 and value.ndim == 4:
            return tfds.features.Image(shape=value.shape[1:])
        if value.dtype.kind == "U":
            return tfds.features.Text()
        return tfds.features.Tensor(shape=value.shape[1:], dtype=value.dtype)

    def padded(value: np.ndarray) -> np.ndarray:
        return np.concatenate([value, value[-1:] if value.dtype.kind == "U" else 0 * value[-1:]])

    episodes, columns = [], {}
    for number, length in enumerate(log.lengths):
        last = np.arange(length + 1) == length
        columns = {
            "action": padded(log.actions[number]),
            "reward": padded(log.rewards[number]),
            "is_first": np.arange(length + 1) == 0,
            "is_last": last,
            "is_terminal": last & log.terminal[number],
        }
        columns |= {k: padded(v) for k, v in (log.fields[number] if log.fields else {}).items()}
        episodes.append(columns | {"observation": dict(log.observations[number])})
    steps = {k: feature(v) for k, v in columns.items()}
    steps["observation"] = {k: feature(v) for k, v in log.observations[0].items()}
    return TFDSData(path=str(foreign(folder, steps, episodes)))


def write_zarr(log: Log, folder: Path) -> DataOptions:
    rows = {name.removeprefix("state/"): value for name, value in _rows(log, "state").items()}
    names = {"actions": "action", "rewards": "reward"}
    arrays = {f"data/{names.get(k, k)}": v for k, v in rows.items()}
    arrays["meta/episode_ends"] = np.cumsum(log.lengths)
    zarr_buffer(str(folder / "log.zarr"), arrays, zarr_format=2)
    return ZarrData(path=str(folder / "log.zarr"))


def write_lerobot(log: Log, folder: Path) -> DataOptions:
    """Version 3.0, with `next.success` in the terminal rows."""
    episodes = []
    for number, length in enumerate(log.lengths):
        last = np.arange(length) == length - 1
        observed = {f"observation.{k}": v[:-1] for k, v in log.observations[number].items()}
        given = log.fields[number] if log.fields else {}
        episodes.append(
            observed
            | {"action": log.actions[number], "next.reward": log.rewards[number]}
            | {"next.done": last, "next.success": last & log.terminal[number]}
            | given
        )
    return LeRobotData(path=str(lerobot_sets.write_set(folder / "set", "v3.0", episodes)))


def write_pickle(log: Log, folder: Path) -> DataOptions:
    """As Decision Transformer has it."""
    episodes = []
    for number, length in enumerate(log.lengths):
        (state,) = log.observations[number].values()
        terminals = (np.arange(length) == length - 1) & log.terminal[number]
        fields = {"observations": state[:-1], "next_observations": state[1:]}
        fields |= {"actions": log.actions[number], "rewards": log.rewards[number]}
        episodes.append(fields | {"terminals": terminals})
    (folder / "log.pkl").write_bytes(pickle.dumps(episodes))
    return PickleData(path=str(folder / "log.pkl"))


def write_torchrl(log: Log, folder: Path) -> DataOptions:
    last = np.concatenate([np.arange(n) == n - 1 for n in log.lengths])
    terminated = last & np.repeat(log.terminal, log.lengths)
    marks = {"done": last, "terminated": terminated, "truncated": last & ~terminated}
    following = {"observation": np.concatenate([o["state"][1:] for o in log.observations])}
    following |= {"reward": np.concatenate(log.rewards)[:, None]}
    following |= {name: value[:, None] for name, value in marks.items()}
    rows = _rows(log)
    content = {"observation": rows["observations"], "action": rows["actions"], "next": following}
    write_memmap(folder / "log", content, [len(last)])
    return TorchRLData(path=str(folder / "log"))


WRITERS: dict[str, Callable[[Log, Path], DataOptions]] = {
    "npz": write_npz,
    "hdf5": write_hdf5,
    "csv": write_csv,
    "parquet": write_parquet,
    "robomimic": write_robomimic,
    "dreamer": write_dreamer,
    "minari": write_minari,
    "tfds": write_tfds,
    "zarr": write_zarr,
    "lerobot": write_lerobot,
}
# Formats for which the tests of their readers have the odd kinds.
FURTHER_WRITERS = {"pickle": write_pickle, "torchrl": write_torchrl}
