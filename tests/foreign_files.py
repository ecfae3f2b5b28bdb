"""Small valid datasets in formats of other projects, which tests then damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from worldmodel.config import DataOptions
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


WRITERS: dict[str, Callable[[Path], DataOptions]] = {"hdf5 tree": hdf5_tree}
