"""Batches for the compiled update. Both loaders give the same batch for the same (seed, step).

`DeviceLoader` keeps the whole dataset on the device and gathers windows inside the update.
`HostLoader` (host_loader.py) gathers them on the host, for datasets that do not fit. Both have:

    arrays(): put on the device once
    feed(step, updates): computed on the host for each call to the device; everything that the
        batches of `updates` updates from `step` on need
    batch(arrays, feed, k): the k-th of these batches; called inside jit
    describe_windows(step): episode and steps of each window of a batch, for messages
    axis: the batch axis of the arrays of a feed, or None if every device needs all of it
    count: number of windows in an epoch
    max_updates_per_call: limit on `updates`
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from worldmodel.data.host_loader import HostLoader, Shard
from worldmodel.data.trajectories import Trajectories, check_dataset
from worldmodel.data.windows import (
    Cursor,
    StepArrays,
    Window,
    WindowIndex,
    batch_indices,
    build_window_index,
    cursor,
    describe_batch,
    gather_windows,
    step_arrays,
)
from worldmodel.errors import check_count, require

LOADERS = ("auto", "device", "host")
DEVICE_SHARE = 0.25  # of the memory of the device that the dataset may take


class DeviceArrays(NamedTuple):
    """All steps, and the first step and the number of valid steps of each window."""

    steps: StepArrays
    starts: Any
    counts: Any


@dataclass(frozen=True)
class DeviceLoader:
    """The dataset on the device; a feed is the position in the sequence of windows."""

    trajectories: Trajectories
    index: WindowIndex
    batch_size: int
    seed: int
    axis: int | None = None
    max_updates_per_call: int = 2**31

    @classmethod
    def build(
        cls, trajectories: Trajectories, batch_size: int, length: int, seed: int
    ) -> DeviceLoader:
        whole = trajectories.compact()
        return cls(whole, build_window_index(whole, length), batch_size, seed)

    @property
    def count(self) -> int:
        return self.index.count

    def arrays(self) -> DeviceArrays:
        steps = step_arrays(self.trajectories)
        return DeviceArrays(steps, self.index.starts, self.index.valid_lengths)

    def feed(self, step: int, updates: int) -> Cursor:
        return cursor(step, self.batch_size, self.count, self.seed)

    def batch(self, arrays: DeviceArrays, feed: Cursor, k: Any) -> Window:
        chosen = replicate(batch_indices(feed, k, self.batch_size, self.count))
        starts, counts = arrays.starts[chosen], arrays.counts[chosen]
        return gather_windows(arrays.steps, starts, counts, self.index.length)

    def describe_windows(self, step: int) -> list[str]:
        return describe_batch(self.trajectories, self.index, step, self.batch_size, self.seed)

    def close(self) -> None:
        pass


Loader = DeviceLoader | HostLoader


def replicate(x: jax.Array) -> jax.Array:
    """Has every device of a mesh compute the whole of `x`, inside a compiled update. For a few
    numbers that is faster than communication.
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
) -> Loader:
    """The loader of this kind; `auto` uses the device if that leaves enough memory for training."""
    check_dataset(trajectories)
    check_count("batch_size", batch_size)
    check_count("seed", seed, 0)
    check_count("num_workers", num_workers, 0)
    require(loader in LOADERS, "loader", repr(loader), ", ".join(LOADERS))
    if loader == "auto":
        fits = trajectories.num_bytes <= DEVICE_SHARE * _device_bytes()
        loader = "device" if fits else "host"
    if loader == "device":
        return DeviceLoader.build(trajectories, batch_size, length, seed)
    shard = Shard(jax.process_index(), jax.process_count())
    return HostLoader.build(trajectories, batch_size, length, seed, num_workers, shard)


def _device_bytes() -> int:
    """Memory of one device, or of the machine if the device does not report it."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def pad_episodes(trajectories: Trajectories, length: int | None = None) -> Window:
    """Every episode as one masked window from its first step: NumPy arrays (episodes, length, ...).

    `length` defaults to that of the longest episode.
    """
    check_dataset(trajectories)
    length = int(trajectories.lengths.max()) if length is None else length
    check_count("length", length)
    counts = np.minimum(trajectories.lengths, length).astype(np.int32)
    return gather_windows(step_arrays(trajectories), trajectories.offsets, counts, length)
