"""Loader that gathers windows on the host, ahead of time, for datasets that do not fit on the
device.

The batch of a step is a function of (seed, step), so any thread or process can compute it: Grain
distributes the indices of calls, and keeps the results in order.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import (
    StepArrays,
    Window,
    WindowIndex,
    batch_indices_on_host,
    build_window_index,
    describe_batch,
    gather_windows,
    normalize_actions,
    step_arrays,
)
from worldmodel.system import signals

MAX_FEED_BYTES = 64 * 2**20  # of the batches of one call
PREFETCHED_CALLS = 2
THREADS = 2  # that gather batches if there are no worker processes


@dataclass(frozen=True)
class Shard:
    """The part of every batch that this process loads: the `index`-th of `count` equal parts."""

    index: int = 0
    count: int = 1


@dataclass
class HostLoader:
    """Windows gathered on the host; a feed is a stack of batches (updates, batch / shards, ...)."""

    source: WindowSource
    trajectories: Trajectories
    num_workers: int = 0
    axis: int | None = 1
    pending: Iterator[Window] | None = field(default=None, init=False, repr=False)
    expected: tuple[int, int] | None = field(default=None, init=False, repr=False)

    @classmethod
    def build(
        cls,
        trajectories: Trajectories,
        batch_size: int,
        length: int,
        seed: int,
        num_workers: int = 0,
        shard: Shard | None = None,
    ) -> HostLoader:
        source = WindowSource(trajectories, batch_size, length, seed, shard or Shard())
        return cls(source, trajectories, num_workers)

    @property
    def count(self) -> int:
        return self.source.index.count

    @property
    def max_updates_per_call(self) -> int:
        return max(1, MAX_FEED_BYTES // self.source.batch_bytes())

    def arrays(self) -> tuple[()]:
        return ()

    def feed(self, step: int, updates: int) -> Window:
        """Calls in order were prefetched; any other call restarts the prefetching."""
        if self.pending is None or self.expected != (step, updates):
            self.close()
            self.pending = self._from(step, updates)
        self.expected = (step + updates, updates)
        return next(self.pending)

    def batch(self, arrays: tuple[()], feed: Window, k: Any) -> Window:
        return jax.tree.map(lambda x: x[k], feed)

    def describe_windows(self, step: int) -> list[str]:
        source = self.source
        size, seed = source.batch_size, source.seed
        return describe_batch(self.trajectories, source.index, step, size, seed)

    def close(self) -> None:
        if (stop := getattr(self.pending, "close", None)) is not None:  # not in old versions
            stop()
        self.pending = self.expected = None

    def _from(self, step: int, updates: int) -> Iterator[Window]:
        calls = grain.MapDataset.range(2**31 - 1).map(_Call(self.source, step, updates))
        threads = grain.ReadOptions(
            num_threads=0 if self.num_workers else THREADS, prefetch_buffer_size=PREFETCHED_CALLS
        )
        stream = calls.to_iter_dataset(threads)
        if self.num_workers:
            if not flags.FLAGS.is_parsed():  # Grain reads its flags in any program
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(
                num_workers=self.num_workers, per_worker_buffer_size=1
            )
            stream = stream.mp_prefetch(options, _start_worker)
        return iter(stream)


def _start_worker(number: int, count: int) -> None:
    """Workers ignore signals: the training process stops them when it has finished."""
    signals.ignore()


@dataclass(frozen=True)
class _Call:
    """Maps the index of a call to its batches. A class, so that it can be pickled for workers."""

    source: WindowSource
    first: int
    updates: int

    def __call__(self, number: int) -> Window:
        return self.source.batches(self.first + number * self.updates, self.updates)


class WindowSource:
    """Batches of windows by step number, in NumPy; memory-mapped arrays are pickled by name."""

    def __init__(
        self, trajectories: Trajectories, batch_size: int, length: int, seed: int, shard: Shard
    ):
        if batch_size % shard.count:
            raise ValueError(f"a batch of {batch_size} is not divisible by {shard.count} shards")
        self.steps = step_arrays(trajectories, raw_actions=True)
        self.action = trajectories.action_spec
        self.index: WindowIndex = build_window_index(trajectories, length)
        self.batch_size, self.length, self.seed, self.shard = batch_size, length, seed, shard
        self.wide = _wide(self.steps)

    def batches(self, step: int, updates: int) -> Window:
        """This shard of the batches of `updates` steps from `step` on: (updates, batch / shards,
        length, ...).
        """
        part = self.batch_size // self.shard.count
        mine = slice(self.shard.index * part, (self.shard.index + 1) * part)
        sizes = (self.batch_size, self.index.count, self.seed)
        chosen = np.concatenate(
            [batch_indices_on_host(step + k, *sizes)[mine] for k in range(updates)]
        )
        starts, counts = self.index.starts[chosen], self.index.valid_lengths[chosen]
        for array in self.wide:
            _prefetch(array, starts, counts)
        window = gather_windows(self.steps, starts, counts, self.length)
        padding = window.is_last | ~window.mask
        window = window.with_action(normalize_actions(window.action, padding, self.action))
        return jax.tree.map(lambda x: x.reshape(updates, part, *x.shape[1:]), window)

    def batch_bytes(self) -> int:
        """Bytes of one whole batch."""
        step = sum(
            x.dtype.itemsize * int(np.prod(x.shape[1:])) for x in jax.tree.leaves(self.steps)
        )
        return self.batch_size * self.length * (step + 1)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"steps": jax.tree.map(_MappedFile.of, self.steps), "wide": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        def opened(x: Any) -> np.ndarray:
            return x.open() if isinstance(x, _MappedFile) else x

        self.__dict__ |= state | {"steps": jax.tree.map(opened, state["steps"])}
        self.wide = _wide(self.steps)


def _wide(steps: StepArrays) -> list[np.memmap]:
    """The memory-mapped arrays with steps of a page or more, such as images.

    The system's read-ahead around every access would read several times what is used. It is turned
    off, and `_prefetch` requests each window in one piece before it is copied.
    """
    arrays = [x for x in jax.tree.leaves(steps) if isinstance(x, np.memmap)]
    wide = [x for x in arrays if x[:1].nbytes >= mmap.PAGESIZE and hasattr(mmap, "MADV_RANDOM")]
    for array in wide:
        _map_of(array).madvise(mmap.MADV_RANDOM)
    return wide


def _map_of(array: np.memmap) -> mmap.mmap:
    if not isinstance(array.base, mmap.mmap):
        raise TypeError("expected an array that spans its whole file")
    return array.base


def _prefetch(array: np.memmap, starts: np.ndarray, counts: np.ndarray) -> None:
    """Has the system read the windows of `counts` steps that begin at `starts`."""
    size = array[:1].nbytes
    begins = starts.astype(np.int64) * size
    for begin, end in zip(begins.tolist(), (begins + counts * size).tolist(), strict=True):
        page = begin - begin % mmap.PAGESIZE
        _map_of(array).madvise(mmap.MADV_WILLNEED, page, end - page)


@dataclass(frozen=True)
class _MappedFile:
    """A memory-mapped array, pickled without its content."""

    path: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: np.ndarray) -> Any:
        if not isinstance(array, np.memmap):
            return array
        return cls(str(array.filename), array.dtype, array.shape)

    def open(self) -> np.ndarray:
        return np.memmap(self.path, self.dtype, "r", shape=self.shape)
