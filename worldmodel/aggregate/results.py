"""Methods over several tasks and training seeds: aggregates and probabilities of improvement
(Agarwal et al., NeurIPS 2021, arXiv 2108.13264). Imports no JAX.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from worldmodel.aggregate.methods import ScoreTable
from worldmodel.aggregate.statistics import (
    aggregate,
    performance_profile,
    probability_of_improvement,
)
from worldmodel.evaluation.result_table import ResultTable, listed
from worldmodel.evaluation.statistics import SEEDS, Bootstrap, Estimate, note_on_seeds

TARGET = 100.0  # of normalized scores: what the better return of the reference scores
THRESHOLDS = 51  # of a performance profile
EVEN = 0.5  # probability of improvement of two methods that are alike
AGGREGATES = {
    "iqm": "IQM",
    "mean": "mean",
    "median": "median",
    "optimality_gap": "optimality gap",
}


@dataclass(frozen=True)
class AggregateResults:
    """What the scores of several methods come to; methods are in the order of their IQM.

    numbers: method -> iqm, mean, median and, of normalized scores, optimality_gap
    by_task: method -> the mean over seeds on each task
    improvement: ours -> theirs -> how probable it is that a run of ours beats one of theirs
    profiles: method -> the share of scores above each of `thresholds`
    """

    table: ScoreTable
    numbers: dict[str, dict[str, Estimate]]
    by_task: dict[str, dict[str, Estimate]]
    improvement: dict[str, dict[str, Estimate]]
    thresholds: np.ndarray
    performance_profiles: dict[str, list[Estimate]]
    confidence: float

    @property
    def methods(self) -> list[str]:
        return list(self.numbers)

    @property
    def score(self) -> str:
        return "normalized score" if self.table.normalized else "return"

    @property
    def where(self) -> str:
        tasks = self.table.tasks
        return tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"

    def beaten(self, method: str) -> dict[str, Estimate]:
        """Those over which its probability of improvement is above one half, with the interval."""
        return {other: n for other, n in self.improvement[method].items() if n.low > EVEN}

    def document(self) -> dict[str, Any]:
        """aggregate.json: `methods.METHOD.{iqm, mean, median, optimality_gap, tasks, scores, seeds,
        runs}` with scores (seeds, tasks), `probability_of_improvement.OURS.THEIRS`, and
        `performance_profiles.{thresholds, METHOD}`.
        """
        profiles = {
            method: {end: [getattr(n, end) for n in numbers] for end in ("value", "low", "high")}
            for method, numbers in self.performance_profiles.items()
        }
        return {
            "summary": summarize(self),
            "score": "normalized" if self.table.normalized else "return",
            "group_by": self.table.group_by,
            "tasks": self.table.tasks,
            "confidence": self.confidence,
            "methods": {
                method: numbers
                | {
                    "tasks": self.by_task[method],
                    "scores": self.table.scores[method],
                    "seeds": len(self.table.scores[method]),
                    "runs": self.table.runs.get(method, []),
                }
                for method, numbers in self.numbers.items()
            },
            "probability_of_improvement": self.improvement,
            "performance_profiles": {"thresholds": self.thresholds} | profiles,
            "notes": self.table.notes,
        }


def aggregate_methods(table: ScoreTable, bootstrap: Bootstrap | None = None) -> AggregateResults:
    """All numbers of a table of scores, with intervals over training seeds within tasks."""
    bootstrap = bootstrap or Bootstrap()
    numbers = {m: aggregate(scores, bootstrap, TARGET) for m, scores in table.scores.items()}
    if not table.normalized:  # a return has no target to fall short of
        for found in numbers.values():
            del found["optimality_gap"]
    methods = sorted(numbers, key=lambda method: -numbers[method]["iqm"].value)
    scores = {method: table.scores[method] for method in methods}
    every = np.concatenate([s.ravel() for s in scores.values()])
    thresholds = np.linspace(every.min(), every.max(), THRESHOLDS)
    return AggregateResults(
        table=table,
        numbers={method: numbers[method] for method in methods},
        by_task={
            method: {
                task: bootstrap.mean(own[:, place], SEEDS) for place, task in enumerate(table.tasks)
            }
            for method, own in scores.items()
        },
        improvement=_improvement(scores, bootstrap),
        thresholds=thresholds,
        performance_profiles={
            m: performance_profile(own, thresholds, bootstrap) for m, own in scores.items()
        },
        confidence=bootstrap.confidence,
    )


def _improvement(
    scores: dict[str, np.ndarray], bootstrap: Bootstrap
) -> dict[str, dict[str, Estimate]]:
    """Of every method over every other; of a pair one is what the other leaves of 1, ends too."""
    found: dict[str, dict[str, Estimate]] = {method: {} for method in scores}
    for ours, theirs in itertools.combinations(scores, 2):
        n = probability_of_improvement(scores[ours], scores[theirs], bootstrap)
        found[ours][theirs] = n
        found[theirs][ours] = replace(n, value=1 - n.value, low=1 - n.high, high=1 - n.low)
    return found


def summarize(found: AggregateResults) -> list[str]:
    """Plain sentences: which method is ahead, the interquartile means, and the caveat on seeds."""
    beaten = {method: found.beaten(method) for method in found.methods}
    others = len(found.methods) - 1
    leads = [method for method in found.methods if others and len(beaten[method]) == others]
    sentences = [f"{leads[0]} is ahead of {_over(beaten[leads[0]])}."] if leads else []
    if others and not leads:
        sentences.append(
            "No method is clearly ahead of the other."
            if others == 1
            else "No method is clearly ahead of all others."
        )
    sentences += [
        f"{method} is ahead of {_over(beaten[method])}."
        for method in found.methods
        if beaten[method] and method not in leads
    ]
    means = [f"{method} {numbers['iqm']}" for method, numbers in found.numbers.items()]
    few = note_on_seeds(min(map(len, found.table.scores.values())))
    sentences.append(
        f"Interquartile mean of the {found.score} on {found.where}: {'; '.join(means)}."
    )
    return [*sentences, few] if few else sentences


def _over(beaten: dict[str, Estimate]) -> str:
    return listed(
        [f"{other} (probability of improvement {n.brief})" for other, n in beaten.items()]
    )


def aggregate_tables(found: AggregateResults) -> list[ResultTable]:
    """The aggregates, every method over every other, and the means by task."""
    tasks, first = found.table.tasks, next(iter(found.numbers.values()))
    rows = [[method, *numbers.values()] for method, numbers in found.numbers.items()]
    header = ["method", *(AGGREGATES[name] for name in first)]
    tables = [ResultTable(f"{found.score.capitalize()} on {found.where}", header, rows)]
    if len(found.methods) > 1:
        rows = [
            [ours, *(found.improvement[ours].get(theirs, "") for theirs in found.methods)]
            for ours in found.methods
        ]
        title = "Probability of improvement: a run of the row beats one of the column"
        tables.append(ResultTable(title, ["method", *found.methods], rows))
    if len(tasks) > 1:
        rows = [[task, *(m[task] for m in found.by_task.values())] for task in tasks]
        tables.append(ResultTable(f"Mean {found.score} by task", ["task", *found.methods], rows))
    return tables


def explanation(found: AggregateResults) -> str:
    """What the numbers are, and when a method counts as ahead."""
    sentences = ["IQM: the mean of the middle half of all scores."]
    if found.table.normalized:
        sentences.append(f"Optimality gap: the mean shortfall below {TARGET:g}, lower is better.")
    if len(found.methods) > 1:
        sentences.append(
            "Probability of improvement: how probable it is that a run of one method beats a run "
            "of the other on a task drawn at random, ties counted half; a method is ahead where "
            f"the whole interval is above {EVEN:g}."
        )
    sentences.append(
        f"Brackets hold the {100 * found.confidence:g} % interval of a bootstrap over training "
        "seeds within tasks."
    )
    return " ".join(sentences)
