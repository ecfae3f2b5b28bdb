"""What an evaluation found: as JSON, as Markdown, for the terminal, and in two sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from worldmodel.evaluation import ranking
from worldmodel.evaluation.aggregates import SEEDS, note_on_seeds
from worldmodel.evaluation.decision import Decision
from worldmodel.evaluation.prediction import HorizonNumbers, KeyPrediction, Prediction
from worldmodel.evaluation.prediction_sheets import prediction_sheets
from worldmodel.evaluation.returns import Episodes
from worldmodel.evaluation.sheets import Sheet, in_steps, listed
from worldmodel.evaluation.spectrum import Spectrum
from worldmodel.evaluation.statistics import Number, finite, shown
from worldmodel.evaluation.uncertainty import Uncertainty
from worldmodel.references import Reference

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

ACTING = ("policy", "planner")  # with the model, in the real environment


@dataclass(frozen=True)
class Return:
    """The mean return of one who acts, its interval over `units`, and the returns (episodes,).

    played: the episodes in full, those of each training seed; none of the logs
    success: the rate of what the environment calls success, where it tells
    normalized: the mean on a scale where a reference's pair is 0 and 100
    """

    mean: Number
    episodes: np.ndarray
    units: str = "episodes"
    played: Sequence[Episodes] = ()
    success: Number | None = None
    normalized: Number | None = None


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
class Scale:
    """What normalised scores are counted by, and what is to be said of it."""

    reference: Reference
    note: str


@dataclass(frozen=True)
class Results:
    """A whole evaluation. `returns` holds those of policy, planner, logs and random that could be
    had; `spectrum` is that of a linear latent, `uncertainty` that of an ensemble, `decision` how
    the model ranks policies and plans; `scale` is there where returns are normalised; `last` what
    was found of the last checkpoint where these numbers are those of the best.
    """

    prediction: Prediction
    returns: dict[str, Return]
    confidence: float
    provenance: Provenance
    spectrum: Spectrum | None = None
    uncertainty: Uncertainty | None = None
    decision: Decision | None = None
    scale: Scale | None = None
    last: Results | None = None

    @property
    def notes(self) -> list[str]:
        """What one has to know beside the numbers."""
        said = [note_on_seeds(_seeds(self))] if self.provenance.stage else []
        said += [] if self.scale is None else [self.scale.note]
        said += [] if self.decision is None else ranking.notes(self.decision)
        return [*self.prediction.notes, *filter(None, said)]


def _seeds(results: Results) -> int:
    """How many were trained."""
    return max((r.mean.n for r in results.returns.values() if r.units == SEEDS), default=1)


# -------------------------------------------------------------------------------------------- JSON


def to_json(results: Results) -> dict[str, Any]:
    """Plain JSON: `prediction.KEY.HORIZON.{error, ...}` and `returns.{policy, planner, ...}`.

    `curves` holds the median error at every horizon; `episodes` single returns, to compare runs on
    the same seeds; `spectrum` the modes of a linear latent, else null; `uncertainty`, of an
    ensemble, MEASURE.STEPS.{spearman, pearson, ause}, else null. `calibration.KEY.HORIZON` is of
    sampled futures; `usable_horizon.KEY`, `reward.HORIZON` and `terminal.HORIZON` are of the same
    starts; `last` has step, prediction and returns of the last checkpoint beside the best.
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
        "calibration": {
            key: {str(h): c.to_json() for h, c in judged.calibration.items()}
            for key, judged in results.prediction.keys.items()
        },
        "usable_horizon": {
            key: judged.usable.to_json()
            for key, judged in results.prediction.keys.items()
            if judged.usable is not None
        },
        "reward": {str(h): r.to_json() for h, r in results.prediction.rewards.items()},
        "terminal": {str(h): e.to_json() for h, e in results.prediction.ends.items()},
        "returns": {name: r.mean.to_json() for name, r in results.returns.items()},
        "success": _where_told(results, "success"),
        "normalized": _where_told(results, "normalized"),
        "reference": None if results.scale is None else results.scale.reference.to_json(),
        "decision": None if results.decision is None else results.decision.to_json(),
        "last": None if results.last is None else _of_last(results.last),
        "units": {key: judged.unit for key, judged in results.prediction.keys.items()},
        "notes": results.notes,
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


def _where_told(results: Results, name: str) -> dict[str, Any]:
    """Of everyone who acts, where there is such a number."""
    found = {who: getattr(r, name) for who, r in results.returns.items()}
    return {who: number.to_json() for who, number in found.items() if number is not None}


def episodes(results: Results) -> list[dict[str, Any]]:
    """Plain JSON, a row for every episode played: who acted, of which training seed (0, 1, ...),
    the episode's seed, return, length, how it ended, and success where the environment tells.
    """
    return [
        {"who": who, "training_seed": seed} | row
        for who, earned in results.returns.items()
        for seed, played in enumerate(earned.played)
        for row in played.rows()
    ]


def _numbers(numbers: HorizonNumbers) -> dict[str, Any]:
    lower, upper = numbers.quartiles or (None, None)
    found = {
        "error": numbers.error,
        "error_lower_quartile": lower,
        "error_upper_quartile": upper,
        "persistence": numbers.persistence,
        "skill": numbers.skill,
        "climatology": numbers.climatology,
        "skill_climatology": numbers.skill_climatology,
        **numbers.images,
    }
    single = {name: number.to_json() for name, number in found.items() if number is not None}
    each = [number.to_json() for number in numbers.dimensions]
    return single | ({"dimensions": each} if each else {})


def _of_last(last: Results) -> dict[str, Any]:
    whole = to_json(last)
    return {name: whole[name] for name in ("stage", "step", "prediction", "returns")}


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


def sheets(results: Results) -> list[Sheet]:
    """The numbers with n and interval: of prediction, returns, and an ensemble's uncertainty."""
    made = prediction_sheets(results.prediction)
    made += [returns_sheet(results)] if results.returns else []
    made += [] if results.decision is None else ranking.sheets(results.decision)
    return made + ([] if results.uncertainty is None else uncertainty_sheets(results.uncertainty))


def returns_sheet(results: Results) -> Sheet:
    environment = results.provenance.environment
    where = f" in the real {environment}" if environment else ""
    named = dict(results.returns)
    if results.last is not None:
        mine = {f"{n}, last checkpoint": r for n, r in results.last.returns.items() if n in ACTING}
        named = mine | named
    more = {"success": "success", "normalized": "normalised"}
    told = {n: title for n, title in more.items() if _where_told(results, n)}
    rows = [
        [
            name,
            str(r.mean),
            *["" if (x := getattr(r, n)) is None else str(x) for n in told],
            str(r.mean.n) if r.units == "episodes" else f"{r.mean.n} {r.units}",
        ]
        for name, r in named.items()
    ]
    header = ["who", "return", *told.values(), "episodes"]
    return Sheet(f"Mean return of an episode{where}", header, rows)


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
        title = f"Uncertainty beside the error after {in_steps([steps])}, {count:,} starts"
        return Sheet(title, header, rows)

    return [sheet(steps) for steps in uncertainty.steps]


def markdown(results: Results) -> str:
    """results.md."""
    source = results.provenance
    lines = [f"# {source.run or 'world model'}: {checkpoint(source)}", "", *headline(results), ""]
    for sheet in sheets(results):
        lines += [sheet.markdown(), ""]
    lines += [ranking.policies_sheet(results.decision).markdown(), ""] if results.decision else []
    lines += [interval_note(results), *results.notes, ""]
    if results.uncertainty is not None:
        lines += [UNCERTAINTY_NOTE, ""]
    if results.spectrum is not None:
        lines += ["## Latent spectrum", "", str(results.spectrum), ""]
    return "\n".join(lines)


def checkpoint(source: Provenance) -> str:
    return f"{source.stage}, step {source.step:,}" if source.stage else "not from a run"


def render(results: Results) -> RenderableType:
    """For a terminal, 100 columns wide or less: the verdict and the tables, narrow ones."""
    tables = [sheet.for_terminal() for sheet in sheets(results)]
    return Group(*map(Text, headline(results)), *tables, *map(Text, results.notes))


def interval_note(results: Results) -> str:
    keys = results.prediction.keys.values()
    parts = [
        ERRORS_NOTE if keys else "",
        USABLE_NOTE if any(judged.usable for judged in keys) else "",
        CALIBRATION_NOTE if any(judged.calibration for judged in keys) else "",
        f"Brackets hold the {100 * results.confidence:g} % interval.",
    ]
    return " ".join(filter(None, parts))


# ---------------------------------------------------------------------------------------- headline


def headline(results: Results) -> list[str]:
    """The verdict in plain sentences: of each observation how good, how far ahead and how sure; of
    each who acts; and of the last checkpoint beside the best.
    """
    keys = results.prediction.keys.items()
    said = [f"{_on_prediction(key, judged)}{_on_trust(judged)}" for key, judged in keys]
    said += [_on_return(results, who) for who in ACTING if who in results.returns]
    said += [] if results.decision is None else [ranking.sentence(results.decision)]
    said += [_on_last(results)] if results.last is not None else []
    return said or ["There was neither a prediction nor a return to judge."]


def _on_trust(judged: KeyPrediction) -> str:
    """How far ahead it is usable, and whether it knows where it is wrong."""
    usable, said = judged.usable, ""
    if usable is not None:
        steps = {p: number.value for p, number in usable.percentiles.items()}
        more = {p: "more than " if value == usable.last else "" for p, value in steps.items()}
        half, most = (f"{more[p]}{in_steps([int(steps[p])])}" for p in (50, 5))
        said = f" Half of the starts are usable for {half}, 95 % for {most}."
    if judged.calibration:
        sure = {h: _sure(c.spread_skill) for h, c in judged.calibration.items()}
        groups = {v: [h for h in sure if sure[h] == v] for v in sure.values()}
        parts = [f"{verdict} at {in_steps(hs)}" for verdict, hs in groups.items()]
        said += f" Its sampled futures are {listed(parts)}."
    return said


def _sure(spread_skill: Number) -> str:
    if spread_skill.high < 1:
        return "too sure"
    return "too wide" if spread_skill.low > 1 else "about as wide as they should be"


def _on_last(results: Results) -> str:
    """The best of several checkpoints is best in part by luck: the last is told beside it."""
    last, skills = results.last, []
    if checkpoint(last.provenance) == checkpoint(results.provenance):
        return "This best checkpoint is also the last one."
    for key, judged in last.prediction.keys.items():
        longest = max(judged.horizons)
        skills.append(f"skill {judged.horizons[longest].skill} of {key} at {in_steps([longest])}")
    returns = [
        f"return {last.returns[who].mean} of the {who}" for who in ACTING if who in last.returns
    ]
    found = f": {listed(skills + returns)}" if skills + returns else ""
    return f"The last checkpoint ({checkpoint(last.provenance)}) beside this best one{found}."


def _on_prediction(key: str, judged: KeyPrediction) -> str:
    verdicts = {h: _verdict(n) for h, n in judged.horizons.items()}
    groups = {v: [h for h in verdicts if verdicts[h] == v] for v in verdicts.values()}
    parts = [f"{verdict} at {in_steps(hs)}" for verdict, hs in groups.items()]
    longest = max(judged.horizons)
    skill = judged.horizons[longest].skill
    # Where nothing ever moves persistence has no error, and the skill no finite value.
    known = finite(skill.value) is not None
    size = f" (skill over persistence at {in_steps([longest])}: {skill})" if known else ""
    return f"Open-loop prediction of {key} is {listed(parts)}{size}."


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
    verdict = f", {listed(parts)}" if parts else ""
    where = (
        f"In the real {results.provenance.environment}" if results.provenance.environment else ""
    )
    return f"{where} the {who} returns {mean} over {mean.n} {units}{verdict}.".strip()


def _compared(mean: Number, other: Number) -> str:
    """By whether the intervals overlap, which is stricter than a test of the difference."""
    if mean.low > other.high:
        return "above"
    return "below" if mean.high < other.low else "not clearly different from"
