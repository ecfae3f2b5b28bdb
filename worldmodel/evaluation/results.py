"""What an evaluation found: as JSON, as Markdown, for the terminal, and in two sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worldmodel.evaluation.prediction import HorizonNumbers, KeyPrediction, Prediction
from worldmodel.evaluation.spectrum import Spectrum
from worldmodel.evaluation.statistics import Number, finite, shown
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

ACTING = ("policy", "planner")  # with the model, in the real environment


@dataclass(frozen=True)
class Return:
    """The mean return of one who acts, its interval over `units`, and the returns (episodes,)."""

    mean: Number
    episodes: np.ndarray
    units: str = "episodes"


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from. `split` is the digest of the held-out episodes."""

    run: str = ""
    stage: str = ""
    step: int = 0
    split: str = ""
    command: str = ""
    environment: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """A whole evaluation. `returns` holds those of policy, planner, logs and random that could be
    had; `spectrum` is that of a linear latent, `uncertainty` that of an ensemble.
    """

    prediction: Prediction
    returns: dict[str, Return]
    confidence: float
    provenance: Provenance
    spectrum: Spectrum | None = None
    uncertainty: Uncertainty | None = None


# -------------------------------------------------------------------------------------------- JSON


def to_json(results: Results) -> dict[str, Any]:
    """Plain JSON: `prediction.KEY.HORIZON.{error, ...}` and `returns.{policy, planner, ...}`.

    `curves` holds the median error at every horizon; `episodes` single returns, to compare runs on
    the same seeds; `spectrum` the modes of a linear latent, else null; `uncertainty`, of an
    ensemble, MEASURE.STEPS.{spearman, pearson, ause}, else null.
    """
    source = results.provenance
    return {
        "run": source.run,
        "stage": source.stage,
        "step": source.step,
        "prediction": {
            key: {str(h): _numbers(n) for h, n in judged.horizons.items()}
            for key, judged in results.prediction.keys.items()
        },
        "returns": {name: r.mean.to_json() for name, r in results.returns.items()},
        "units": {key: judged.unit for key, judged in results.prediction.keys.items()},
        "notes": results.prediction.notes,
        "curves": {key: _curves(judged) for key, judged in results.prediction.keys.items()},
        "episodes": {
            name: r.episodes.tolist() for name, r in results.returns.items() if name != "logs"
        },
        "spectrum": None if results.spectrum is None else results.spectrum.to_json(),
        "uncertainty": None if results.uncertainty is None else results.uncertainty.to_json(),
        "environment": source.environment,
        "held_out_sha256": source.split,
        "command": source.command,
        "seconds": source.seconds,
        "software": source.software,
        "config": source.config,
    }


def _numbers(numbers: HorizonNumbers) -> dict[str, Any]:
    found = {
        "error": numbers.error,
        "persistence": numbers.persistence,
        "skill": numbers.skill,
        "climatology": numbers.climatology,
    }
    return {name: number.to_json() for name, number in found.items() if number is not None}


def _curves(judged: KeyPrediction) -> dict[str, Any]:
    curve = judged.curve
    medians = {
        "error": curve.model,
        "persistence": curve.persistence,
        "climatology": curve.climatology,
    }
    return {
        name: [finite(x) for x in quartiles[1]]
        for name, quartiles in medians.items()
        if quartiles is not None
    } | {"n": curve.starts.tolist()}


# ------------------------------------------------------------------------------------------ tables


@dataclass(frozen=True)
class Sheet:
    """A table of words, for any kind of page."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        lines = [self.header, ["---:"] * len(self.header), *self.rows]
        return "\n".join([f"## {self.title}", "", *(f"| {' | '.join(cells)} |" for cells in lines)])


def sheets(results: Results) -> list[Sheet]:
    """The numbers with n and interval: a table an observation, and one of the returns; of an
    ensemble, one a horizon of its uncertainty.
    """
    made = [prediction_sheet(key, judged) for key, judged in results.prediction.keys.items()]
    made += [returns_sheet(results)] if results.returns else []
    return made + ([] if results.uncertainty is None else uncertainty_sheets(results.uncertainty))


def prediction_sheet(key: str, judged: KeyPrediction) -> Sheet:
    climate = any(n.climatology for n in judged.horizons.values())
    header = ["steps", "skill", "error", "persistence", *["climatology"] * climate, "starts (ep.)"]
    rows = [
        [
            str(h),
            str(n.skill),
            str(n.error),
            str(n.persistence),
            *([str(n.climatology)] if climate else []),
            f"{n.error.n} ({n.episodes})",
        ]
        for h, n in judged.horizons.items()
    ]
    return Sheet(f"Open-loop error of {key}, in {judged.unit}", header, rows)


def returns_sheet(results: Results) -> Sheet:
    environment = results.provenance.environment
    where = f" in the real {environment}" if environment else ""
    rows = [
        [name, str(r.mean), str(r.mean.n) if r.units == "episodes" else f"{r.mean.n} {r.units}"]
        for name, r in results.returns.items()
    ]
    return Sheet(f"Mean return of an episode{where}", ["who", "return", "episodes"], rows)


def uncertainty_sheets(uncertainty: Uncertainty) -> list[Sheet]:
    """A table a horizon: what each measure of uncertainty says of the error there."""
    header = ["measure", "rank correlation", "linear correlation", "sparsification"]

    def sheet(steps: int) -> Sheet:
        found = {name: by_steps[steps] for name, by_steps in uncertainty.measures.items()}
        rows = [
            [name.replace("_", " "), str(a.spearman), str(a.pearson), str(a.ause)]
            for name, a in found.items()
        ]
        count = next(iter(found.values())).spearman.n
        title = f"Uncertainty beside the error after {_steps([steps])}, {count:,} starts"
        return Sheet(title, header, rows)

    return [sheet(steps) for steps in uncertainty.steps]


def markdown(results: Results) -> str:
    """results.md."""
    source = results.provenance
    lines = [f"# {source.run or 'world model'}: {checkpoint(source)}", "", *headline(results), ""]
    for sheet in sheets(results):
        lines += [sheet.markdown(), ""]
    lines += [interval_note(results), *results.prediction.notes, ""]
    if results.uncertainty is not None:
        lines += [UNCERTAINTY_NOTE, ""]
    if results.spectrum is not None:
        lines += ["## Latent spectrum", "", str(results.spectrum), ""]
    return "\n".join(lines)


def checkpoint(source: Provenance) -> str:
    return f"{source.stage}, step {source.step:,}" if source.stage else "not from a run"


def render(results: Results) -> RenderableType:
    """For a terminal, 100 columns wide or less: the verdict and the tables, without climatology."""
    tables = [_table(_without(sheet, "climatology")) for sheet in sheets(results)]
    return Group(*map(Text, headline(results)), *tables, *map(Text, results.prediction.notes))


def _without(sheet: Sheet, column: str) -> Sheet:
    kept = [i for i, name in enumerate(sheet.header) if name != column]
    rows = [[row[i] for i in kept] for row in sheet.rows]
    return Sheet(sheet.title, [sheet.header[i] for i in kept], rows)


def _table(sheet: Sheet) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in sheet.header:
        table.add_column(name, justify="right")
    for row in sheet.rows:
        table.add_row(*map(Text, row))
    return Group(Text(f"\n{sheet.title}", "bold"), table)


def interval_note(results: Results) -> str:
    brackets = f"Brackets hold the {100 * results.confidence:g} % interval."
    return f"{ERRORS_NOTE} {brackets}" if results.prediction.keys else brackets


# ---------------------------------------------------------------------------------------- headline


def headline(results: Results) -> list[str]:
    """The verdict in plain sentences, one an observation and one on each who acts."""
    said = [_on_prediction(key, judged) for key, judged in results.prediction.keys.items()]
    said += [_on_return(results, who) for who in ACTING if who in results.returns]
    return said or ["There was neither a prediction nor a return to judge."]


def _on_prediction(key: str, judged: KeyPrediction) -> str:
    verdicts = {h: _verdict(n) for h, n in judged.horizons.items()}
    groups = {v: [h for h in verdicts if verdicts[h] == v] for v in verdicts.values()}
    parts = [f"{verdict} at {_steps(hs)}" for verdict, hs in groups.items()]
    longest = max(judged.horizons)
    skill = judged.horizons[longest].skill
    # Where nothing ever moves persistence has no error, and the skill no finite value.
    known = finite(skill.value) is not None
    size = f" (skill over persistence at {_steps([longest])}: {skill})" if known else ""
    return f"Open-loop prediction of {key} is {_listed(parts)}{size}."


def _verdict(numbers: HorizonNumbers) -> str:
    """Persistence by the interval of the skill; then climatology, where there is one."""
    if not numbers.skill.low > 0:
        return "worse than persistence" if numbers.skill.high < 0 else "no better than persistence"
    climatology = numbers.climatology
    if climatology is not None and not numbers.error.high < climatology.value:
        return "better than persistence but not clearly than the training mean"
    return "better than persistence" + (" and the training mean" if climatology else "")


def _on_return(results: Results, who: str) -> str:
    mean, units = results.returns[who].mean, results.returns[who].units
    others = {n: results.returns[n].mean for n in ("logs", "random") if n in results.returns}
    named = {"logs": "the logs' mean", "random": "a random policy"}
    parts = [f"{_compared(mean, o)} {named[n]} ({shown(o.value)})" for n, o in others.items()]
    verdict = f", {_listed(parts)}" if parts else ""
    where = (
        f"In the real {results.provenance.environment}" if results.provenance.environment else ""
    )
    return f"{where} the {who} returns {mean} over {mean.n} {units}{verdict}.".strip()


def _compared(mean: Number, other: Number) -> str:
    """By whether the intervals overlap, which is stricter than a test of the difference."""
    if mean.low > other.high:
        return "above"
    return "below" if mean.high < other.low else "not clearly different from"


def _steps(horizons: list[int]) -> str:
    return f"{_listed([str(h) for h in horizons])} {'step' if horizons == [1] else 'steps'}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
