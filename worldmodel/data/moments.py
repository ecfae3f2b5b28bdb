"""Statistics of columns that need not fit in memory, in one pass over chunks of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """float64 (D,) each. `std` is the population standard deviation."""

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """(D,) `std`, and 1 for a column that is constant up to the resolution of float32."""
        float32 = np.finfo(np.float32)
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        return np.where(self.std <= np.maximum(float32.eps * largest, float32.tiny), 1.0, self.std)

    @property
    def rms(self) -> np.ndarray:
        """Root mean square, (D,)."""
        return np.sqrt(np.square(self.mean) + np.square(self.std))


def moments(parts: Iterable[np.ndarray]) -> Moments:
    """Computes the moments of chunks (n, D) that hold at least one row in total.

    Means and sums of squares are merged as by Chan, Golub and LeVeque (1983), which stays accurate
    for columns far from zero. Raises ValueError without rows.
    """
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    low, high = np.full((), np.inf), np.full((), -np.inf)
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
