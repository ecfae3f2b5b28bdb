"""comparison.html: several runs on one page, a plot a measure."""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.comparison import (
    NOTE,
    Compared,
    ComparedKey,
    Comparison,
    comparison_sheets,
    verdict,
)
from worldmodel.evaluation.figures import figure
from worldmodel.evaluation.report import document, section, table, words
from worldmodel.evaluation.svg import Panel, extent


def comparison_page(comparison: Comparison) -> str:
    """The whole HTML page; it opens offline."""
    colors = {run: f"run-{place}" for place, run in enumerate(comparison.runs)}
    first, *rest = verdict(comparison)
    header = (
        f'<header><p class="run">{words(", ".join(comparison.runs))}</p><h1>{words(first)}</h1>'
        f"{''.join(f'<p>{words(line)}</p>' for line in rest)}</header>"
    )
    errors = [(name, _errors(key, colors)) for name, key in comparison.keys.items()]
    usable = [(name, _usable(key, colors)) for name, key in comparison.keys.items()]
    returns = [(who, _numbers(c, colors)) for who, c in comparison.returns.items()]
    legend = [(color, run) for run, color in colors.items()]
    persistence = ("baseline", "persistence")
    body = [
        header,
        section(
            "Open-loop error",
            figure("Median error by horizon, in the unit of the tables.", errors,
                   [*legend, persistence]) if errors else "",
        ),
        section(
            "How far ahead",
            figure("Steps until persistence is nearer, median over starts, with its interval.",
                   usable, legend) if usable else "",
        ),
        section(
            "Returns",
            figure("Mean return, with its interval.", returns, legend) if returns else "",
        ),
        section("In numbers", "".join(map(table, comparison_sheets(comparison)))),
        "".join(f"<p class=note>{words(note)}</p>" for note in (NOTE, *comparison.notes)),
    ]  # fmt: skip
    return document(" and ".join(comparison.runs), "".join(body))


def _errors(key: ComparedKey, colors: dict[str, str]) -> str:
    steps = np.arange(1, len(key.persistence) + 1)
    _, top = extent(*key.curves.values(), key.persistence)
    panel = Panel(
        (min(1, steps[-1] - 1), steps[-1]),
        (0, top),
        label="error by horizon",
        x_title="steps ahead",
    )
    panel.line(steps, key.persistence, "baseline dashed")
    for run, curve in key.curves.items():
        panel.line(steps, curve, colors[run])
    return panel.svg()


def _usable(key: ComparedKey, colors: dict[str, str]) -> str:
    numbers = {run: usable.percentiles[50] for run, usable in key.usable.items()}
    return _bars({run: (n.low, n.high, n.value) for run, n in numbers.items()}, colors, "steps")


def _numbers(compared: Compared, colors: dict[str, str]) -> str:
    numbers = compared.numbers
    return _bars({run: (n.low, n.high, n.value) for run, n in numbers.items()}, colors, "return")


def _bars(ends: dict[str, tuple[float, float, float]], colors: dict[str, str], title: str) -> str:
    """A row a run: its value and interval."""
    low, high = extent(np.array(list(ends.values())))
    panel = Panel(
        (low, high),
        (-0.5, len(ends) - 0.5),
        label=f"{title} of each run",
        x_title=title,
        height=70 + 26 * len(ends),
        left=12,
        y_ticks=False,
    )
    for row, (run, (least, most, value)) in enumerate(ends.items()):
        panel.bar(least, most, value, len(ends) - 1 - row, colors[run])
    return panel.svg()
