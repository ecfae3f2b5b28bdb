"""What an evaluation found, in plain sentences."""

from __future__ import annotations

import math

from worldmodel.evaluation import ranking
from worldmodel.evaluation.free_run_tables import on_free_run
from worldmodel.evaluation.prediction import HorizonMetrics, ObservationPrediction
from worldmodel.evaluation.result_table import in_steps, listed, span
from worldmodel.evaluation.results import AGENTS, Results, checkpoint
from worldmodel.evaluation.statistics import Estimate, finite_or_none


def summarize(results: Results) -> list[str]:
    """The verdict in plain sentences: of each observation how good, how far ahead and how sure; of
    each who acts; and of the last checkpoint beside the best.
    """
    keys = results.prediction.observations.items()
    said = [line for key, judged in keys for line in _on_key(key, judged)]
    said += [on_free_run(key, run) for key, run in results.free_run.items()]
    said += [_on_return(results, who) for who in AGENTS if who in results.returns]
    said += [] if results.decision is None else [ranking.sentence(results.decision)]
    said += [_on_last(results)] if results.last is not None else []
    return said or ["There was neither a prediction nor a return to judge."]


def _on_key(key: str, judged: ObservationPrediction) -> list[str]:
    trust = _on_trust(judged)
    return [_on_prediction(key, judged), *([trust] if trust else [])]


def _on_trust(judged: ObservationPrediction) -> str:
    """How far ahead it is usable, and whether it knows where it is wrong."""
    usable, said = judged.usable, ""
    if usable is not None:
        half, few = (usable.percentiles[p] for p in (50, 5))
        said = (
            f"For half of the {half.counted} persistence is no nearer before step {_step(half)}, "
            f"for 95 % before step {_step(few)}."
        )
    if judged.calibration:
        sure = {h: _sure(c.spread_skill_ratio) for h, c in judged.calibration.items()}
        said += f" Its sampled futures are {_by_horizon(sure)}."
    return said.strip()


def _step(number: Estimate) -> str:
    if math.isnan(number.low):
        return f"{number.value:.0f}"
    return f"{number.value:.0f} [{number.low:.0f}, {number.high:.0f}]"


def _by_horizon(verdicts: dict[int, str]) -> str:
    """`good at 1 to 25 steps and bad at 50 steps`."""
    horizons = list(verdicts)
    groups = {v: [h for h in horizons if verdicts[h] == v] for v in verdicts.values()}
    return listed([f"{v} at {span(group, horizons)}" for v, group in groups.items()])


def _sure(spread_skill_ratio: Estimate) -> str:
    if spread_skill_ratio.high < 1:
        return "too sure"
    return "too wide" if spread_skill_ratio.low > 1 else "about as wide as they should be"


def _on_last(results: Results) -> str:
    """The best of several checkpoints is best in part by luck: the last is told beside it."""
    last, skills = results.last, []
    if checkpoint(last.provenance) == checkpoint(results.provenance):
        return "This best checkpoint is also the last one."
    for key, judged in last.prediction.observations.items():
        longest = max(judged.horizons)
        skills.append(f"skill {judged.horizons[longest].skill} of {key} at {in_steps([longest])}")
    returns = [
        f"return {last.returns[who].mean} of the {who}" for who in AGENTS if who in last.returns
    ]
    ranks = [] if last.decision is None else [ranking.in_short(last.decision)]
    told = skills + returns + ranks
    found = f": {listed(told)}" if told else ""
    return f"The last checkpoint ({checkpoint(last.provenance)}) beside this best one{found}."


def _on_prediction(key: str, judged: ObservationPrediction) -> str:
    verdicts = {h: _verdict(n) for h, n in judged.horizons.items()}
    longest = max(judged.horizons)
    skill = judged.horizons[longest].skill
    # Where nothing ever moves persistence has no error, and the skill no finite value.
    known = finite_or_none(skill.value) is not None
    size = f" (skill over persistence at {in_steps([longest])}: {skill})" if known else ""
    return f"Open-loop prediction of {key} is {_by_horizon(verdicts)}{size}."


def _verdict(numbers: HorizonMetrics) -> str:
    """Persistence by the interval of the skill; then climatology, where there is one."""
    if not numbers.skill.low > 0:
        return "worse than persistence" if numbers.skill.high < 0 else "no better than persistence"
    climatology = numbers.climatology
    if climatology is not None and not numbers.error.high < climatology.value:
        return "better than persistence but not clearly than the training mean"
    return "better than persistence" + (" and the training mean" if climatology else "")


def _on_return(results: Results, who: str) -> str:
    mean = results.returns[who].mean
    others = {n: results.returns[n].mean for n in ("dataset", "random") if n in results.returns}
    named = {"dataset": "the dataset's mean", "random": "a random policy"}
    parts = [f"{_compared(mean, o)} {named[n]} ({o.brief})" for n, o in others.items()]
    verdict = f", {listed(parts)}" if parts else ""
    where = (
        f"In the real {results.provenance.environment}" if results.provenance.environment else ""
    )
    return f"{where} the {who} returns {mean.brief} over {mean.counted}{verdict}.".strip()


def _compared(mean: Estimate, other: Estimate) -> str:
    """By whether the intervals overlap, which is stricter than a test of the difference."""
    if mean.low > other.high:
        return "above"
    return "below" if mean.high < other.low else "not clearly different from"
