"""Seconds of a stratified bootstrap of the interquartile mean, compared with sorting each resample.

    python benchmarks/bootstrap.py [--resamples 50000] [--runs 10] [--tasks 18] [--repeats 5]

The two take turns, repeat by repeat; the ratio is to the one that sorts, in the same repeat.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import numpy as np

from worldmodel.aggregate.statistics import interquartile_mean
from worldmodel.evaluation.statistics import Bootstrap

PIECE = 2000  # resamples that are sorted at once


def counted(scores: np.ndarray, resamples: int) -> tuple[float, float]:
    """The interval, as evaluation computes it."""
    statistic = interquartile_mean(scores)
    number = Bootstrap(resamples).stratified(statistic, [scores.shape], "interquartile mean")
    return number.low, number.high


def sorted_each_time(scores: np.ndarray, resamples: int) -> tuple[float, float]:
    """The interval, by sorting the scores of each resample."""
    generator, (runs, tasks) = np.random.default_rng(0), scores.shape
    cut, found = scores.size // 4, []
    for begin in range(0, resamples, PIECE):
        count = min(PIECE, resamples - begin)
        drawn = generator.integers(runs, size=(count, runs, tasks))
        ordered = np.sort(scores[drawn, np.arange(tasks)].reshape(count, -1), 1)
        found.append(ordered[:, cut : scores.size - cut].mean(1))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resamples", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=18)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    scores = np.random.default_rng(1).normal(size=(arguments.runs, arguments.tasks))
    forms = {"counted": counted, "sorted": sorted_each_time}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    ends: dict[str, tuple[float, float]] = {}
    for _ in range(arguments.repeats):
        for name, form in forms.items():
            began = time.perf_counter()
            ends[name] = form(scores, arguments.resamples)
            seconds[name].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(seconds["counted"], seconds["sorted"], strict=True)]
    for name, taken in seconds.items():
        print(f"{name:8s} {median(taken):.3f} s  [{ends[name][0]:.4f}, {ends[name][1]:.4f}]")
    print(f"ratio    {median(ratios):.2f}")
    print(json.dumps({"seconds": seconds, "ratios": ratios, "ends": ends} | vars(arguments)))


if __name__ == "__main__":
    main()
