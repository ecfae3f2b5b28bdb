"""aggregate.html: methods over several tasks and seeds on one page that opens offline."""

from __future__ import annotations

from worldmodel.aggregate.results import AggregateResults, aggregate_tables, explanation, summarize
from worldmodel.config import MAX_COMPARED_RUNS
from worldmodel.evaluation.figures import Panel, figure, interval_bars
from worldmodel.evaluation.html import document, folded, header, notes, section, table, words
from worldmodel.evaluation.statistics import values_and_ends


def aggregated_page(found: AggregateResults) -> str:
    """The whole HTML page."""
    title = ", ".join(found.methods)
    # The best ones: more than these no colours tell apart.
    colors = {method: f"run-{i}" for i, method in enumerate(found.methods[:MAX_COMPARED_RUNS])}
    body = [
        header(title, f"{found.score} on {', '.join(found.table.tasks)}", summarize(found)),
        section("Scores", _figures(found, colors)),
        section("In numbers", "".join(map(table, aggregate_tables(found)))),
        notes([explanation(found), *found.table.notes]),
        _methods(found),
    ]
    return document(title, "".join(body))


def _figures(found: AggregateResults, colors: dict[str, str]) -> str:
    of = {method: found.numbers[method]["iqm"] for method in colors}
    left_out = len(found.methods) - len(colors)
    return figure(
        "The interquartile mean with its interval, and the performance profile: the share of all "
        "scores above each threshold, with its interval as a band. A curve that lies above another "
        "everywhere belongs to the better method."
        + (f" The {len(colors)} methods with the highest IQM are drawn." if left_out else ""),
        [
            ("Interquartile mean", interval_bars(of, colors, "interquartile means", found.score)),
            ("Performance profile", _profiles(found, colors)),
        ],
        [(color, method) for method, color in colors.items()],
    )


def _profiles(found: AggregateResults, colors: dict[str, str]) -> str:
    panel = Panel(
        (found.thresholds[0], found.thresholds[-1]),
        (0, 1),
        label="share of scores above each threshold",
        x_title=found.score,
        y_title="share of scores above",
        width=400,
        height=250,
    )
    for method, color in colors.items():
        value, low, high = values_and_ends(found.performance_profiles[method])
        panel.band(found.thresholds, low, high, color)
        panel.line(found.thresholds, value, color)
    return panel.svg()


def _methods(found: AggregateResults) -> str:
    """The runs of each method."""
    runs = "".join(
        f"<dt>{words(method)}</dt><dd>{words(', '.join(found.table.runs.get(method, [])))}</dd>"
        for method in found.methods
    )
    return folded("Runs of each method", f"<dl>{runs}</dl>")
