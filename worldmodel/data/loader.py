"""How batches reach the compiled step. Both ways give the same ones for the same (seed, step).

`DeviceLoader`: all rows lie on the device, and windows are gathered inside the step. `HostLoader`
(host_loader.py): the host gathers them, for what does not fit.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import PartitionSpec

from worldmodel.data.host_loader import HostLoader, Shard
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import (
    Cursor,
    StepArrays,
    Window,
    batch_indices,
    batch_indices_on_host,
    build_window_index,
    cursor,
    describe_windows,
    gather_windows,
    step_arrays,
)

DEVICE_SHARE = 0.25  # of the device's memory, that resident rows may take


class Loader(Protocol):
    """Batches of `batch_size` windows of `length` rows.

    `arrays()` go to the device once. `feed(step, updates)` is made on the host for each call to the
    device: what the batches of `updates` steps from `step` on need. `batch(arrays, feed, k)`,
    called inside jit, is the k-th of them. `describe_windows(step)` says where the windows of a step's batch
    come from. `axis` is the batch axis of the feed's arrays, None if
    every device needs all of it.
    """

    @property
    def axis(self) -> int | None: ...

    @property
    def trajectories(self) -> Trajectories: ...

    @property
    def count(self) -> int: ...  # windows in an epoch

    @property
    def max_updates_per_call(self) -> int: ...  # that one call to the device may take

    def arrays(self) -> Any: ...

    def feed(self, step: int, updates: int) -> Any: ...

    def batch(self, arrays: Any, feed: Any, k: Any) -> Window: ...

    def describe_windows(self, step: int) -> list[str]: ...

    def close(self) -> None: ...


class DeviceArrays(NamedTuple):
    """What the compiled step reads: all rows, and each window's first row and number of rows."""

    rows: StepArrays
    starts: Any
    counts: Any


@dataclass(frozen=True)
class DeviceLoader:
    """Rows on the device; `feed` is the place in the sequence of windows where a call begins."""

    resident: DeviceArrays
    trajectories: Trajectories
    batch_size: int
    length: int
    seed: int
    axis: int | None = None
    max_updates_per_call: int = 2**31

    @classmethod
    def build(
        cls, trajectories: Trajectories, batch_size: int, length: int, seed: int
    ) -> DeviceLoader:
        whole = trajectories.compact()
        index = build_window_index(whole, length)
        arrays = DeviceArrays(step_arrays(whole), index.starts, index.valid_lengths)
        return cls(arrays, whole, batch_size, length, seed)

    @property
    def count(self) -> int:
        return len(self.resident.starts)

    def arrays(self) -> DeviceArrays:
        return self.resident

    def feed(self, step: int, updates: int) -> Cursor:
        return self.cursor(step)

    def cursor(self, step: int) -> Cursor:
        return cursor(step, self.batch_size, self.count, self.seed)

    def indices(self, at: Cursor, k: Any) -> jax.Array:
        """(batch_size,) windows of the k-th batch after `at`."""
        return batch_indices(at, k, self.batch_size, self.count)

    def batch(self, arrays: DeviceArrays, feed: Cursor, k: Any) -> Window:
        chosen = replicate(self.indices(feed, k))
        return gather_windows(
            arrays.rows, arrays.starts[chosen], arrays.counts[chosen], self.length
        )

    def describe_windows(self, step: int) -> list[str]:
        chosen = batch_indices_on_host(step, self.batch_size, self.count, self.seed)
        return describe_windows(
            self.trajectories, self.resident.starts[chosen], self.resident.counts[chosen]
        )

    def close(self) -> None:
        pass


def replicate(x: jax.Array) -> jax.Array:
    """Inside a step that is compiled for a mesh: computed by each device for itself, which for a
    few numbers is faster than asking the others.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def make_loader(
    trajectories: Trajectories,
    batch_size: int,
    length: int,
    seed: int,
    loader: str = "auto",
    num_workers: int = 0,
) -> DeviceLoader | HostLoader:
    """The delivery asked for; `auto` keeps on the device what leaves it room to train."""
    if loader == "auto":
        fits = trajectories.num_bytes <= DEVICE_SHARE * _device_bytes()
        loader = "device" if fits else "host"
    if loader == "device":
        return DeviceLoader.build(trajectories, batch_size, length, seed)
    shard = Shard(jax.process_index(), jax.process_count())
    return HostLoader.build(trajectories, batch_size, length, seed, num_workers, shard)


def _device_bytes() -> int:
    """Memory of one device; of the machine, where the device does not tell."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def pad_episodes(trajectories: Trajectories, rows: int | None = None) -> Window:
    """Every episode as one masked window of numpy arrays, from its first row, (episodes, rows,
    ...).
    """
    rows = rows or int(trajectories.lengths.max())
    counts = np.minimum(trajectories.lengths, rows).astype(np.int32)
    return gather_windows(step_arrays(trajectories), trajectories.offsets, counts, rows)
