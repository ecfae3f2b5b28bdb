"""Collects rows that arrive in chunks, in memory or in files, without ever holding two copies."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

GROWTH = 1.25  # factor by which a full array in memory grows
FIRST_ROWS = 1024


class ColumnWriter:
    """Named columns of rows. With a folder, column i is the file `i.bin` there.

    The first chunk of a column sets its type and the shape of its rows. In memory, a first chunk
    that is read-only is kept as it is, and copied when another follows.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, np.dtype] = {}
        self.rows: dict[str, int] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.files: dict[str, BinaryIO] = {}

    def append(self, columns: dict[str, np.ndarray]) -> None:
        """Appends rows to each column."""
        for name, chunk in columns.items():
            if name not in self.rows:
                self._begin(name, chunk)
            if self.folder is not None:
                self.files[name].write(np.ascontiguousarray(chunk, self.types[name]).data)
            else:
                self._put(name, chunk)
            self.rows[name] += len(chunk)

    def finish(self) -> dict[str, np.ndarray]:
        """Returns each whole column: an array, or a read-only memory-mapped file."""
        if self.folder is None:
            for name, array in self.arrays.items():
                if len(array) != self.rows[name]:
                    array.resize((self.rows[name], *self.shapes[name]), refcheck=False)
            return self.arrays
        for file in self.files.values():
            file.close()
        return {
            name: open_memmap(
                self.folder / f"{i}.bin", self.types[name], (rows, *self.shapes[name])
            )
            for i, (name, rows) in enumerate(self.rows.items())
        }

    def _begin(self, name: str, chunk: np.ndarray) -> None:
        self.shapes[name], self.types[name] = chunk.shape[1:], chunk.dtype
        if self.folder is not None:
            self.files[name] = (self.folder / f"{len(self.rows)}.bin").open("wb")
        else:
            self.arrays[name] = np.empty((FIRST_ROWS, *chunk.shape[1:]), chunk.dtype)
        self.rows[name] = 0

    def _put(self, name: str, chunk: np.ndarray) -> None:
        end = self.rows[name] + len(chunk)
        if self.rows[name] == 0 and _is_kept(chunk):
            self.arrays[name] = chunk
            return
        array = self.arrays[name]
        if not array.flags.writeable:
            array = np.empty((end, *array.shape[1:]), array.dtype)
            array[: self.rows[name]] = self.arrays[name]
            self.arrays[name] = array
        if end > len(array):
            # In place: the system moves pages, and pages not yet written take no memory.
            array.resize((max(end, int(len(array) * GROWTH)), *array.shape[1:]), refcheck=False)
        array[self.rows[name] : end] = chunk


def _is_kept(chunk: np.ndarray) -> bool:
    """Whether a chunk can be a column: NumPy owns its memory, and nobody writes there."""
    owner = chunk
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    whole = chunk.flags.c_contiguous and not chunk.flags.writeable and len(chunk) >= FIRST_ROWS
    return whole and owner.base is None  # no file that another process may write to


def open_memmap(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Opens the rows of a file as a read-only array."""
    return np.memmap(path, dtype, "r", shape=shape)
