"""comparison.html: several runs on one page, a plot a measure."""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.comparison import Comparison, Measure
from worldmodel.evaluation.comparison_tables import comparison_tables, how, summarize
from worldmodel.evaluation.figures import figure, interval_bars
from worldmodel.evaluation.report import document, header, section, table, words
from worldmodel.evaluation.statistics import Estimate
from worldmodel.evaluation.svg import Panel, extent

BY_HORIZON = "By steps ahead, with intervals. Dashed is persistence, which repeats what was seen."
BY_ROW = "Values with their intervals."


def comparison_page(comparison: Comparison) -> str:
    """The whole HTML page; it opens offline."""
    colors = {run: f"run-{place}" for place, run in enumerate(comparison.runs)}
    curves = [m for m in comparison.measures if m.by_horizon and len(m.rows) > 1]
    others = [m for m in comparison.measures if m not in curves]
    legend = [(color, run) for run, color in colors.items()]
    panels = [(m.title, _curves(m, colors)) for m in curves]
    bars = [
        (
            m.title if len(m.rows) == 1 else f"{m.title}: {row}",
            interval_bars(compared.numbers, colors, f"{m.subject}: {row}", m.unit),
        )
        for m in others
        for row, compared in m.rows.items()
    ]
    notes = [how(comparison), *comparison.notes]
    body = [
        header(", ".join(comparison.runs), "", summarize(comparison)),
        section("By horizon", figure(BY_HORIZON, panels, legend) if panels else ""),
        section("In one number", figure(BY_ROW, bars, legend) if bars else ""),
        section("In numbers", "".join(map(table, comparison_tables(comparison)))),
        "".join(f"<p class=note>{words(note)}</p>" for note in notes),
    ]
    return document(" and ".join(comparison.runs), "".join(body))


def _curves(measure: Measure, colors: dict[str, str]) -> str:
    """A line a run over the horizons, in a band of its intervals."""
    steps = [int(row) for row in measure.rows]
    judged = next(iter(measure.rows.values())).numbers
    lines = {run: _along([c.numbers[run] for c in measure.rows.values()]) for run in judged}
    baseline = _along(list(measure.baseline.values()))[0]
    low, high = extent(*lines.values(), baseline)
    # Errors are read from 0.
    limits = (min(0.0, low), high) if measure.baseline else (low, high)
    panel = Panel(
        (steps[0], steps[-1]),
        limits,
        label=f"{measure.subject} by horizon",
        x_title="steps ahead",
        y_title=measure.unit,
    )
    if measure.baseline:
        panel.line(steps, baseline, "logs dashed")
    for run, (value, least, most) in lines.items():
        panel.band(steps, least, most, colors[run])
        panel.line(steps, value, colors[run])
    return panel.svg()


def _along(numbers: list[Estimate]) -> np.ndarray:
    """(3, H) values and both ends."""
    return np.array([(n.value, n.low, n.high) for n in numbers], np.float64).reshape(-1, 3).T
