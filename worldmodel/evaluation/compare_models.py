"""How several models predict the same held-out episodes from the same starts, measure by measure.

What makes a start or an episode hard is the same for all of them, so differences are known far
better than each number by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import numpy as np

from worldmodel.config import EvaluationOptions
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.evaluation.calibration import spread_skill_ratio
from worldmodel.evaluation.comparison import LESS, MORE, Measure, MeasureComparison, compare
from worldmodel.evaluation.prediction import unit_of
from worldmodel.evaluation.rewards_and_termination import (
    LIKELY,
    area_under_curve,
    f1,
    predict_terminations,
    reward_errors,
)
from worldmodel.evaluation.sampled_rollouts import OpenLoopEvaluator, OpenLoopMetrics
from worldmodel.evaluation.starts import PredictionStarts, prediction_starts
from worldmodel.evaluation.statistics import Bootstrap, Statistic, means, median
from worldmodel.evaluation.usable_horizon import usable_horizon
from worldmodel.models.interface import WorldModel

Models = Mapping[str, tuple[WorldModel, DataSpec]]  # each with its spec, by the name of its run
Values = dict[str, np.ndarray]  # of each run, starts first


class _Comparer:
    """Compares what runs have at the same N starts, horizon by horizon."""

    def __init__(self, starts: PredictionStarts, horizons: list[int], bootstrap: Bootstrap):
        self.starts, self.horizons, self.bootstrap = starts, horizons, bootstrap

    def at(
        self,
        horizon: int,
        values: Values,
        of: Callable[[np.ndarray], Statistic],
        what: str,
        better: str | None = LESS,
    ) -> MeasureComparison:
        """Of values (N, ...) at one horizon, by the starts that reach it."""
        there = self.starts.remaining_steps >= horizon
        episodes = self.starts.episodes[there]
        over = f"over {there.sum()} starts in {len(np.unique(episodes))} held-out episodes"
        statistics = {run: of(v[there]) for run, v in values.items()}
        return compare(statistics, episodes, f"{what} {over}", self.bootstrap, better)

    def at_steps(self, values: Values, what: str) -> dict[str, MeasureComparison]:
        """Medians of values (N, H), of which less is better."""
        return {
            str(h): self.at(h, {run: v[:, h - 1] for run, v in values.items()}, median, what)
            for h in self.horizons
        }

    def at_places(
        self, values: Values, of: Callable[[np.ndarray], Statistic], what: str, better: str | None
    ) -> dict[str, MeasureComparison]:
        """Of values (N, h, ...) that are known at the horizons asked for alone."""
        return {
            str(h): self.at(h, {run: v[:, i] for run, v in values.items()}, of, what, better)
            for i, h in enumerate(self.horizons)
        }


def compare_models(
    models: Models, held_out: Trajectories, options: EvaluationOptions
) -> list[Measure]:
    """Errors, usable horizons, image measures and calibration of every observation; rewards, ends.
    A measure that fewer than two of the models have is left out.
    """
    horizons, starts, _ = prediction_starts(held_out, options)
    key = jax.random.key(options.seed)
    judges = {
        run: OpenLoopEvaluator(model, spec, held_out, starts, options, horizons, key)
        for run, (model, spec) in models.items()
    }
    found = {run: judge.evaluate() for run, judge in judges.items()}
    bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
    comparer = _Comparer(starts, horizons, bootstrap)
    _, spec = next(iter(models.values()))
    made = []
    for name, observation in spec.observations.items():
        made += _of_observation(comparer, name, unit_of(observation), found)
    made += _rewards(comparer, models, found, held_out)
    return made + _ends(judges, found, held_out, horizons, bootstrap)


def _of_observation(
    comparer: _Comparer, name: str, unit: str, found: dict[str, OpenLoopMetrics]
) -> list[Measure]:
    errors = {run: m.errors[name] for run, m in found.items()}
    rows = comparer.at_steps({run: e[0] for run, e in errors.items()}, "median error")
    repeated = next(iter(errors.values()))[1]
    baseline = comparer.at_steps({"persistence": repeated}, "median error")
    usable = {
        run: usable_horizon(e, comparer.starts, comparer.bootstrap).percentiles[50]
        for run, e in errors.items()
    }
    measure = partial(Measure, of="steps")
    made = [
        measure(
            f"prediction.{name}",
            f"Prediction of {name}",
            f"Open-loop error of {name}, in {unit}",
            unit=f"error, {unit}",
            rows=rows,
            baseline={h: c.numbers["persistence"] for h, c in baseline.items()},
        ),
        Measure(
            f"usable_horizon.{name}",
            f"Usable horizon of {name}",
            f"Steps until persistence is nearer to {name}, median over starts",
            "observation",
            "steps",
            {name: MeasureComparison(usable)},
        ),
    ]
    for title in ("psnr", "ssim"):
        images = {run: m.images[name][title][0] for run, m in found.items() if name in m.images}
        if images:
            kind = title.upper()
            rows = comparer.at_places(images, median, f"median {kind}", MORE)
            of_images = (f"{title}.{name}", f"{kind} of {name}", f"{kind} of {name}")
            made.append(measure(*of_images, unit=kind, rows=rows))
    return made + _calibration(comparer, name, unit, found)


def _calibration(
    comparer: _Comparer, name: str, unit: str, found: dict[str, OpenLoopMetrics]
) -> list[Measure]:
    """Of the runs whose sampled futures have a spread."""
    scores = {run: m.scores[name] for run, m in found.items() if name in m.scores}
    if len(scores) < 2:
        return []
    crps = {run: s.crps.mean(-1) for run, s in scores.items()}
    both = {run: np.stack([s.spread, s.squared_error], -1) for run, s in scores.items()}
    sure = comparer.at_places(
        both, lambda x: spread_skill_ratio(x[..., 0], x[..., 1]), "spread / skill", None
    )
    of_crps = comparer.at_places(crps, means, "mean fair CRPS", LESS)
    measure = partial(Measure, of="steps")
    futures = f"sampled futures of {name}"
    return [
        measure(
            f"crps.{name}",
            f"CRPS of {futures}",
            f"CRPS of {futures}, in {unit}",
            unit="CRPS",
            rows=of_crps,
        ),
        measure(
            f"spread_skill_ratio.{name}",
            f"Spread of {futures}",
            f"Spread / skill of {futures}, 1 where the spread is right",
            unit="spread / skill",
            rows=sure,
        ),
    ]


def _rewards(
    comparer: _Comparer, models: Models, found: dict[str, OpenLoopMetrics], held_out: Trajectories
) -> list[Measure]:
    expected = {run: m.reward for run, m in found.items() if m.reward is not None}
    if len(expected) < 2:
        return []
    errors = {
        run: reward_errors(said, held_out, models[run][1], comparer.starts)
        for run, said in expected.items()
    }
    made = []
    for i, (place, what) in enumerate({"reward": "reward", "return": "return so far"}.items()):
        ours = {run: e[i][0] for run, e in errors.items()}
        title = f"Open-loop error of the {what}, in standard deviations of the reward"
        rows = comparer.at_steps(ours, f"median error of the {what}")
        made.append(Measure(place, f"Prediction of the {what}", title, "steps", "error", rows))
    return made


def _ends(
    judges: dict[str, OpenLoopEvaluator],
    found: dict[str, OpenLoopMetrics],
    held_out: Trajectories,
    horizons: list[int],
    bootstrap: Bootstrap,
) -> list[Measure]:
    if not held_out.terminated.any():
        return []
    said = {
        run: predict_terminations(j, found[run].termination_probability, held_out, horizons)
        for run, j in judges.items()
    }
    first = next(iter(said.values()))
    kinds: dict[str, tuple[str, Callable[..., Statistic]]] = {
        "auc": ("Area under the ROC curve of ends", area_under_curve),
        "f1": ("F1 of ends", lambda p, y: f1(p >= LIKELY, y)),
    }

    def at(horizon: int, what: str, of: Callable[..., Statistic]) -> MeasureComparison:
        _, happened, episodes = first[horizon]  # the same for all runs
        over = f"over {len(happened)} starts, of which {happened.sum()} ended within so many steps"
        statistics = {run: of(ends[horizon].probability, happened) for run, ends in said.items()}
        return compare(statistics, episodes, f"{what} {over}", bootstrap, MORE)

    return [
        Measure(
            f"terminal.{place}",
            f"{title} foretold",
            f"{title} foretold within so many steps",
            "steps",
            title.split(" of ")[0],
            {str(h): at(h, title, of) for h in first},
        )
        for place, (title, of) in kinds.items()
        if first
    ]
