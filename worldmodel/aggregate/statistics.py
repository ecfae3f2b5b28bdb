"""Scores of several runs on several tasks in one number (Agarwal et al., NeurIPS 2021,
arXiv 2108.13264).

Scores are (runs, tasks), higher is better, normalized so that those of tasks can be put together.
Intervals are of a stratified bootstrap: runs are resampled within each task. Seeds of training are
what is independent: with few of them the intervals are too narrow, which reports note.
"""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.statistics import Bootstrap, Estimate, Statistic, means


def aggregate(scores: np.ndarray, bootstrap: Bootstrap, target: float = 1.0) -> dict[str, Estimate]:
    """Interquartile mean, mean, median of the tasks' means, and optimality gap of scores (runs,
    tasks), by name.
    """
    scores = _table(scores)
    statistics = {
        "iqm": ("interquartile mean", interquartile_mean(scores)),
        "mean": ("mean", means(scores.ravel())),
        "median": ("median of the tasks' means", median_of_tasks(scores)),
        "optimality_gap": (f"mean shortfall below {target:g}", optimality_gap(scores, target)),
    }
    return {
        name: bootstrap.stratified(statistic, [scores.shape], what)
        for name, (what, statistic) in statistics.items()
    }


def interquartile_mean(scores: np.ndarray) -> Statistic:
    """The mean of the middle half of all scores; of n, n // 4 are left out at each end."""
    flat = np.ravel(scores).astype(np.float64)
    order = np.argsort(flat, kind="stable")
    ordered, cut = flat[order], len(flat) // 4

    def statistic(counts: np.ndarray) -> np.ndarray:
        upto = np.cumsum(counts[:, order].astype(np.int32), 1, dtype=np.int32)
        inside = np.clip(upto, cut, len(flat) - cut)
        # Differences of the clipped counts are weights; summed by parts, no array more is needed.
        steps = inside[:, :-1] @ (ordered[:-1] - ordered[1:]) + inside[:, -1] * ordered[-1]
        return (steps - cut * ordered[0]) / (len(flat) - 2 * cut)

    return statistic


def median_of_tasks(scores: np.ndarray) -> Statistic:
    """The median over tasks of the mean over runs."""

    def statistic(counts: np.ndarray) -> np.ndarray:
        counts = counts.reshape(-1, *scores.shape)
        return np.median(np.einsum("rnt,nt->rt", counts, scores), 1) / len(scores)

    return statistic


def optimality_gap(scores: np.ndarray, target: float) -> Statistic:
    """Mean shortfall below the target; what is above it makes up for nothing."""
    return means(np.maximum(target - np.ravel(scores), 0.0))


def performance_profile(
    scores: np.ndarray, thresholds: np.ndarray, bootstrap: Bootstrap
) -> list[Estimate]:
    """The share of scores (runs, tasks) above each threshold: a curve that shows all of them."""
    scores = _table(scores)
    return [
        bootstrap.stratified(
            means((scores.ravel() > threshold).astype(np.float64)),
            [scores.shape],
            f"share of scores above {threshold:g}",
        )
        for threshold in thresholds
    ]


def probability_of_improvement(
    ours: np.ndarray, theirs: np.ndarray, bootstrap: Bootstrap
) -> Estimate:
    """How probable it is that a run of ours (runs, tasks) beats one of theirs (runs, tasks) on a
    task drawn at random, ties counted half: Mann and Whitney's statistic, averaged over tasks.
    """
    ours, theirs = _table(ours), _table(theirs)
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"{ours.shape[1]} and {theirs.shape[1]} tasks: they must be the same")
    off = ours[:, None] - theirs[None]
    wins = (off > 0) + (off == 0) / 2

    def statistic(mine: np.ndarray, others: np.ndarray) -> np.ndarray:
        mine, others = mine.reshape(-1, *ours.shape), others.reshape(-1, *theirs.shape)
        return np.einsum("rit,ijt,rjt->r", mine, wins, others, optimize=True) / wins.size

    shapes = [ours.shape, theirs.shape]
    return bootstrap.stratified(statistic, shapes, "probability of improvement")


def _table(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores have the shape {scores.shape}; accepted: (runs, tasks)")
    return scores
