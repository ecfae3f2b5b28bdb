"""Estimates with intervals: seeded percentile bootstraps (Efron and Tibshirani 1993, ch. 13).

The independent unit is resampled. Starts within an episode are not independent, so whole episodes
are drawn with all their starts (the cluster bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

# Counts of how often each of N values was drawn, (R, N) for R resamples -> the statistic, (R,), or
# several, (R, J).
Statistic = Callable[[np.ndarray], np.ndarray]
Stratified = Callable[..., np.ndarray]  # the same of several sets of scores, each with its counts
Shape = tuple[int, int]  # runs, tasks

LARGE = 5000  # samples from which on the normal interval of a mean replaces the bootstrap
CHUNK = 4_000_000  # counts held in memory at once
SEEDS = "training seeds"  # the sample unit of runs that trained several seeds
FEW_SEEDS = 5  # with fewer, intervals over seeds are too narrow
RECOMMENDED_SEEDS = 10


@dataclass(frozen=True)
class Estimate:
    """A value with its interval [low, high], the number of samples behind it, and the method.

    low, high: NaN where no interval exists, such as for a single sample
    n: number of samples, counted in `sample_unit`
    episodes: number of episodes the samples come from, if fewer than the samples

    `str` gives value, interval and n; `brief` leaves n out.
    """

    value: float
    low: float
    high: float
    n: int
    method: str
    sample_unit: str = "values"
    episodes: int | None = None

    def to_json(self, methods: dict[str, int] | None = None) -> dict[str, Any]:
        """Returns plain JSON, with null for what is not finite.

        methods: texts by id; the method is then written as its id, and a new text is added
        """
        ends = {name: finite_or_none(getattr(self, name)) for name in ("value", "low", "high")}
        counts: dict[str, Any] = {"n": self.n, "sample_unit": self.sample_unit}
        counts |= {} if self.episodes is None else {"episodes": self.episodes}
        method = self.method if methods is None else methods.setdefault(self.method, len(methods))
        return ends | counts | {"method": method}

    @classmethod
    def from_json(cls, read: dict[str, Any], methods: Sequence[str] = ()) -> Estimate:
        """The inverse of `to_json`; null becomes NaN. `methods` are the texts that ids refer to."""
        given: dict[str, Any] = {key: math.nan if x is None else x for key, x in read.items()}
        if isinstance(given["method"], int):
            given["method"] = methods[given["method"]]
        return cls(**given)

    @property
    def brief(self) -> str:
        """Value and interval."""
        if math.isnan(self.low):
            return format_number(self.value)
        return (
            f"{format_number(self.value)} [{format_number(self.low)}, {format_number(self.high)}]"
        )

    @property
    def amount(self) -> str:
        """n, followed by the number of episodes in parentheses."""
        return f"{self.n:,}" if self.episodes is None else f"{self.n:,} ({self.episodes:,})"

    @property
    def counted(self) -> str:
        """n in words: `100 starts in 20 episodes`."""
        unit = self.sample_unit.removesuffix("s") if self.n == 1 else self.sample_unit
        within = "" if self.episodes is None else f" in {_episodes(self.episodes)}"
        return f"{self.n:,} {unit}{within}"

    def __str__(self) -> str:
        return f"{self.brief}, n = {self.amount}"


def values_and_ends(numbers: Sequence[Estimate]) -> np.ndarray:
    """(3, N) values, lower and upper ends."""
    return np.array([(n.value, n.low, n.high) for n in numbers], np.float64).reshape(-1, 3).T


class Annotated(NamedTuple):
    """An estimate with further entries next to its own in results.json."""

    estimate: Estimate
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made. The same seed and data give the same interval."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def mean(self, values: np.ndarray, of: str = "values", what: str = "mean") -> Estimate:
        """The mean of independent values (N,)."""
        values = np.asarray(values, np.float64)
        n, what = len(values), f"{what} over {len(values)} {of}"
        if n > LARGE:
            z = NormalDist().inv_cdf((1 + self.confidence) / 2)
            value, half = values.mean(), z * values.std(ddof=1) / math.sqrt(n)
            method = f"{what}; {self._percent} normal interval"
            return Estimate(float(value), float(value - half), float(value + half), n, method, of)
        return self.clustered(means(values), np.arange(n), what, of)

    def paired(self, ours: np.ndarray, theirs: np.ndarray, of: str = "episodes") -> Estimate:
        """The mean difference of values (N,) that were had under the same conditions, such as the
        seeds of episodes: what makes one hard for both does not widen the interval. Two that are
        infinite alike do not differ.
        """
        if len(ours) != len(theirs):
            raise ValueError(f"{len(ours)} and {len(theirs)} values: pairs need as many of both")
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        with np.errstate(invalid="ignore"):
            off = np.where(ours == theirs, 0.0, ours - theirs)
        return self.mean(off, of, "mean difference of pairs")

    def clustered(
        self, statistic: Statistic, clusters: np.ndarray, what: str, unit: str = "episodes"
    ) -> Estimate:
        """A statistic of N values that belong to `clusters` (N,), with whole clusters resampled.

        With a single cluster its values are resampled instead, and the method says so.
        """
        return self.clustered_many(lambda counts: statistic(counts)[:, None], clusters, what, unit)[
            0
        ]

    def clustered_many(
        self, statistic: Statistic, clusters: np.ndarray, what: str, unit: str = "episodes"
    ) -> list[Estimate]:
        """J statistics (R, J) of the same values, as `clustered` gives one."""
        n = len(clusters)
        labels, member = np.unique(clusters, return_inverse=True)
        counted = (unit, None) if len(labels) == n else ("starts", len(labels))
        method = f"{what}; {self._percent} percentile bootstrap over {unit}"
        if len(labels) == 1:
            member = np.arange(n)
            method = method.replace(f"over {unit}", f"within the only one of the {unit}")
        values = statistic(np.ones((1, n), np.int64))[0].tolist()
        if n == 1:
            alone = f"{what}; a single value has no interval"
            return [Estimate(value, math.nan, math.nan, n, alone, *counted) for value in values]
        drawn = [statistic(counts[:, member]) for counts in self._counts(member.max() + 1, n)]
        made = zip(values, np.concatenate(drawn).T, strict=True)
        return [self._number(value, found, n, method, *counted) for value, found in made]

    def stratified(self, statistic: Stratified, shapes: Sequence[Shape], what: str) -> Estimate:
        """A statistic of scores (runs, tasks) laid end to end, with runs resampled within each task
        (Agarwal et al., NeurIPS 2021): of one set of scores, or of several of the given `shapes`.

        n is the number of runs, of the smallest set.
        """
        least, tasks = min(runs for runs, _ in shapes), shapes[0][1]
        runs = " and ".join(str(runs) for runs, _ in shapes)
        method = f"{what} over {runs} runs of {tasks} {'task' if tasks == 1 else 'tasks'}"
        value = float(statistic(*(np.ones((1, math.prod(shape)), np.int64) for shape in shapes))[0])
        if least == 1:
            alone = f"{method}; a single run has no interval"
            return Estimate(value, math.nan, math.nan, least, alone, SEEDS)
        generator = np.random.default_rng(self.seed)
        rows = max(1, CHUNK // max(map(math.prod, shapes)))
        pieces = [min(rows, self.resamples - begin) for begin in range(0, self.resamples, rows)]
        drawn = [statistic(*(_stratified(generator, n, *s) for s in shapes)) for n in pieces]
        method = f"{method}; {self._percent} percentile bootstrap over runs within tasks"
        return self._number(value, np.concatenate(drawn), least, method, SEEDS)

    def _number(
        self, value: float, drawn: np.ndarray, n: int, method: str, *counted: Any
    ) -> Estimate:
        """With the central interval of what was drawn (R,): values of it, since infinite ones do
        not mix. Draws for which a statistic is not defined, such as those without a single end
        among the starts, are left out and counted; where they are the most, there is no interval.
        """
        method = f"{method}, {self.resamples} resamples"
        defined = drawn[~np.isnan(drawn)]
        if missing := len(drawn) - len(defined):
            method = f"{method}, of which {missing} do not define it"
        if math.isnan(value) or 2 * missing > len(drawn):
            return Estimate(value, math.nan, math.nan, n, f"{method}: no interval", *counted)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail], method="inverted_cdf")
        return Estimate(value, float(low), float(high), n, method, *counted)

    @property
    def _percent(self) -> str:
        return f"{100 * self.confidence:g} %"

    def _counts(self, clusters: int, n: int) -> Iterator[np.ndarray]:
        """(R, clusters) how often each cluster was drawn; `resamples` rows in all, in pieces."""
        rows = max(1, CHUNK // n)
        if self.resamples * clusters <= CHUNK:
            drawn = _drawn(self.seed, clusters, self.resamples)
            yield from (drawn[i : i + rows] for i in range(0, self.resamples, rows))
            return
        generator, even = np.random.default_rng(self.seed), np.full(clusters, 1 / clusters)
        for begin in range(0, self.resamples, rows):
            yield generator.multinomial(clusters, even, min(rows, self.resamples - begin))


@dataclass(frozen=True)
class Measured:
    """A statistic of N samples before its interval is computed, so that runs can be compared on
    the same resamples.

    clusters: (N,) the independent unit that each sample belongs to
    method: what the statistic is, for the estimate's `method`
    values: (N,) where the statistic is their mean: differences are then taken pair by pair
    """

    statistic: Statistic
    clusters: np.ndarray
    method: str
    unit: str = "episodes"
    values: np.ndarray | None = None

    def estimate(self, bootstrap: Bootstrap) -> Estimate:
        if self.values is not None:
            return bootstrap.mean(self.values, self.unit)
        return bootstrap.clustered(self.statistic, self.clusters, self.method, self.unit)

    @classmethod
    def mean_of(cls, values: np.ndarray, unit: str = "episodes") -> Measured:
        """The mean of independent values (N,)."""
        return cls(means(values), np.arange(len(values)), "mean", unit, np.asarray(values))


def estimates(measured: Mapping[str, Measured], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """With their intervals, by name."""
    return {name: of.estimate(bootstrap) for name, of in measured.items()}


@lru_cache(maxsize=4)
def _drawn(seed: int, clusters: int, resamples: int) -> np.ndarray:
    """Kept, since many numbers come from the same draws."""
    even = np.full(clusters, 1 / clusters)
    drawn = np.random.default_rng(seed).multinomial(clusters, even, resamples)
    drawn.flags.writeable = False
    return drawn


def _stratified(generator: np.random.Generator, count: int, runs: int, tasks: int) -> np.ndarray:
    """(count, runs * tasks) how often each score was drawn, as many a task as there are runs."""
    size = runs * tasks
    drawn = generator.integers(runs, size=(count, runs, tasks), dtype=np.int32)
    places = drawn * tasks + np.arange(tasks, dtype=np.int32)
    places += (size * np.arange(count, dtype=np.int32))[:, None, None]
    return np.bincount(places.ravel(), minlength=count * size).reshape(count, size)


def wilson(successes: int, n: int, confidence: float = 0.95, of: str = "episodes") -> Estimate:
    """The share of successes and Wilson's interval, which stays inside [0, 1] and holds with few
    trials, or none that failed (Wilson, JASA 1927).
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n}: accepted are 0 to n of 1 or more")
    share, z = successes / n, NormalDist().inv_cdf((1 + confidence) / 2)
    middle, whole = share + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    method = f"share of {n} {of}; {100 * confidence:g} % Wilson interval"
    return Estimate(share, (middle - half) / whole, (middle + half) / whole, n, method, of)


def means(values: np.ndarray) -> Statistic:
    """Means of values (N,), or of several kinds of them (N, J)."""
    values = np.asarray(values, np.float64)

    def statistic(counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # infinite ones that were not drawn
            return _weighted(counts, values) / counts.sum(1).reshape(-1, *[1] * (values.ndim - 1))

    return statistic


def median(values: np.ndarray) -> Statistic:
    """The median of values (N,), each as often as it was drawn."""
    return quantiles(values, [0.5])


def quantiles(values: np.ndarray, levels: Sequence[float]) -> Statistic:
    """Quantiles of values (N,), each as often as it was drawn; on the half of a rank, the mean of
    the two values beside it. One level gives (R,), several (R, J).
    """
    order = np.argsort(values)
    ordered = np.asarray(values, np.float64)[order]

    def statistic(counts: np.ndarray) -> np.ndarray:
        upto = np.cumsum(counts[:, order], 1)
        total = upto[:, -1:]

        def at(rank: np.ndarray) -> np.ndarray:
            return ordered[(upto > rank).argmax(1)]

        def quantile(level: float) -> np.ndarray:
            place = total * level
            low = np.ceil(place).astype(np.int64) - 1
            low, high = np.maximum(low, 0), np.minimum(np.floor(place).astype(np.int64), total - 1)
            return (at(low) + at(high)) / 2

        found = [quantile(level) for level in levels]
        return found[0] if len(found) == 1 else np.stack(found, 1)

    return statistic


def quotient(ours: Statistic, theirs: Statistic) -> Statistic:
    """One statistic of the same values / another; 1 where both are 0. What is drawn is drawn for
    both: what makes a start hard for both does not widen it.
    """

    def statistic(counts: np.ndarray) -> np.ndarray:
        e, r = ours(counts), theirs(counts)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((e == 0) & (r == 0), 1.0, e / r)

    return statistic


def skill(error: np.ndarray, reference: np.ndarray) -> Statistic:
    """1 - median error / median error of a reference; 0 where both are 0."""
    return relative_reduction(median(error), median(reference))


def relative_reduction(ours: Statistic, theirs: Statistic) -> Statistic:
    """1 - one statistic / another; 0 where both are 0."""
    relative = quotient(ours, theirs)
    return lambda counts: 1 - relative(counts)


def note_on_seeds(seeds: int) -> str | None:
    """The caveat for numbers that come from few training seeds."""
    if seeds >= FEW_SEEDS:
        return None
    runs = "A single training seed says" if seeds == 1 else f"{seeds} training seeds say"
    return (
        f"{runs} little about other seeds: intervals over fewer than {FEW_SEEDS} are too "
        f"narrow; {RECOMMENDED_SEEDS} are recommended (training.num_seeds, or several runs)."
    )


def _episodes(count: int) -> str:
    return f"{count:,} episode{'' if count == 1 else 's'}"


def finite_or_none(value: float) -> float | None:
    """The number, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None


def format_number(value: float) -> str:
    """Three significant digits, without exponents where they would not help."""
    size = abs(value)
    if not math.isfinite(value):
        return f"{value:g}"
    if size >= 100:
        return f"{value:,.0f}" if size < 1e7 else f"{value:.2e}"
    if size >= 0.01 or size == 0:
        return f"{value:.{1 if size >= 10 else 2 if size >= 1 else 3}f}"
    return f"{value:.1e}"


def _weighted(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums (R,) or (R, J) of values (N,) or (N, J), each as often as it was drawn. What is infinite
    and was not drawn adds nothing; what is not a number counts as positive infinity.
    """
    bad = ~np.isfinite(values)
    if not bad.any():
        return counts @ values
    lowest = values == -np.inf
    found = np.where(counts @ bad > 0, np.inf, counts @ np.where(bad, 0.0, values))
    return np.where(counts @ lowest > 0, -np.inf, found)
