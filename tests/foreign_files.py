"""Small valid datasets in formats of other projects, which tests then damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from worldmodel.config import DataOptions
from worldmodel.data.readers.dreamer import DreamerData
from worldmodel.data.readers.hdf5 import HDF5Data


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


WRITERS: dict[str, Callable[[Path], DataOptions]] = {
    "hdf5 tree": hdf5_tree,
    "dreamer": dreamer,
}
