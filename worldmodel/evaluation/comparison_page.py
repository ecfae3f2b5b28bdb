"""comparison.html: several runs on one page, a plot a measure."""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.comparison import Comparison, Measure
from worldmodel.evaluation.comparison_sheets import NOTE, comparison_sheets, verdict
from worldmodel.evaluation.figures import figure
from worldmodel.evaluation.report import document, section, table, words
from worldmodel.evaluation.statistics import Number
from worldmodel.evaluation.svg import Panel, extent

BY_HORIZON = "By steps ahead, with intervals. Dashed is persistence, which repeats what was seen."
BY_ROW = "Values with their intervals."


def comparison_page(comparison: Comparison) -> str:
    """The whole HTML page; it opens offline."""
    colors = {run: f"run-{place}" for place, run in enumerate(comparison.runs)}
    first, *rest = verdict(comparison)
    header = (
        f'<header><p class="run">{words(", ".join(comparison.runs))}</p><h1>{words(first)}</h1>'
        f"{''.join(f'<p>{words(line)}</p>' for line in rest)}</header>"
    )
    curves = [m for m in comparison.measures if m.by_horizon and len(m.rows) > 1]
    others = [m for m in comparison.measures if m not in curves]
    legend = [(color, run) for run, color in colors.items()]
    panels = [(m.title, _curves(m, colors)) for m in curves]
    bars = [
        (m.title if len(m.rows) == 1 else f"{m.title}: {row}", _bars(m, row, colors))
        for m in others
        for row in m.rows
    ]
    body = [
        header,
        section("By horizon", figure(BY_HORIZON, panels, legend) if panels else ""),
        section("In one number", figure(BY_ROW, bars, legend) if bars else ""),
        section("In numbers", "".join(map(table, comparison_sheets(comparison)))),
        "".join(f"<p class=note>{words(note)}</p>" for note in (NOTE, *comparison.notes)),
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
        panel.line(steps, baseline, "baseline dashed")
    for run, (value, least, most) in lines.items():
        panel.band(steps, least, most, colors[run])
        panel.line(steps, value, colors[run])
    return panel.svg()


def _along(numbers: list[Number]) -> np.ndarray:
    """(3, H) values and both ends."""
    return np.array([(n.value, n.low, n.high) for n in numbers], np.float64).reshape(-1, 3).T


def _bars(measure: Measure, row: str, colors: dict[str, str]) -> str:
    """A bar a run: its value and interval."""
    numbers = measure.rows[row].numbers
    ends = {run: (n.low, n.high, n.value) for run, n in numbers.items()}
    low, high = extent(np.array(list(ends.values())))
    panel = Panel(
        (low, high),
        (-0.5, len(ends) - 0.5),
        label=f"{measure.subject} of each run: {row}",
        x_title=measure.unit,
        height=70 + 26 * len(ends),
        left=12,
        y_ticks=False,
    )
    for place, (run, (least, most, value)) in enumerate(ends.items()):
        panel.bar(least, most, value, len(ends) - 1 - place, colors[run])
    return panel.svg()
