"""Several runs side by side in words: tables, and who wins where."""

from __future__ import annotations

from worldmodel.evaluation.comparison import Comparison, Measure
from worldmodel.evaluation.result_table import Cell, ResultTable, span


def comparison_tables(comparison: Comparison, of: str = "") -> list[ResultTable]:
    """A table a measure; `of` which checkpoints is added to their titles."""
    made = [_sheet(measure, comparison.runs, of) for measure in comparison.measures]
    if comparison.last is not None:
        made += comparison_tables(comparison.last, ", last checkpoints")
    return made


def _sheet(measure: Measure, runs: list[str], of: str) -> ResultTable:
    judged = [run for run in runs if any(run in c.numbers for c in measure.rows.values())]
    leads = any(compared.lead is not None for compared in measure.rows.values())

    def cells(row: str) -> list[Cell]:
        numbers, lead = measure.rows[row]
        found = [row, *(numbers.get(run, "") for run in judged)]
        found += [measure.baseline[row]] if measure.baseline else []
        return found + ([] if not leads else lead.cells() if lead is not None else ["", ""])

    header = [measure.of, *judged, *(["persistence"] if measure.baseline else [])]
    header += ["best", "ahead of the next by"] if leads else []
    hidden_in_terminal = ("persistence",) if measure.baseline else ()
    return ResultTable(
        f"{measure.title}{of}", header, [cells(row) for row in measure.rows], hidden_in_terminal
    )


def summarize(comparison: Comparison) -> list[str]:
    """Who wins where, in plain sentences."""
    said = [
        _by_horizon(measure) if measure.by_horizon else _by_row(measure)
        for measure in comparison.measures
        if any(compared.lead is not None for compared in measure.rows.values())
    ]
    if comparison.last is not None:
        said += [f"Last checkpoints: {line}" for line in summarize(comparison.last)]
    return said or ["There was nothing to compare."]


def how(comparison: Comparison) -> str:
    """What the numbers are, and when a run is said to be ahead."""
    return (
        "All runs are judged at the same starts of the same episodes, and act in the real "
        "environment from the same seeds. By how much a run is ahead of the next one is a share of "
        "the next one's number where less is better, else the difference; it is clear where the "
        "interval, with whole episodes drawn for both, does not hold 0. Brackets hold the "
        f"{100 * comparison.confidence:g} % interval. This tells these checkpoints apart, not the "
        "methods that made them: for that, train several seeds of each (python -m "
        "worldmodel.aggregate)."
    )


def _by_horizon(measure: Measure) -> str:
    leads = {row: c.lead for row, c in measure.rows.items() if c.lead is not None}
    clear = {row: lead.best for row, lead in leads.items() if lead.is_clear}
    ahead = {run: [int(r) for r in clear if clear[r] == run] for run in clear.values()}
    judged = [int(row) for row in leads]
    parts = [f"{run} is ahead at {span(horizons, judged)}" for run, horizons in ahead.items()]
    level = [int(row) for row in leads if row not in clear]
    parts += [f"none is clearly ahead at {span(level, judged)}"] if level else []
    return f"{measure.subject}: {'; '.join(parts)}."


def _by_row(measure: Measure) -> str:
    """Of returns: a row is who acts."""
    leads = {row: c.lead for row, c in measure.rows.items() if c.lead is not None}
    parts = [
        f"{lead.best}'s {who} returns {'' if lead.is_clear else 'not clearly '}more than "
        f"{lead.runner_up}'s, by {lead.margin.brief} over the same {lead.margin.counted}"
        for who, lead in leads.items()
    ]
    return f"{measure.subject}: {'; '.join(parts)}."
