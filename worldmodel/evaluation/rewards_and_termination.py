"""What imagined futures are for: the rewards they promise, and whether the episode ends in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.evaluation.correlation import ranks
from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.sampled_rollouts import OpenLoopEvaluator
from worldmodel.evaluation.starts import PredictionStarts, starts_before_termination
from worldmodel.evaluation.statistics import Bootstrap, Estimate, Statistic, means, median, skill

LIKELY = 0.5  # from this probability on, an end is foretold


@dataclass(frozen=True)
class RewardMetrics:
    """Median absolute errors at one horizon, in training standard deviations of the reward: of the
    reward of that step, and of the undiscounted return up to it; beside them the training mean's.
    """

    error: Estimate
    climatology: Estimate
    skill: Estimate
    return_error: Estimate
    return_climatology: Estimate
    return_skill: Estimate

    def to_json(self) -> dict[str, Any]:
        return {name: number.to_json() for name, number in vars(self).items()}


@dataclass(frozen=True)
class TerminationMetrics:
    """At one horizon, of whether the episode has been terminated within so many steps: F1 of those
    foretold with a probability of one half or more; area under the ROC curve, 0.5 being chance; and
    the share of starts that did end.
    """

    f1: Estimate
    auc: Estimate
    base_rate: Estimate

    def to_json(self) -> dict[str, Any]:
        return {name: number.to_json() for name, number in vars(self).items()}


def reward_errors(
    expected: np.ndarray, held_out: Trajectories, spec: DataSpec, starts: PredictionStarts
) -> tuple[np.ndarray, np.ndarray]:
    """Absolute errors (2, N, H), of the model's expectation (N, H) and of the training mean: of the
    reward at each step and of the return up to it. NaN past an episode's end.
    """
    mean, std = spec.reward_mean_std
    ahead = np.arange(expected.shape[1])
    rows = starts.rows[:, None] + np.minimum(ahead, starts.remaining_steps[:, None] - 1)
    truth = np.where(
        ahead < starts.remaining_steps[:, None], held_out.rewards[rows].astype(np.float64), np.nan
    )
    off = (np.stack([expected.astype(np.float64), np.full(truth.shape, mean)]) - truth) / std
    return np.abs(off), np.abs(np.cumsum(off, -1))


def reward_metrics(
    expected: np.ndarray,
    held_out: Trajectories,
    spec: DataSpec,
    starts: PredictionStarts,
    horizons: list[int],
    bootstrap: Bootstrap,
) -> dict[int, RewardMetrics]:
    """From what the model expects each step to earn, (N, H)."""
    single, summed = reward_errors(expected, held_out, spec, starts)

    def at(horizon: int) -> RewardMetrics:
        there = starts.remaining_steps >= horizon
        episodes = starts.episodes[there]
        over = f"over {there.sum()} starts in {len(np.unique(episodes))} held-out episodes"

        def judged(errors: np.ndarray) -> list[Estimate]:
            ours, mean = errors[:, there, horizon - 1]
            better = "1 - median error / median error of the training mean,"
            return [
                bootstrap.clustered(median(ours), episodes, f"median {over}"),
                bootstrap.clustered(median(mean), episodes, f"median {over}"),
                bootstrap.clustered(skill(ours, mean), episodes, f"{better} {over}"),
            ]

        return RewardMetrics(*judged(single), *judged(summed))

    return {h: at(h) for h in horizons}


class TerminationPredictions(NamedTuple):
    """At one horizon, of M starts: how probable an end within so many steps was said to be, whether
    there was one, and in which episode.
    """

    probability: np.ndarray
    happened: np.ndarray
    episodes: np.ndarray


def predict_terminations(
    judge: OpenLoopEvaluator, ended: np.ndarray, held_out: Trajectories, horizons: list[int]
) -> dict[int, TerminationPredictions]:
    """From the probability (N, H) of an end within so many steps of the judge's starts. Further
    starts, shortly before ends, are added: how many ended is so by choice, and F1 depends on it.

    A horizon at which all or none of the starts ended is left out.
    """
    near = starts_before_termination(held_out, judge.options.context, horizons)
    probability, all_starts = ended, [judge.starts]
    if near is not None:
        probability, all_starts = (
            np.concatenate([ended, judge.termination_probability(near)]),
            [judge.starts, near],
        )
    left, episodes = (
        np.concatenate([getattr(s, x) for s in all_starts]) for x in ("remaining_steps", "episodes")
    )
    over_at = held_out.terminated[episodes]  # a time-out tells nothing of what came after it
    found = {}
    for h in horizons:
        happened = over_at & (left <= h)
        known = happened | (left >= h)
        p, y, e = probability[known, h - 1], happened[known], episodes[known]
        if y.any() and not y.all():
            found[h] = TerminationPredictions(p, y, e)
    return found


def termination_metrics(
    foretold: dict[int, TerminationPredictions], bootstrap: Bootstrap
) -> dict[int, TerminationMetrics]:
    def at(horizon: int) -> TerminationMetrics:
        p, y, e = foretold[horizon]
        over = f"over {len(y)} starts, of which {y.sum()} ended within {horizon} steps"
        return TerminationMetrics(
            bootstrap.clustered(f1(p >= LIKELY, y), e, f"F1 {over}"),
            bootstrap.clustered(area_under_curve(p, y), e, f"area under the ROC curve {over}"),
            bootstrap.clustered(means(y), e, f"share that ended, {over}"),
        )

    return {h: at(h) for h in foretold}


def f1(foretold: np.ndarray, happened: np.ndarray) -> Statistic:
    """2 TP / (2 TP + FP + FN) of N cases; 0 where nothing was foretold."""
    hits = 2.0 * (foretold & happened)
    named = foretold.astype(np.float64) + happened

    def statistic(counts: np.ndarray) -> np.ndarray:
        total = counts @ named
        return np.where(total > 0, counts @ hits / np.maximum(total, 1), np.nan)

    return statistic


def area_under_curve(score: np.ndarray, happened: np.ndarray) -> Statistic:
    """How often one of N cases that happened has a higher score than one that did not, ties counted
    half. Not a number in a draw that holds only one kind.
    """
    ranks_of, yes = ranks(score), happened.astype(np.float64)

    def statistic(counts: np.ndarray) -> np.ndarray:
        positive = counts @ yes
        negative = counts.sum(1) - positive
        above = (counts * ranks_of(counts)) @ yes - positive * (positive + 1) / 2
        pairs = positive * negative
        return np.where(pairs > 0, above / np.maximum(pairs, 1), np.nan)

    return statistic


def rewards_sheet(rewards: dict[int, RewardMetrics]) -> ResultTable:
    header = ["steps", "reward error", "skill", "return error", "return skill"]
    rows = [[str(h), r.error, r.skill, r.return_error, r.return_skill] for h, r in rewards.items()]
    title = "Open-loop error of the reward and of the return so far, in standard deviations of it"
    return ResultTable(title, header, rows, ("reward error",))


def ends_sheet(ends: dict[int, TerminationMetrics]) -> ResultTable:
    rows = [[str(h), e.f1, e.auc, e.base_rate] for h, e in ends.items()]
    return ResultTable("Terminations foretold", ["within steps", "F1", "AUC", "ended"], rows)
