"""How batches reach the compiled step. Both ways give the same ones for the same (seed, step).

`Resident`: all rows lie on the device, and windows are gathered inside the step. `Streamed`
(streamed.py): the host gathers them, for what does not fit.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import PartitionSpec

from worldmodel.data.streamed import Shard, Streamed
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import (
    Cursor,
    Rows,
    Window,
    batch_windows,
    batch_windows_on_host,
    cursor,
    gather,
    origins,
    rows_of,
    window_index,
)

DEVICE_SHARE = 0.25  # of the device's memory, that resident rows may take


class Batches(Protocol):
    """Batches of `batch_size` windows of `length` rows.

    `arrays()` go to the device once. `feed(step, updates)` is made on the host for each call to the
    device: what the batches of `updates` steps from `step` on need. `batch(arrays, feed, k)`,
    called inside jit, is the k-th of them. `origins(step)` says where the windows of a step's batch
    come from. `axis` is the batch axis of the feed's arrays, None if
    every device needs all of it.
    """

    axis: int | None
    trajectories: Trajectories

    @property
    def count(self) -> int: ...  # windows in an epoch

    @property
    def most_updates(self) -> int: ...  # that one call to the device may take

    def arrays(self) -> Any: ...

    def feed(self, step: int, updates: int) -> Any: ...

    def batch(self, arrays: Any, feed: Any, k: Any) -> Window: ...

    def origins(self, step: int) -> list[str]: ...

    def close(self) -> None: ...


class ResidentArrays(NamedTuple):
    """What the compiled step reads: all rows, and each window's first row and number of rows."""

    rows: Rows
    starts: Any
    counts: Any


@dataclass(frozen=True)
class Resident:
    """Rows on the device; `feed` is the place in the sequence of windows where a call begins."""

    resident: ResidentArrays
    trajectories: Trajectories
    batch_size: int
    length: int
    seed: int
    axis: int | None = None
    most_updates: int = 2**31

    @classmethod
    def build(cls, trajectories: Trajectories, batch_size: int, length: int, seed: int) -> Resident:
        whole = trajectories.compact()
        index = window_index(whole, length)
        arrays = ResidentArrays(rows_of(whole), index.starts, index.rows)
        return cls(arrays, whole, batch_size, length, seed)

    @property
    def count(self) -> int:
        return len(self.resident.starts)

    def arrays(self) -> ResidentArrays:
        return self.resident

    def feed(self, step: int, updates: int) -> Cursor:
        return self.cursor(step)

    def cursor(self, step: int) -> Cursor:
        return cursor(step, self.batch_size, self.count, self.seed)

    def indices(self, at: Cursor, k: Any) -> jax.Array:
        """(batch_size,) windows of the k-th batch after `at`."""
        return batch_windows(at, k, self.batch_size, self.count)

    def batch(self, arrays: ResidentArrays, feed: Cursor, k: Any) -> Window:
        chosen = on_every_device(self.indices(feed, k))
        return gather(arrays.rows, arrays.starts[chosen], arrays.counts[chosen], self.length)

    def origins(self, step: int) -> list[str]:
        chosen = batch_windows_on_host(step, self.batch_size, self.count, self.seed)
        return origins(
            self.trajectories, self.resident.starts[chosen], self.resident.counts[chosen]
        )

    def close(self) -> None:
        pass


def on_every_device(x: jax.Array) -> jax.Array:
    """Inside a step that is compiled for a mesh: computed by each device for itself, which for a
    few numbers is faster than asking the others.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def deliver(
    trajectories: Trajectories,
    batch_size: int,
    length: int,
    seed: int,
    delivery: str = "auto",
    workers: int = 0,
) -> Resident | Streamed:
    """The delivery asked for; `auto` keeps on the device what leaves it room to train."""
    if delivery == "auto":
        fits = trajectories.num_bytes <= DEVICE_SHARE * _device_bytes()
        delivery = "resident" if fits else "streamed"
    if delivery == "resident":
        return Resident.build(trajectories, batch_size, length, seed)
    shard = Shard(jax.process_index(), jax.process_count())
    return Streamed.build(trajectories, batch_size, length, seed, workers, shard)


def _device_bytes() -> int:
    """Memory of one device; of the machine, where the device does not tell."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def whole_episodes(trajectories: Trajectories, rows: int | None = None) -> Window:
    """Every episode as one masked window of numpy arrays, from its first row, (episodes, rows,
    ...).
    """
    rows = rows or int(trajectories.lengths.max())
    counts = np.minimum(trajectories.lengths, rows).astype(np.int32)
    return gather(rows_of(trajectories), trajectories.offsets, counts, rows)
