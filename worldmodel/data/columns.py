"""Rows that arrive piece by piece, in memory or straight to files, without a second copy of them
all.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

GROWTH = 1.25  # a full array in memory grows to so many times its size
FIRST_ROWS = 1024


class ColumnWriter:
    """Named columns of rows. With a folder, column i is the file `i.bin` there, rows end to end.

    The first piece of a column decides its type and the shape of its rows.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, np.dtype] = {}
        self.rows: dict[str, int] = {}
        self.arrays_: dict[str, np.ndarray] = {}
        self.files: dict[str, BinaryIO] = {}

    def append(self, columns: dict[str, np.ndarray]) -> None:
        """Adds rows to each column."""
        for name, piece in columns.items():
            if name not in self.rows:
                self._begin(name, piece)
            if self.folder is not None:
                self.files[name].write(np.ascontiguousarray(piece, self.types[name]).data)
            else:
                self._put(name, piece)
            self.rows[name] += len(piece)

    def finish(self) -> dict[str, np.ndarray]:
        """All rows of each column: arrays, or read-only memory-mapped files."""
        if self.folder is None:
            for name, array in self.arrays_.items():
                array.resize((self.rows[name], *self.shapes[name]), refcheck=False)
            return self.arrays_
        for file in self.files.values():
            file.flush()
            file.close()
        return {
            name: open_memmap(
                self.folder / f"{i}.bin", self.types[name], (rows, *self.shapes[name])
            )
            for i, (name, rows) in enumerate(self.rows.items())
        }

    def _begin(self, name: str, piece: np.ndarray) -> None:
        self.shapes[name], self.types[name] = piece.shape[1:], piece.dtype
        if self.folder is not None:
            self.files[name] = (self.folder / f"{len(self.rows)}.bin").open("wb")
        else:
            self.arrays_[name] = np.empty((FIRST_ROWS, *piece.shape[1:]), piece.dtype)
        self.rows[name] = 0

    def _put(self, name: str, piece: np.ndarray) -> None:
        end = self.rows[name] + len(piece)
        array = self.arrays_[name]
        if end > len(array):
            # In place: the system moves pages, and those not yet written take no memory.
            array.resize((max(end, int(len(array) * GROWTH)), *array.shape[1:]), refcheck=False)
        array[self.rows[name] : end] = piece


def open_memmap(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The rows of a file as a read-only array."""
    return np.memmap(path, dtype, "r", shape=shape)
