"""The usable horizon: how many steps ahead a model is at least as close as persistence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from worldmodel.config.registry import register
from worldmodel.evaluation.html import Card
from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.section import MORE, Context, Measure, Section
from worldmodel.evaluation.starts import PredictionStarts
from worldmodel.evaluation.statistics import Bootstrap, Estimate, Statistic

PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class UsableHorizon:
    """Percentiles over starts of the first step at which the error exceeds persistence's,
    `max_horizon` where that is not reached, and the share of starts for which it is not.
    """

    percentiles: dict[int, Estimate]
    censored: Estimate
    max_horizon: int

    def numbers(self) -> dict[str, Any]:
        found: dict[str, Any] = {f"p{p}": number for p, number in self.percentiles.items()}
        return found | {"censored": self.censored, "max_horizon": self.max_horizon}


@register("section", "usable_horizon", order=20)
@dataclass(frozen=True)
class UsableHorizons(Section):
    """The usable horizon of every observation, by name."""

    title = "Usable horizon"
    absent = {"usable_horizon": {}}
    comparable = needs_dynamics = True

    observations: dict[str, UsableHorizon] = field(default_factory=dict)

    @classmethod
    def run(cls, context: Context) -> Self:
        rollouts = context.open_loop
        return cls(
            {
                name: usable_horizon(errors, rollouts.starts, context.bootstrap)
                for name, errors in rollouts.metrics.errors.items()
            }
        )

    def numbers(self) -> dict[str, Any]:
        return {"usable_horizon": self.observations}

    @property
    def explanation(self) -> str:
        return (
            "A start is usable until the first step at which the error exceeds that of "
            "persistence, which repeats the last observation."
        )

    def tables(self) -> list[ResultTable]:
        first = next(iter(self.observations.values()))
        titles = ["median" if p == 50 else f"{p} %" for p in first.percentiles]
        header = ["observation", *titles, f"share after {first.max_horizon}"]
        rows = [[key, *u.percentiles.values(), u.censored] for key, u in self.observations.items()]
        return [ResultTable("Usable horizon in steps, percentiles over starts", header, rows)]

    def sentences(self) -> list[str]:
        return [
            f"Usable horizon of {key}: {_steps(u.percentiles[50])} steps (median over "
            f"{u.percentiles[50].counted}); {_steps(u.percentiles[5])} or more for 95 % of them."
            for key, u in self.observations.items()
        ]

    def cards(self) -> list[Card]:
        """Of the observation with the shortest one."""
        key = min(self.observations, key=lambda key: self.observations[key].percentiles[50].value)
        found = self.observations[key]
        text = (
            f"The usable horizon of {key}, median over {found.percentiles[50].counted}: up to "
            "there the model is at least as close as if nothing changed"
        )
        if found.percentiles[50].value >= found.max_horizon:
            text += f"; {found.max_horizon} is the longest horizon evaluated"
        return [Card("How far ahead to trust it", found.percentiles[50], "steps", f"{text}.")]

    def measures(self) -> list[Measure]:
        return [
            Measure(
                f"usable_horizon.{key}",
                f"Usable horizon of {key}",
                f"Usable horizon of {key} in steps, median over starts",
                "steps",
                {key: found.percentiles[50]},
                MORE,
                "observation",
            )
            for key, found in self.observations.items()
        ]


def _steps(number: Estimate) -> str:
    if math.isnan(number.low):
        return f"{number.value:.0f}"
    return f"{number.value:.0f} [{number.low:.0f}, {number.high:.0f}]"


def usable_horizon(
    errors: np.ndarray, starts: PredictionStarts, bootstrap: Bootstrap
) -> UsableHorizon:
    """From errors (K, N, H) of the model, persistence and others. A start whose episode ends before
    the last horizon is censored there (Kaplan and Meier, JASA 1958).
    """
    last = errors.shape[-1]
    with np.errstate(invalid="ignore"):
        worse = errors[0] > errors[1]  # never past the episode's end, where both are NaN
    failed = worse.any(1)
    until = np.where(failed, worse.argmax(1) + 1, np.minimum(starts.remaining_steps, last))
    what = f"steps until persistence is closer, at most {last}, over {len(starts)} starts"
    numbers = bootstrap.clustered_many(_percentiles(until, failed, last), starts.episodes, what)
    what = f"share of {len(starts)} starts that after {last} steps are no worse than persistence"
    (censored,) = bootstrap.clustered_many(
        lambda counts: _usable(until, failed, last)(counts)[:, -1:], starts.episodes, what
    )
    return UsableHorizon(dict(zip(PERCENTILES, numbers, strict=True)), censored, last)


def _percentiles(until: np.ndarray, failed: np.ndarray, last: int) -> Statistic:
    """(R, 3) the first step at which these percentages are no longer usable."""
    usable = _usable(until, failed, last)

    def statistic(counts: np.ndarray) -> np.ndarray:
        gone = 1 - usable(counts)
        found = [(gone >= p / 100 - 1e-9).argmax(1) + 1 for p in PERCENTILES]
        reached = [gone[:, -1] >= p / 100 - 1e-9 for p in PERCENTILES]
        return np.where(np.stack(reached, 1), np.stack(found, 1), last).astype(np.float64)

    return statistic


def _usable(until: np.ndarray, failed: np.ndarray, last: int) -> Statistic:
    """(R, H) the share still usable after 1 to H steps; `until` (N,) is the step at which a start
    `failed`, or else was censored.
    """
    steps = np.arange(1, last + 1)
    known = (until[:, None] >= steps).astype(np.float64)
    lost = ((until[:, None] == steps) & failed[:, None]).astype(np.float64)

    def statistic(counts: np.ndarray) -> np.ndarray:
        return np.cumprod(1 - counts @ lost / np.maximum(counts @ known, 1), 1)

    return statistic
