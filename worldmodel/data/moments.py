"""Statistics of columns whose rows need not fit in memory: one pass, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from worldmodel.data.trajectories import Trajectories

NUMBERS_AT_ONCE = 2**20  # in one piece: 8 MiB as float64


class Moments(NamedTuple):
    """(D,) float64 each; `std` is that of all rows, not of a sample."""

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def spread(self) -> np.ndarray:
        """Root mean square, (D,)."""
        return np.sqrt(np.square(self.mean) + np.square(self.std))


def pieces(
    trajectories: Trajectories, values: np.ndarray, padding: bool = True
) -> Iterator[np.ndarray]:
    """The rows of `values` (N, ...) that these episodes hold, in order, a few at a time.

    Without `padding`, the last row of every episode is left out.
    """
    inside = np.ones(len(values), bool)
    inside[trajectories.last_rows] = padding
    at_once = max(1, NUMBERS_AT_ONCE // max(1, values[:1].size))
    for run in trajectories.runs():
        for begin in range(run.start, run.stop, at_once):
            part = slice(begin, min(begin + at_once, run.stop))
            yield values[part] if inside[part].all() else values[part][inside[part]]


def changes(trajectories: Trajectories, values: np.ndarray) -> Iterator[np.ndarray]:
    """Differences (n, D) of neighbouring rows of each episode, a few at a time."""
    last = np.zeros(len(values), bool)
    last[trajectories.last_rows] = True
    at_once = max(1, NUMBERS_AT_ONCE // max(1, values[:1].size))
    for run in trajectories.runs():
        for begin in range(run.start, run.stop - 1, at_once):
            end = min(begin + at_once, run.stop - 1)
            yield np.diff(values[begin : end + 1], axis=0)[~last[begin:end]]


def moments(parts: Iterable[np.ndarray]) -> Moments:
    """Of pieces (n, D) that hold at least one row in all.

    Means and sums of squares are joined as by Chan, Golub and LeVeque (1983), so that columns far
    from zero keep their digits.
    """
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    low, high = np.inf, -np.inf
    for part in parts:
        if not len(part):
            continue
        own = part.mean(0, dtype=np.float64)
        off, total = own - mean, count + len(part)
        squares = squares + np.square(part - own).sum(0) + off**2 * (count * len(part) / total)
        mean, count = mean + off * (len(part) / total), total
        low, high = np.minimum(low, part.min(0)), np.maximum(high, part.max(0))
    if not count:
        raise ValueError("no rows")
    return Moments(mean, np.sqrt(squares / count), low, high)
