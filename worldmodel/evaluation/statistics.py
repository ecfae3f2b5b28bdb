"""Numbers with their intervals: seeded percentile bootstraps (Efron and Tibshirani 1993, ch. 13).

What is resampled is the independent unit. Starts within an episode are not independent, so whole
episodes are drawn with all their starts (the cluster bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

# Counts of how often each of N values was drawn, (R, N) for R resamples -> the statistic, (R,).
Statistic = Callable[[np.ndarray], np.ndarray]

LARGE = 5000  # values from which a mean's bootstrap interval and the normal one are the same
CHUNK = 4_000_000  # counts held in memory at once


@dataclass(frozen=True)
class Number:
    """A value, the interval [low, high], how many values it is made of, and how.

    The ends are NaN where no interval exists (a single value).
    """

    value: float
    low: float
    high: float
    n: int
    method: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is not finite becomes null."""
        ends = {name: finite(getattr(self, name)) for name in ("value", "low", "high")}
        return ends | {"n": self.n, "method": self.method}

    def __str__(self) -> str:
        if math.isnan(self.low):
            return shown(self.value)
        return f"{shown(self.value)} [{shown(self.low)}, {shown(self.high)}]"


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made. The same seed and data give the same interval."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def mean(self, values: np.ndarray, of: str = "values") -> Number:
        """The mean of independent values (N,)."""
        values = np.asarray(values, np.float64)
        n = len(values)
        if n > LARGE:
            z = NormalDist().inv_cdf((1 + self.confidence) / 2)
            value, half = values.mean(), z * values.std(ddof=1) / math.sqrt(n)
            method = f"mean over {n} {of}; {self._percent} normal interval"
            return Number(float(value), float(value - half), float(value + half), n, method)
        return self.clustered(
            lambda counts: counts @ values / counts.sum(1), np.arange(n), f"mean over {n} {of}", of
        )

    def clustered(
        self, statistic: Statistic, clusters: np.ndarray, what: str, unit: str = "episodes"
    ) -> Number:
        """A statistic of N values that belong to `clusters` (N,), with whole clusters resampled.

        With a single cluster its values are resampled instead, and the method says so.
        """
        n = len(clusters)
        labels, member = np.unique(clusters, return_inverse=True)
        method = f"{what}; {self._percent} percentile bootstrap over {unit}"
        if len(labels) == 1:
            member = np.arange(n)
            method = method.replace(f"over {unit}", f"within the only one of the {unit}")
        value = float(statistic(np.ones((1, n), np.int64))[0])
        if n == 1:
            return Number(value, math.nan, math.nan, n, f"{what}; a single value has no interval")
        drawn = [statistic(counts[:, member]) for counts in self._counts(member.max() + 1, n)]
        low, high = _quantiles(np.concatenate(drawn), self.confidence)
        return Number(value, low, high, n, f"{method}, {self.resamples} resamples")

    @property
    def _percent(self) -> str:
        return f"{100 * self.confidence:g} %"

    def _counts(self, clusters: int, n: int) -> Iterator[np.ndarray]:
        """(R, clusters) how often each cluster was drawn; `resamples` rows in all, in pieces."""
        generator = np.random.default_rng(self.seed)
        even = np.full(clusters, 1 / clusters)
        rows = max(1, CHUNK // n)
        for begin in range(0, self.resamples, rows):
            yield generator.multinomial(clusters, even, min(rows, self.resamples - begin))


def median(values: np.ndarray) -> Statistic:
    """The median of values (N,), each as often as it was drawn."""
    order = np.argsort(values)
    ordered = np.asarray(values, np.float64)[order]

    def statistic(counts: np.ndarray) -> np.ndarray:
        upto = np.cumsum(counts[:, order], 1)
        total = upto[:, -1:]

        def at(rank: np.ndarray) -> np.ndarray:
            return ordered[(upto > rank).argmax(1)]

        return (at((total - 1) // 2) + at(total // 2)) / 2

    return statistic


def ratio(error: np.ndarray, reference: np.ndarray) -> Statistic:
    """Median error / median error of a reference, both (N,) from the same starts; 1 where both
    are 0. What is drawn is drawn for both: what makes a start hard for both does not widen it.
    """
    model, baseline = median(error), median(reference)

    def statistic(counts: np.ndarray) -> np.ndarray:
        e, r = model(counts), baseline(counts)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((e == 0) & (r == 0), 1.0, e / r)

    return statistic


def skill(error: np.ndarray, reference: np.ndarray) -> Statistic:
    """1 - median error / median error of a reference; 0 where both are 0."""
    relative = ratio(error, reference)
    return lambda counts: 1 - relative(counts)


def finite(value: float) -> float | None:
    """The number, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None


def shown(value: float) -> str:
    """Three significant digits, without exponents where they would not help."""
    size = abs(value)
    if not math.isfinite(value):
        return f"{value:g}"
    if size >= 100:
        return f"{value:,.0f}" if size < 1e7 else f"{value:.2e}"
    if size >= 0.01 or size == 0:
        return f"{value:.{1 if size >= 10 else 2 if size >= 1 else 3}f}"
    return f"{value:.1e}"


def _quantiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """The ends of the central interval. They are drawn values: infinite ones do not mix."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)
