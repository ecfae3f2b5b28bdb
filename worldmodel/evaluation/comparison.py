"""The comparison of several runs by the measures of their sections, on the same resamples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.evaluation.figures import Panel, extent, figure, interval_bars
from worldmodel.evaluation.html import document, header, notes, section, table
from worldmodel.evaluation.result_table import Cell, ResultTable, span
from worldmodel.evaluation.section import LESS, Measure
from worldmodel.evaluation.statistics import (
    Bootstrap,
    Estimate,
    Measured,
    relative_reduction,
    values_and_ends,
)

BY_HORIZON = "By steps ahead, with intervals. Dashed is persistence, which repeats the observation."
BY_ROW = "Values with their intervals."


@dataclass(frozen=True)
class Lead:
    """The best run, the next one, and the margin between them: where less is better the share by
    which the best is smaller, else the difference.
    """

    best: str
    runner_up: str
    margin: Estimate

    @property
    def is_clear(self) -> bool:
        return self.margin.low > 0

    def cells(self) -> list[Cell]:
        """Cells of a table: the best run, if it is clear, and the margin."""
        return [self.best if self.is_clear else "not clear", self.margin]


@dataclass(frozen=True)
class MeasureComparison:
    """One number of all runs, and the lead where they were resampled in pairs."""

    runs: dict[str, Estimate]
    lead: Lead | None = None


@dataclass(frozen=True)
class ComparedMeasure:
    """A measure of several runs, row by row: a horizon, an observation or an agent."""

    measure: Measure
    rows: dict[str, MeasureComparison]

    @property
    def by_horizon(self) -> bool:
        return self.measure.of == "steps"

    @property
    def leads(self) -> dict[str, Lead]:
        return {row: c.lead for row, c in self.rows.items() if c.lead is not None}


@dataclass(frozen=True)
class Comparison:
    """`last` is the comparison of the last checkpoints, where these are the best ones."""

    runs: list[str]
    held_out_sha256: str
    environment: str | None
    confidence: float
    measures: list[ComparedMeasure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    last: Comparison | None = None

    def numbers(self) -> dict[str, Any]:
        """Each measure at its key: `prediction.KEY.HORIZON.{runs.RUN, lead}`, `returns.AGENT...`"""
        found: dict[str, Any] = {
            "runs": self.runs,
            "held_out_sha256": self.held_out_sha256,
            "environment": self.environment,
            "confidence": self.confidence,
            "notes": self.notes,
            "last": None if self.last is None else self.last.numbers(),
        }
        for compared in self.measures:
            kind, _, key = compared.measure.key.partition(".")
            rows = compared.rows
            found.setdefault(kind, {}).update({key: rows} if key else rows)
        return found


def compare_measures(
    measures: Mapping[str, Iterable[Measure]], bootstrap: Bootstrap
) -> list[ComparedMeasure]:
    """Compares the measures of each run, row by row, where two runs or more have the row."""
    by_key: dict[str, dict[str, Measure]] = {}
    for run, of_run in measures.items():
        for measure in of_run:
            by_key.setdefault(measure.key, {})[run] = measure
    found = []
    for of_runs in by_key.values():
        first = next(iter(of_runs.values()))
        rows = {
            row: {run: measure.rows[row] for run, measure in of_runs.items() if row in measure.rows}
            for row in dict.fromkeys(row for measure in of_runs.values() for row in measure.rows)
        }
        compared = {
            row: compare(given, bootstrap, first.better)
            for row, given in rows.items()
            if len(given) > 1
        }
        if compared:
            found.append(ComparedMeasure(first, compared))
    return found


def compare(
    given: Mapping[str, Measured | Estimate], bootstrap: Bootstrap, better: str | None = LESS
) -> MeasureComparison:
    """One number of every run. Resamples are the same for all runs, so that what makes a start hard
    for all of them does not widen the difference. There is a lead among two or more measured runs
    where less or more is `better`.
    """
    measured = {run: x for run, x in given.items() if isinstance(x, Measured)}
    numbers = {
        run: x.estimate(bootstrap) if isinstance(x, Measured) else x for run, x in given.items()
    }
    if better is None or len(measured) < 2 or len(measured) < len(given):
        return MeasureComparison(numbers)
    best, second = ranked(numbers, better)[:2]
    return MeasureComparison(
        numbers, Lead(best, second, _margin(measured[best], measured[second], better, bootstrap))
    )


def _margin(best: Measured, second: Measured, better: str, bootstrap: Bootstrap) -> Estimate:
    if best.values is not None and second.values is not None:
        return bootstrap.paired(best.values, second.values, best.unit)
    ours, theirs = best.statistic, second.statistic
    if better == LESS:
        ahead, method = (
            relative_reduction(ours, theirs),
            f"1 - {best.method} by that of the next run",
        )
    else:
        ahead, method = lambda n: ours(n) - theirs(n), f"{best.method} less the next run's"
    return bootstrap.clustered(ahead, best.clusters, method, best.unit)


def ranked(numbers: Mapping[str, Estimate], better: str) -> list[str]:
    """Best first; NaN comes last."""
    sign = 1 if better == LESS else -1
    return sorted(numbers, key=lambda run: np.nan_to_num(sign * numbers[run].value, nan=np.inf))


# ------------------------------------------------------------------------- sentences, tables, page


def summarize(comparison: Comparison) -> list[str]:
    """Which run is ahead where, in plain sentences."""
    sentences = [
        _by_horizon(compared) if compared.by_horizon else _by_row(compared)
        for compared in comparison.measures
        if compared.leads
    ]
    if comparison.last is not None:
        sentences += [f"Last checkpoints: {line}" for line in summarize(comparison.last)]
    return sentences or ["There was nothing to compare."]


def _by_horizon(compared: ComparedMeasure) -> str:
    leads = compared.leads
    clear = {row: lead.best for row, lead in leads.items() if lead.is_clear}
    ahead = {run: [int(r) for r in clear if clear[r] == run] for run in clear.values()}
    horizons = [int(row) for row in leads]
    parts = [f"{run} is ahead at {span(own, horizons)}" for run, own in ahead.items()]
    level = [int(row) for row in leads if row not in clear]
    parts += [f"none is clearly ahead at {span(level, horizons)}"] if level else []
    return f"{compared.measure.subject}: {'; '.join(parts)}."


def _by_row(compared: ComparedMeasure) -> str:
    """For returns: a row is an agent."""
    parts = [
        f"{lead.best}'s {agent} returns {'' if lead.is_clear else 'not clearly '}more than "
        f"{lead.runner_up}'s, by {lead.margin.brief} over the same {lead.margin.counted}"
        for agent, lead in compared.leads.items()
    ]
    return f"{compared.measure.subject}: {'; '.join(parts)}."


def comparison_tables(comparison: Comparison, of: str = "") -> list[ResultTable]:
    """A table for each measure, with `of` added to the titles."""
    tables = [_table(compared, comparison.runs, of) for compared in comparison.measures]
    if comparison.last is not None:
        tables += comparison_tables(comparison.last, ", last checkpoints")
    return tables


def _table(compared: ComparedMeasure, runs: Sequence[str], of: str) -> ResultTable:
    baseline, leads = compared.measure.baseline, compared.leads
    having = [run for run in runs if any(run in c.runs for c in compared.rows.values())]

    def cells(row: str) -> list[Cell]:
        found: list[Cell] = [row, *(compared.rows[row].runs.get(run, "") for run in having)]
        found += [baseline[row]] if baseline else []
        return found + ([] if not leads else leads[row].cells() if row in leads else ["", ""])

    # A run may have any name: only the column of the baseline is hidden.
    name = "persistence (baseline)" if "persistence" in having else "persistence"
    hidden = (name,) if baseline else ()
    header = [compared.measure.of, *having, *hidden]
    header += ["best", "ahead of the next by"] if leads else []
    title = f"{compared.measure.title}{of}"
    return ResultTable(title, header, [cells(row) for row in compared.rows], hidden)


def explanation(comparison: Comparison) -> str:
    """What the numbers are, and when a run counts as ahead."""
    return (
        "All runs are evaluated at the same starts of the same episodes, and act in the real "
        "environment with the same seeds. The margin of a run over the next one is a share of the "
        "next one's number where less is better, else the difference; it is clear where its "
        "interval, with whole episodes resampled for both, does not contain 0. Brackets hold the "
        f"{100 * comparison.confidence:g} % interval. This compares these checkpoints, not the "
        "methods that trained them: for that, train several seeds of each (python -m "
        "worldmodel.aggregate)."
    )


def comparison_page(comparison: Comparison) -> str:
    """The whole HTML page; it opens offline."""
    colors = {run: f"run-{place}" for place, run in enumerate(comparison.runs)}
    curves = [m for m in comparison.measures if m.by_horizon and len(m.rows) > 1]
    others = [m for m in comparison.measures if m not in curves]
    legend = [(color, run) for run, color in colors.items()]
    panels = [(m.measure.title, _curves(m, colors)) for m in curves]
    bars = []
    for compared in others:
        measure = compared.measure
        for row, at in compared.rows.items():
            title = measure.title if len(compared.rows) == 1 else f"{measure.title}: {row}"
            label = f"{measure.subject}: {row}"
            bars.append((title, interval_bars(at.runs, colors, label, measure.unit)))
    body = [
        header(" and ".join(comparison.runs), "Comparison of runs", summarize(comparison)),
        section("By horizon", figure(BY_HORIZON, panels, legend) if panels else ""),
        section("In one number", figure(BY_ROW, bars, legend) if bars else ""),
        section("In numbers", "".join(map(table, comparison_tables(comparison)))),
        notes([explanation(comparison), *comparison.notes]),
    ]
    return document(" and ".join(comparison.runs), "".join(body))


def _curves(compared: ComparedMeasure, colors: Mapping[str, str]) -> str:
    """A line for each run over the horizons, in a band of its intervals."""
    measure, rows = compared.measure, compared.rows
    steps = [int(row) for row in rows]
    runs = [run for run in colors if all(run in c.runs for c in rows.values())]
    lines = {run: values_and_ends([c.runs[run] for c in rows.values()]) for run in runs}
    baseline = values_and_ends(list(measure.baseline.values()))[0]
    low, high = extent(*lines.values(), baseline)
    panel = Panel(
        (steps[0], steps[-1]),
        (min(0.0, low), high) if measure.baseline else (low, high),  # errors start at 0
        label=f"{measure.subject} by horizon",
        x_title="steps ahead",
        y_title=measure.unit,
    )
    if measure.baseline:
        panel.line(steps, baseline, "dataset dashed")
    for run, (value, least, most) in lines.items():
        panel.band(steps, least, most, colors[run])
        panel.line(steps, value, colors[run])
    return panel.svg()
