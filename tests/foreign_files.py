"""Small valid datasets in formats of other projects, which tests then damage."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import lerobot_sets
import numpy as np
import pytest
import ros_bags

from worldmodel.config import DataOptions
from worldmodel.data.readers.dreamer import DreamerData
from worldmodel.data.readers.hdf5 import HDF5Data
from worldmodel.data.readers.lerobot import LeRobotData
from worldmodel.data.readers.pickles import PickleData
from worldmodel.data.readers.rosbag import RosbagData
from worldmodel.data.readers.torchrl import TorchRLData
from worldmodel.data.readers.zarr import ZarrData


def hdf5_tree(folder: Path) -> DataOptions:
    with h5py.File(folder / "a.h5", "w") as file:
        for number in range(3):
            group = file.create_group(f"data/demo_{number}")
            group["actions"], group["rewards"] = np.ones((5, 2)), np.ones(5)
            group["obs/x"] = np.arange(10.0).reshape(5, 2)
            group["next_obs/x"] = np.arange(2, 12.0).reshape(5, 2)
            group["truncated"] = np.arange(5) == 4
    return HDF5Data(path=str(folder / "a.h5"))


def dreamer(folder: Path) -> DataOptions:
    ended = np.arange(6) == 5
    rows = {"x": np.ones((6, 2)), "action": np.ones((6, 1)), "reward": np.ones(6)}
    rows |= {"is_first": ended[::-1], "is_last": ended, "is_terminal": ended}
    names = [f"{number:022}" for number in range(4)]
    for number in range(3):
        name = f"20260101T000000F{number:06}-{names[number]}-{names[number + 1]}-2.npz"
        part = {key: value[2 * number : 2 * number + 2] for key, value in rows.items()}
        np.savez_compressed(folder / name, **part)
    return DreamerData(path=str(folder))


def lerobot(version: str) -> Callable[[Path], DataOptions]:
    def write(folder: Path) -> DataOptions:
        rewards = {"next.reward": np.ones(4, np.float32), "next.done": np.arange(4) == 3}
        made = [lerobot_sets.episode(4, i, **rewards) for i in range(2)]
        write_set = lerobot_sets.write_set
        root = write_set(folder / "set", version, made, video=True, still=version == "v2.1")
        return LeRobotData(path=str(root), roles={"next.done": "terminal"})

    return write


def zarr_buffer(store: Any, arrays: dict[str, Any], chunk: int = 4, **format: Any) -> None:
    """Writes arrays by path, as the replay buffer of diffusion policy lays them out."""
    import zarr

    for path, value in arrays.items():
        value = np.asarray(value)
        shape = {"shape": value.shape, "chunks": (chunk, *value.shape[1:]), "dtype": value.dtype}
        array: Any = zarr.open_array(store=store, path=path, mode="w", **shape, **format)
        array[:] = value


def zarr_folder(folder: Path) -> DataOptions:
    pytest.importorskip("zarr", reason="the extra `zarr` is not installed")
    rows = {"data/action": np.ones((9, 2), "f4"), "data/state": np.ones((9, 3), "f4")}
    place = folder / "a.zarr"
    zarr_buffer(str(place), rows | {"meta/episode_ends": [4, 9]}, zarr_format=2)
    return ZarrData(path=str(place))


def zarr_zip(folder: Path) -> DataOptions:
    options = zarr_folder(folder)
    place = Path(str(options.path))
    shutil.make_archive(str(folder / "a.zarr"), "zip", place)
    shutil.rmtree(place)
    return ZarrData(path=str(folder / "a.zarr.zip"))


def write_memmap(folder: Path, content: dict[str, Any], batch: list[int]) -> None:
    """Writes a nested dict of arrays as tensordict's `memmap` does."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = "<class 'tensordict._td.TensorDict'>"
    meta: dict[str, Any] = {"shape": batch, "device": "cpu", "_type": kind}
    for key, value in content.items():
        if isinstance(value, dict):
            write_memmap(folder / key, value, batch)
            continue
        (folder / f"{key}.memmap").write_bytes(np.ascontiguousarray(value).tobytes())
        dtype = f"torch.{value.dtype}"
        meta[key] = {"device": "cpu", "shape": list(value.shape), "dtype": dtype}
    (folder / "meta.json").write_text(json.dumps(meta))


def torchrl(folder: Path) -> DataOptions:
    place = np.arange(12.0).reshape(6, 2)
    ended = np.arange(6)[:, None] % 3 == 2
    following = {"observation": place + 2, "reward": np.ones((6, 1)), "terminated": ended}
    content = {"observation": place, "action": np.ones((6, 1)), "next": following}
    write_memmap(folder, content, [6])
    return TorchRLData(path=str(folder))


def pickled(folder: Path) -> DataOptions:
    row = np.arange(10.0).reshape(5, 2)
    fields = {"observations": row, "next_observations": row + 2, "actions": np.ones((5, 1))}
    fields |= {"rewards": np.ones(5), "terminals": np.arange(5) == 4}
    (folder / "a.pkl").write_bytes(pickle.dumps([fields] * 3))
    return PickleData(path=str(folder / "a.pkl"))


def rosbag(kind: str) -> Callable[[Path], DataOptions]:
    def write(folder: Path) -> DataOptions:
        pytest.importorskip("rosbags", reason="the extra `rosbag` is not installed")
        store = ros_bags.typestore(kind == "bag")
        path = ros_bags.write(folder, kind, ros_bags.drive(store, 0.8), store)
        fields = {"observations": ["/odom/pose/pose/position"], "actions": ["/cmd_vel/linear/x"]}
        return RosbagData(path=str(path), rate=10.0, **fields)

    return write


WRITERS: dict[str, Callable[[Path], DataOptions]] = {
    "hdf5 tree": hdf5_tree,
    "dreamer": dreamer,
    "lerobot 2.1": lerobot("v2.1"),
    "lerobot 3.0": lerobot("v3.0"),
    "zarr": zarr_folder,
    "torchrl": torchrl,
    "zarr zip": zarr_zip,
    "pickle": pickled,
    **{f"rosbag {kind}": rosbag(kind) for kind in ("bag", "sqlite3", "mcap")},
}
