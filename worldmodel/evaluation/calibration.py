"""Does a model that samples futures know how wrong it is? Scores of its samples by horizon.

Means over starts, not medians: they alone make the true distribution the best answer (Gneiting and
Raftery, JASA 2007). In units of the error: training standard deviations or the range of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from worldmodel.evaluation import scores
from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.scores import LEVELS
from worldmodel.evaluation.starts import PredictionStarts
from worldmodel.evaluation.statistics import Bootstrap, Estimate, Statistic, means

FEWEST_SAMPLES = 4  # with fewer, the log score has no expectation


class Scores(NamedTuple):
    """Of N starts at h horizons; D is 1 where the numbers of an image are averaged.

    crps, log_score: (N, h, D); energy: (N, h), norms being root mean squares over the numbers
    spread: (N, h, D) expected, and square: (N, h, D) actual squared error of the samples' mean
    rank: (N, h, P) of every number's truth among the samples
    """

    crps: np.ndarray
    log_score: np.ndarray
    energy_score: np.ndarray
    spread: np.ndarray
    squared_error: np.ndarray
    rank: np.ndarray


def scores_of(samples: np.ndarray, truth: np.ndarray, each: bool) -> Scores | None:
    """From samples (S, N, h, P) of what became `truth` (N, h, P); `each`: every number's own.

    None where there is no spread to judge: few samples, or all of them the same.
    """
    if len(samples) < FEWEST_SAMPLES or (samples == samples[0]).all():
        return None
    # What is not a number is as far off as can be, and leaves no digit to a score.
    samples = np.where(np.isfinite(samples), samples, np.inf).astype(np.float64)
    kept = (lambda x: x) if each else (lambda x: x.mean(-1, keepdims=True))
    with np.errstate(invalid="ignore", over="ignore"):
        found = Scores(
            crps=kept(scores.fair_crps(samples, truth)),
            log_score=kept(scores.log_score(samples, truth)),
            energy_score=scores.fair_energy(samples, truth) / np.sqrt(truth.shape[-1]),
            spread=kept(scores.spread(samples)),
            squared_error=kept(np.square(samples.mean(0) - truth)),
            rank=scores.rank(samples, truth).astype(np.int32),
        )
    worst = {name: np.where(np.isnan(x), np.inf, x) for name, x in found._asdict().items()}
    return Scores(**worst)._replace(rank=found.rank)


@dataclass(frozen=True)
class Calibration:
    """One horizon. Lower is better for CRPS, energy and log score (nats a number, as of a normal
    distribution); spread / skill is 1 where the spread is right, less where the model is too sure.

    coverage: by LEVELS, how often the truth is inside an interval that should hold `nominal`
    ranks: how often the truth has each rank among the samples, 0 to S
    dimensions: the same by number of a vector
    """

    crps: Estimate
    energy_score: Estimate
    log_score: Estimate
    spread_skill_ratio: Estimate
    coverage: dict[int, Estimate]
    nominal: dict[int, float]
    rank_histogram: list[Estimate]
    dimensions: dict[str, list[Estimate]]

    def to_json(self) -> dict[str, Any]:
        single = ("crps", "energy_score", "log_score", "spread_skill_ratio")
        return {name: getattr(self, name).to_json() for name in single} | {
            "coverage": {
                str(level): number.to_json() | {"nominal": self.nominal[level]}
                for level, number in self.coverage.items()
            },
            "rank_histogram": [number.to_json() for number in self.rank_histogram],
            "dimensions": {
                name: [number.to_json() for number in numbers]
                for name, numbers in self.dimensions.items()
            },
        }


def calibration_at(
    found: Scores,
    place: int,
    starts: PredictionStarts,
    horizon: int,
    samples: int,
    each: bool,
    bootstrap: Bootstrap,
) -> Calibration:
    """At the horizon that is in place `place` of the scores, over the starts that reach it; with
    `each`, every number's own too.
    """
    there = starts.remaining_steps >= horizon
    crps, log_score, energy, spread, square, rank = (x[there, place] for x in found)
    episodes = starts.episodes[there]
    over = f"{samples} samples from {len(episodes)} starts in {len(np.unique(episodes))} episodes"

    def numbers(statistic: Statistic, what: str) -> list[Estimate]:
        return bootstrap.clustered_many(statistic, episodes, f"{what}, {over}")

    def mean(values: np.ndarray, what: str) -> list[Estimate]:
        """Over all numbers first, then each."""
        of_all = values.mean(-1, keepdims=True)
        return numbers(means(np.concatenate([of_all, values], 1) if each else of_all), what)

    intervals = {level: scores.interval_of(level, samples) for level in LEVELS}
    intervals = {level: interval for level, interval in intervals.items() if interval}
    inside = {
        level: mean(
            scores.is_inside(rank, k, samples).astype(np.float64),
            f"share inside an interval that should hold {100 * nominal:.3g} %",
        )
        for level, (k, nominal) in intervals.items()
    }
    of_dimensions = {
        "crps": mean(crps, "mean fair CRPS"),
        "log_score": mean(log_score, "mean fair log score of a normal"),
        "spread_skill_ratio": numbers(_spread_skill(spread, square, each), "spread / skill"),
    }
    shares = np.stack([(rank == r).mean(-1) for r in range(samples + 1)], 1)
    return Calibration(
        energy_score=numbers(
            lambda counts: means(energy)(counts)[:, None], "mean fair energy score"
        )[0],
        coverage={level: found[0] for level, found in inside.items()},
        nominal={level: nominal for level, (_, nominal) in intervals.items()},
        rank_histogram=numbers(means(shares), "share of each rank"),
        dimensions={
            name: found[1:]
            for name, found in (
                of_dimensions | {f"coverage_{level}": found for level, found in inside.items()}
            ).items()
            if each
        },
        **{name: found[0] for name, found in of_dimensions.items()},
    )


def spread_skill_ratio(spread: np.ndarray, square: np.ndarray) -> Statistic:
    """Root mean square spread (N, D) / that of the error of the samples' mean."""
    of_all = _spread_skill(spread, square, each=False)
    return lambda counts: of_all(counts)[:, 0]


def _spread_skill(spread: np.ndarray, square: np.ndarray, each: bool) -> Statistic:
    """Root mean squares (N, D), over all numbers first, then of each."""
    parts = [np.concatenate([x.mean(-1, keepdims=True), x], 1) for x in (spread, square)]
    width, error = (means(x if each else x[:, :1]) for x in parts)

    def statistic(counts: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.sqrt(width(counts) / error(counts))

    return statistic


def calibration_sheet(key: str, unit: str, found: dict[int, Calibration]) -> ResultTable:
    """A row a horizon. Of the intervals, a terminal shows that of 90 %, or the widest there is."""
    levels = list(next(iter(found.values())).nominal)
    main = 90 if 90 in levels else max(levels, default=None)
    nominal = next(iter(found.values())).nominal
    columns = {level: f"in {100 * nominal[level]:.3g} %" for level in levels}
    header = ["steps", "CRPS", "energy", "log score", "spread / skill", *columns.values()]
    rows = [
        [
            str(h),
            *(n.crps, n.energy_score, n.log_score, n.spread_skill_ratio),
            *(n.coverage[level] for level in levels),
        ]
        for h, n in found.items()
    ]
    hidden_in_terminal = [
        "energy",
        "log score",
        *(name for lv, name in columns.items() if lv != main),
    ]
    return ResultTable(
        f"Calibration of sampled {key}, CRPS in {unit}", header, rows, tuple(hidden_in_terminal)
    )
