"""What an evaluation found as tables: Markdown, and for the terminal."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Group, RenderableType
from rich.text import Text

from worldmodel.evaluation import ranking
from worldmodel.evaluation.free_run_tables import free_run_tables
from worldmodel.evaluation.prediction_tables import prediction_tables
from worldmodel.evaluation.result_table import ResultTable, in_steps
from worldmodel.evaluation.results import AGENTS, Results, checkpoint, where_told
from worldmodel.evaluation.summary import summarize
from worldmodel.evaluation.uncertainty import Uncertainty

ERRORS_NOTE = (
    "Errors are medians over starts; skill is 1 - median error / median error of persistence (the "
    "last seen observation repeated); climatology is the training mean."
)
UNCERTAINTY_NOTE = (
    "Uncertainty: each measure is summed over the steps; the error is the norm over all dimensions "
    "and the reward, in training standard deviations. Sparsification: 0 is as good as the error "
    "itself at telling which predictions to leave out, 1 as good as chance."
)

CALIBRATION_NOTE = (
    "Calibration is of sampled futures, by means over starts. CRPS and energy score: lower is "
    "better. Spread / skill: 1 where the spread is right, less where the model is too sure. The "
    "last columns: how often the truth is inside an interval that should hold that share. Noise "
    "that only the observation has, and a model trained by squared error does not tell, is missing "
    "from its spread."
)
USABLE_NOTE = (
    "A start is usable until the first step at which the error is larger than persistence's."
)


def tables(results: Results) -> list[ResultTable]:
    """The numbers with n and interval: of prediction, free runs, returns, and an ensemble's
    uncertainty.
    """
    made = prediction_tables(results.prediction)
    made += [s for key, run in results.free_run.items() for s in free_run_tables(key, run)]
    made += [returns_sheet(results)] if results.returns else []
    made += [] if results.decision is None else ranking.tables(results.decision)
    if results.last is not None and results.last.decision is not results.decision:
        of_last = ranking.tables(results.last.decision)
        made += [replace(sheet, title=f"{sheet.title}, last checkpoint") for sheet in of_last]
    return made + ([] if results.uncertainty is None else uncertainty_sheets(results.uncertainty))


def returns_sheet(results: Results) -> ResultTable:
    environment = results.provenance.environment
    where = f" in the real {environment}" if environment else ""
    named = dict(results.returns)
    if results.last is not None:
        mine = {f"{n}, last checkpoint": r for n, r in results.last.returns.items() if n in AGENTS}
        named = mine | named
    more = {"success": "success", "normalized": "normalised"}
    told = {n: title for n, title in more.items() if where_told(results, n)}
    rows = [[name, r.mean, *(getattr(r, n) or "" for n in told)] for name, r in named.items()]
    header = ["agent", "return", *told.values()]
    return ResultTable(f"Mean return of an episode{where}", header, rows)


def uncertainty_sheets(uncertainty: Uncertainty) -> list[ResultTable]:
    """A table a horizon: what each measure of uncertainty says of the error there."""
    header = ["measure", "rank correlation", "linear correlation", "sparsification"]

    def sheet(steps: int) -> ResultTable:
        found = {name: by_steps[steps] for name, by_steps in uncertainty.measures.items()}
        rows = [
            [name.replace("_", " "), a.spearman, a.pearson, a.ause] for name, a in found.items()
        ]
        return ResultTable(f"Uncertainty beside the error after {in_steps([steps])}", header, rows)

    return [sheet(steps) for steps in uncertainty.steps]


def markdown(results: Results) -> str:
    """results.md."""
    source = results.provenance
    lines = [f"# {source.run or 'world model'}: {checkpoint(source)}", "", *summarize(results), ""]
    for sheet in tables(results):
        lines += [sheet.markdown(), ""]
    lines += [ranking.policies_sheet(results.decision).markdown(), ""] if results.decision else []
    lines += [interval_note(results), *results.notes, ""]
    if results.uncertainty is not None:
        lines += [UNCERTAINTY_NOTE, ""]
    if results.spectrum is not None:
        lines += ["## Latent spectrum", "", str(results.spectrum), ""]
    return "\n".join(lines)


def render(results: Results) -> RenderableType:
    """For a terminal, 100 columns wide or less: the verdict and the tables, narrow ones."""
    shown = [sheet.to_rich() for sheet in tables(results)]
    return Group(*map(Text, summarize(results)), *shown, *map(Text, results.notes))


def interval_note(results: Results) -> str:
    keys = results.prediction.observations.values()
    parts = [
        ERRORS_NOTE if keys else "",
        USABLE_NOTE if any(judged.usable for judged in keys) else "",
        CALIBRATION_NOTE if any(judged.calibration for judged in keys) else "",
        f"Brackets hold the {100 * results.confidence:g} % interval.",
    ]
    return " ".join(filter(None, parts))
