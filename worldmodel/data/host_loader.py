"""Streamed loader: windows are gathered on the host, ahead of time, for logs that do not fit on
the device.

The batch of a step is a function of (seed, step), so it does not matter which thread or process
makes it: Grain hands out the numbers of calls, and keeps the results in order.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
    describe_windows,
    gather_windows,
    normalize_actions,
    step_arrays,
)
from worldmodel.system import signals

STREAMED_BYTES = 64 * 2**20  # of one call's batches
AHEAD = 2  # calls whose batches are made before they are asked for
THREADS = 2  # that make them, where no worker processes do


class Shard(NamedTuple):
    """The part of every batch that this process makes: the `index`-th of `count` equal ones."""

    index: int = 0
    count: int = 1


@dataclass
class HostLoader:
    """Windows gathered on the host; `feed` is a stack of batches (updates, batch / shards, ...)."""

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
        return max(1, STREAMED_BYTES // self.source.batch_bytes())

    def arrays(self) -> tuple[()]:
        return ()

    def feed(self, step: int, updates: int) -> Window:
        """Those that come in order were made ahead of time; a jump starts anew."""
        if self.pending is None or self.expected != (step, updates):
            self.close()
            self.pending = self._from(step, updates)
        self.expected = (step + updates, updates)
        return next(self.pending)

    def batch(self, arrays: tuple[()], feed: Window, k: Any) -> Window:
        return jax.tree.map(lambda x: x[k], feed)

    def describe_windows(self, step: int) -> list[str]:
        source = self.source
        chosen = batch_indices_on_host(step, source.batch_size, self.count, source.seed)
        return describe_windows(
            self.trajectories, source.index.starts[chosen], source.index.valid_lengths[chosen]
        )

    def close(self) -> None:
        if self.pending is not None and hasattr(self.pending, "close"):
            self.pending.close()
        self.pending = self.expected = None

    def _from(self, step: int, updates: int) -> Iterator[Window]:
        calls = grain.MapDataset.range(2**31 - 1).map(_Call(self.source, step, updates))
        threads = grain.ReadOptions(
            num_threads=0 if self.num_workers else THREADS, prefetch_buffer_size=AHEAD
        )
        stream = calls.to_iter_dataset(threads)
        if self.num_workers:
            if not flags.FLAGS.is_parsed():  # Grain reads its flags, whoever runs it
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(
                num_workers=self.num_workers, per_worker_buffer_size=1
            )
            stream = stream.mp_prefetch(options, _start_worker)
        return iter(stream)


def _start_worker(number: int, count: int) -> None:
    """Stopping is for the process that trains: its workers go on until it is done with them."""
    signals.ignore()


@dataclass(frozen=True)
class _Call:
    """From the number of a call to its batches. A class, so that it travels to worker processes."""

    source: WindowSource
    first: int
    updates: int

    def __call__(self, number: int) -> Window:
        return self.source.batches(self.first + number * self.updates, self.updates)


class WindowSource:
    """Batches of windows by step number, in numpy. Memory-mapped rows travel to other processes by
    the names of their files.
    """

    def __init__(
        self, trajectories: Trajectories, batch_size: int, length: int, seed: int, shard: Shard
    ):
        if batch_size % shard.count:
            raise ValueError(f"a batch of {batch_size} does not divide into {shard.count} shards")
        self.rows, self.action = (
            step_arrays(trajectories, raw_actions=True),
            trajectories.action_spec,
        )
        self.index: WindowIndex = build_window_index(trajectories, length)
        self.batch_size, self.length, self.seed, self.shard = batch_size, length, seed, shard
        self.wide = _wide(self.rows)

    def batches(self, step: int, updates: int) -> Window:
        """This shard of `updates` batches from `step` on, (updates, part of batch, length, ...)."""
        part = self.batch_size // self.shard.count
        mine = slice(self.shard.index * part, (self.shard.index + 1) * part)
        sizes = (self.batch_size, self.index.count, self.seed)
        chosen = np.concatenate(
            [batch_indices_on_host(step + k, *sizes)[mine] for k in range(updates)]
        )
        starts, counts = self.index.starts[chosen], self.index.valid_lengths[chosen]
        for array in self.wide:
            _announce(array, starts, counts)
        window = gather_windows(self.rows, starts, counts, self.length)
        padding = window.is_last | ~window.mask
        window = window.with_action(normalize_actions(window.action, padding, self.action))
        return jax.tree.map(lambda x: x.reshape(updates, part, *x.shape[1:]), window)

    def batch_bytes(self) -> int:
        """Bytes of one whole batch."""
        row = sum(x.dtype.itemsize * int(np.prod(x.shape[1:])) for x in jax.tree.leaves(self.rows))
        return self.batch_size * self.length * (row + 1)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"rows": jax.tree.map(_MappedFile.of, self.rows), "wide": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        def opened(x: Any) -> np.ndarray:
            return x.open() if isinstance(x, _MappedFile) else x

        self.__dict__ |= state | {"rows": jax.tree.map(opened, state["rows"])}
        self.wide = _wide(self.rows)


def _wide(rows: StepArrays) -> list[np.ndarray]:
    """The memory-mapped columns with rows of a page or more, such as images.

    The system would read around every place that is touched, several times what is used. It is told
    not to, and of each window before its rows are copied, so that they come in one piece.
    """
    arrays = [x for x in jax.tree.leaves(rows) if isinstance(x, np.memmap)]
    wide = [x for x in arrays if x[:1].nbytes >= mmap.PAGESIZE and hasattr(mmap, "MADV_RANDOM")]
    for array in wide:
        array.base.madvise(mmap.MADV_RANDOM)
    return wide


def _announce(array: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
    """Asks the system to read the windows of `counts` rows that begin at `starts`."""
    row = array[:1].nbytes
    begins = starts.astype(np.int64) * row
    for begin, end in zip(begins.tolist(), (begins + counts * row).tolist(), strict=True):
        page = begin - begin % mmap.PAGESIZE
        array.base.madvise(mmap.MADV_WILLNEED, page, end - page)


@dataclass(frozen=True)
class _MappedFile:
    """A memory-mapped array, without its content."""

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
