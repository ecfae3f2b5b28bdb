"""What is found of several runs side by side: a measure after the other, and who leads in each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from worldmodel.evaluation.result_table import Cell
from worldmodel.evaluation.statistics import Bootstrap, Estimate, Statistic, relative_reduction

LESS, MORE = "less", "more"  # what is better


class Lead(NamedTuple):
    """The best run, the next one, and by how much it is ahead of that: where less is better the
    share by which it is smaller, else the difference.
    """

    best: str
    runner_up: str
    margin: Estimate

    @property
    def is_clear(self) -> bool:
        return self.margin.low > 0

    def cells(self) -> list[Cell]:
        """Of a table: the best one, if there is one, and by how much."""
        return [self.best if self.is_clear else "not clear", self.margin]

    def to_json(self) -> dict[str, Any]:
        return {"best": self.best, "runner_up": self.runner_up, "margin": self.margin.to_json()}


class MeasureComparison(NamedTuple):
    """One number of all runs, by name, and who leads where they can be told apart in pairs."""

    numbers: dict[str, Estimate]
    lead: Lead | None = None

    def to_json(self) -> dict[str, Any]:
        numbers = {run: number.to_json() for run, number in self.numbers.items()}
        return {"runs": numbers, "lead": None if self.lead is None else self.lead.to_json()}


@dataclass(frozen=True)
class Measure:
    """One measure, a row a horizon, an observation or who acts.

    place: where it stands in comparison.json, `prediction.position`
    subject: what it is of, as a sentence begins; rows are steps ahead where `of` is "steps"
    unit: for the axis of its plot; baseline: by row, what no run should be worse than
    """

    place: str
    subject: str
    title: str
    of: str
    unit: str
    rows: dict[str, MeasureComparison]
    baseline: dict[str, Estimate] = field(default_factory=dict)

    @property
    def by_horizon(self) -> bool:
        return self.of == "steps"


@dataclass(frozen=True)
class Comparison:
    """`last` is the same of the last checkpoints, where these are the best ones."""

    runs: list[str]
    held_out_sha256: str
    environment: str | None
    confidence: float
    measures: list[Measure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    last: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        """Each measure in its place: `prediction.KEY.HORIZON.{runs.RUN, lead}`, `returns.WHO...`"""
        found: dict[str, Any] = {
            "runs": self.runs,
            "held_out_sha256": self.held_out_sha256,
            "environment": self.environment,
            "confidence": self.confidence,
            "notes": self.notes,
            "last": None if self.last is None else self.last.to_json(),
        }
        for measure in self.measures:
            kind, _, key = measure.place.partition(".")
            rows = {row: compared.to_json() for row, compared in measure.rows.items()}
            found.setdefault(kind, {}).update({key: rows} if key else rows)
        return found


def compare(
    statistics: dict[str, Statistic],
    clusters: np.ndarray,
    what: str,
    bootstrap: Bootstrap,
    better: str | None = LESS,
) -> MeasureComparison:
    """A statistic of every run over the same values: what is drawn is drawn for all runs, so that
    what makes a start hard for all of them does not widen the difference. There is a lead among two
    or more runs where it is known what is `better`.
    """
    numbers = {run: bootstrap.clustered(s, clusters, what) for run, s in statistics.items()}
    if better is None or len(numbers) < 2:
        return MeasureComparison(numbers)
    best, second = ranked(numbers, better)[:2]
    ours, theirs = statistics[best], statistics[second]
    if better == LESS:
        ahead, said = relative_reduction(ours, theirs), f"1 - {what} by that of the next run"
    else:
        ahead, said = lambda counts: ours(counts) - theirs(counts), f"{what} less the next run's"
    return MeasureComparison(
        numbers, Lead(best, second, bootstrap.clustered(ahead, clusters, said))
    )


def ranked(numbers: dict[str, Estimate], better: str) -> list[str]:
    """Best first; what is not a number comes last."""
    sign = 1 if better == LESS else -1
    return sorted(numbers, key=lambda run: np.nan_to_num(sign * numbers[run].value, nan=np.inf))
