"""Resident delivery: the whole data set lives on the device and batches are gathered inside the
compiled step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import (
    Cursor,
    Rows,
    Window,
    batch_windows,
    cursor,
    gather,
    rows_of,
    window_index,
)


class ResidentArrays(NamedTuple):
    """What the compiled step reads: all rows, and each window's first row and number of rows."""

    rows: Rows
    starts: Any
    counts: Any


@dataclass(frozen=True)
class Resident:
    """Batches of `batch_size` windows of `length` rows.

    `arrays` go to the device once; `cursor(step)` says on the host where the batch of `step`
    begins, and `batch(arrays, cursor, k)`, called inside jit, gathers the k-th batch from there.
    """

    arrays: ResidentArrays
    batch_size: int
    length: int
    seed: int

    @classmethod
    def build(cls, trajectories: Trajectories, batch_size: int, length: int, seed: int) -> Resident:
        index = window_index(trajectories.lengths, length)
        arrays = ResidentArrays(rows_of(trajectories), index.starts, index.rows)
        return cls(arrays, batch_size, length, seed)

    @property
    def count(self) -> int:
        """Windows in an epoch."""
        return len(self.arrays.starts)

    def place(self, sharding: jax.sharding.Sharding) -> ResidentArrays:
        """The arrays on the device."""
        return jax.device_put(self.arrays, sharding)

    def cursor(self, step: int) -> Cursor:
        return cursor(step, self.batch_size, self.count, self.seed)

    def indices(self, at: Cursor, k: Any) -> jax.Array:
        """(batch_size,) windows of the k-th batch after `at`."""
        return batch_windows(at, k, self.batch_size, self.count)

    def batch(self, arrays: ResidentArrays, at: Cursor, k: Any) -> Window:
        """The k-th batch after `at`, (batch_size, length, ...)."""
        chosen = self.indices(at, k)
        return gather(arrays.rows, arrays.starts[chosen], arrays.counts[chosen], self.length)


def whole_episodes(trajectories: Trajectories, rows: int | None = None) -> Window:
    """Every episode as one masked window of numpy arrays, from its first row, (episodes, rows,
    ...).
    """
    rows = rows or int(trajectories.lengths.max())
    counts = np.minimum(trajectories.lengths, rows).astype(np.int32)
    return gather(rows_of(trajectories), trajectories.offsets.astype(np.int32), counts, rows)
