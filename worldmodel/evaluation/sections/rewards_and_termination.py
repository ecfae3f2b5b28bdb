"""Rewards and termination predicted by open-loop rollouts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np

from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.evaluation.correlation import ranks
from worldmodel.evaluation.result_table import ResultTable, table_by_horizon
from worldmodel.evaluation.sampled_rollouts import OpenLoopEvaluator, Reached
from worldmodel.evaluation.section import MORE, Context, Measure, Section
from worldmodel.evaluation.starts import PredictionStarts, starts_before_termination
from worldmodel.evaluation.statistics import (
    Estimate,
    Measured,
    Statistic,
    estimates,
    means,
    median,
    skill,
)

LIKELY = 0.5  # probability from which on a termination counts as predicted


@dataclass(frozen=True)
class RewardMetrics:
    """Median absolute errors at one horizon, in training standard deviations of the reward: of the
    reward of that step, and of the undiscounted return up to it; and those of the training mean.
    """

    error: Estimate
    climatology: Estimate
    skill: Estimate
    return_error: Estimate
    return_climatology: Estimate
    return_skill: Estimate


@dataclass(frozen=True)
class TerminationMetrics:
    """Whether the episode has terminated within so many steps: F1 of terminations predicted with a
    probability of one half or more; area under the ROC curve, 0.5 for chance; and the share of
    starts that did terminate.
    """

    f1: Estimate
    auc: Estimate
    base_rate: Estimate


@register("section", "rewards_and_termination", order=40)
@dataclass(frozen=True)
class RewardsAndTermination(Section):
    """Reward and termination by horizon, as far as the dataset has them."""

    title = "Rewards and termination"
    absent = {"reward": {}, "terminal": {}}
    comparable = needs_dynamics = True

    rewards: dict[int, RewardMetrics] = field(default_factory=dict)
    terminations: dict[int, TerminationMetrics] = field(default_factory=dict)

    @classmethod
    def run(cls, context: Context) -> Self:
        rollouts, held_out, bootstrap = context.open_loop, context.held_out, context.bootstrap
        rewards, terminations, caveats, compared = {}, {}, [], []
        expected = rollouts.metrics.reward
        if expected is None:
            caveats.append("The dataset has no rewards: reward prediction is not evaluated.")
        else:
            errors = reward_errors(expected, held_out, context.spec, rollouts.starts)
            measured = {at.horizon: _rewards(errors, at) for at in rollouts.all_reached}
            rewards = {h: RewardMetrics(**estimates(m, bootstrap)) for h, m in measured.items()}
            compared += _reward_measures(measured)
        if not held_out.terminated.any():
            caveats.append(
                "No held-out episode was terminated: termination prediction is not evaluated."
            )
        else:
            predicted = predict_terminations(rollouts, held_out)
            measured = {h: _terminations(p, h) for h, p in predicted.items()}
            terminations = {
                h: TerminationMetrics(**estimates(m, bootstrap)) for h, m in measured.items()
            }
            compared += _termination_measures(measured)
        return cls(rewards, terminations, caveats=caveats, compared=compared)

    def numbers(self) -> dict[str, Any]:
        return {"reward": self.rewards, "terminal": self.terminations}

    def tables(self) -> list[ResultTable]:
        tables = []
        if self.rewards:
            rows = {
                h: {
                    "reward error": r.error,
                    "skill": r.skill,
                    "return error": r.return_error,
                    "return skill": r.return_skill,
                }
                for h, r in self.rewards.items()
            }
            title = (
                "Open-loop error of the reward and of the return so far, in standard deviations of "
                "the reward"
            )
            tables.append(table_by_horizon(title, rows, ["reward error"]))
        if self.terminations:
            rows = {
                h: {"F1": t.f1, "AUC": t.auc, "terminated": t.base_rate}
                for h, t in self.terminations.items()
            }
            tables.append(table_by_horizon("Predicted terminations", rows, of="within steps"))
        return tables


def reward_errors(
    expected: np.ndarray, held_out: Trajectories, spec: DataSpec, starts: PredictionStarts
) -> tuple[np.ndarray, np.ndarray]:
    """Absolute errors (2, N, H) of the model's expected rewards (N, H) and of the training mean,
    for the reward of each step and for the return up to it. NaN past an episode's end.
    """
    mean, std = spec.reward_mean_std
    rewards = held_out.rewards
    if rewards is None:
        raise ValueError("held_out has no rewards")
    ahead = np.arange(expected.shape[1])
    rows = starts.rows[:, None] + np.minimum(ahead, starts.remaining_steps[:, None] - 1)
    truth = np.where(
        ahead < starts.remaining_steps[:, None], rewards[rows].astype(np.float64), np.nan
    )
    off = (np.stack([expected.astype(np.float64), np.full(truth.shape, mean)]) - truth) / std
    return np.abs(off), np.abs(np.cumsum(off, -1))


def _rewards(errors: tuple[np.ndarray, np.ndarray], at: Reached) -> dict[str, Measured]:
    """All of `RewardMetrics`."""
    found = {}
    for prefix, of in zip(("", "return_"), errors, strict=True):
        model, mean = of[:, at.mask, at.horizon - 1]
        better = f"1 - median error / median error of the training mean, over {at.text}"
        middle = f"median over {at.text}"
        found[f"{prefix}error"] = Measured(median(model), at.episodes, middle)
        found[f"{prefix}climatology"] = Measured(median(mean), at.episodes, middle)
        found[f"{prefix}skill"] = Measured(skill(model, mean), at.episodes, better)
    return found


def _reward_measures(measured: dict[int, dict[str, Measured]]) -> list[Measure]:
    measures = []
    for key, name, what in (
        ("reward", "error", "reward"),
        ("return", "return_error", "return so far"),
    ):
        rows = {str(h): at[name] for h, at in measured.items()}
        title = f"Open-loop error of the {what}, in standard deviations of the reward"
        measures.append(Measure(key, f"Prediction of the {what}", title, "error", rows))
    return measures


class TerminationPredictions(NamedTuple):
    """At one horizon, for M starts: the predicted probability of a termination within so many
    steps, whether there was one, and the episode.
    """

    probability: np.ndarray
    happened: np.ndarray
    episodes: np.ndarray


def predict_terminations(
    rollouts: OpenLoopEvaluator, held_out: Trajectories
) -> dict[int, TerminationPredictions]:
    """From the starts of the open-loop rollouts, and further ones shortly before terminations: the
    share of starts that terminate is so by choice, and F1 depends on it.

    A horizon at which all or none of the starts terminated is left out.
    """
    near = starts_before_termination(held_out, rollouts.options.context, rollouts.horizons)
    starts, unobserved = rollouts.starts, held_out.lengths - held_out.observed_lengths
    starts = replace(starts, remaining_steps=starts.remaining_steps + unobserved[starts.episodes])
    probability, all_starts = rollouts.metrics.termination_probability, [starts]
    if near is not None:
        probability = np.concatenate([probability, rollouts.termination_probability(near)])
        all_starts.append(near)
    remaining = np.concatenate([starts.remaining_steps for starts in all_starts])
    episodes = np.concatenate([starts.episodes for starts in all_starts])
    terminated = held_out.terminated[episodes]  # nothing is known after a time-out
    found = {}
    for h in rollouts.horizons:
        happened = terminated & (remaining <= h)
        known = happened | (remaining >= h)
        p, y, e = probability[known, h - 1], happened[known], episodes[known]
        if y.any() and not y.all():
            found[h] = TerminationPredictions(p, y, e)
    return found


def _terminations(predicted: TerminationPredictions, horizon: int) -> dict[str, Measured]:
    p, y, e = predicted
    over = f"over {len(y)} starts, of which {y.sum()} ended within {horizon} steps"
    return {
        "f1": Measured(f1(p >= LIKELY, y), e, f"F1 {over}"),
        "auc": Measured(area_under_curve(p, y), e, f"area under the ROC curve {over}"),
        "base_rate": Measured(means(y), e, f"share that ended, {over}"),
    }


def _termination_measures(measured: dict[int, dict[str, Measured]]) -> list[Measure]:
    measures = []
    for name, kind in {"auc": "Area under the ROC curve", "f1": "F1"}.items() if measured else ():
        rows = {str(h): of[name] for h, of in measured.items()}
        subject = f"{kind} of predicted terminations"
        title = f"{kind} of terminations predicted within so many steps"
        measures.append(Measure(f"terminal.{name}", subject, title, kind, rows, MORE))
    return measures


def f1(predicted: np.ndarray, happened: np.ndarray) -> Statistic:
    """2 TP / (2 TP + FP + FN) of N cases; 0 where nothing was predicted."""
    hits = 2.0 * (predicted & happened)
    named = predicted.astype(np.float64) + happened

    def statistic(counts: np.ndarray) -> np.ndarray:
        total = counts @ named
        return np.where(total > 0, counts @ hits / np.maximum(total, 1), np.nan)

    return statistic


def area_under_curve(score: np.ndarray, happened: np.ndarray) -> Statistic:
    """How often one of N cases that happened has a higher score than one that did not, ties counted
    half. NaN in a resample that holds only one kind.
    """
    ranks_of, yes = ranks(score), happened.astype(np.float64)

    def statistic(counts: np.ndarray) -> np.ndarray:
        positive = counts @ yes
        negative = counts.sum(1) - positive
        above = (counts * ranks_of(counts)) @ yes - positive * (positive + 1) / 2
        pairs = positive * negative
        return np.where(pairs > 0, above / np.maximum(pairs, 1), np.nan)

    return statistic
