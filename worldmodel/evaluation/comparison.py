"""Several runs side by side, on the same held-out episodes, starts and episode seeds.

What makes a start or an episode hard is the same for all of them, so differences are known far
better than each number by itself: every resample is drawn for both of a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from worldmodel.config import EvaluationOptions
from worldmodel.data.trajectories import Trajectories
from worldmodel.evaluation.prediction import start_errors, unit_of
from worldmodel.evaluation.sheets import Cell, Sheet, in_steps
from worldmodel.evaluation.starts import Starts, places
from worldmodel.evaluation.statistics import Bootstrap, Number, median, skill
from worldmodel.evaluation.usable import UsableHorizon, usable_horizon

NOTE = (
    "All runs are judged at the same starts of the same held-out episodes, and act in the real "
    "environment from the same seeds. A run is ahead where the interval of the paired difference "
    "to the next one, with whole episodes resampled, does not hold 0. This tells these checkpoints "
    "apart, not the methods that made them: for that, train several seeds of each."
)


class Lead(NamedTuple):
    """The best run, the next one, and by how much it is ahead of that: of errors the share by which
    its median is smaller, of returns the mean difference.
    """

    best: str
    second: str
    by: Number

    @property
    def is_clear(self) -> bool:
        return self.by.low > 0

    def cells(self) -> list[Cell]:
        """Of a table: the best one, if there is one, and by how much."""
        return [self.best if self.is_clear else "not clear", self.by]

    def to_json(self) -> dict[str, Any]:
        return {"best": self.best, "second": self.second, "by": self.by.to_json()}


class Compared(NamedTuple):
    """One measure of all runs, by name, and who leads."""

    numbers: dict[str, Number]
    lead: Lead


@dataclass(frozen=True)
class ComparedKey:
    """Of one observation: errors by horizon, medians (H,) at every step, usable horizons."""

    unit: str
    horizons: dict[int, Compared]
    curves: dict[str, np.ndarray]
    persistence: np.ndarray
    usable: dict[str, UsableHorizon]


@dataclass(frozen=True)
class Comparison:
    """`returns` are by who acts: policy or planner."""

    runs: list[str]
    split: str
    environment: str | None
    confidence: float
    keys: dict[str, ComparedKey] = field(default_factory=dict)
    returns: dict[str, Compared] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """`prediction.KEY.HORIZON.{RUN..., lead}`, `usable_horizon.KEY.RUN`, `returns.WHO`."""

        def of(compared: Compared) -> dict[str, Any]:
            numbers = {run: number.to_json() for run, number in compared.numbers.items()}
            return {"runs": numbers, "lead": compared.lead.to_json()}

        return {
            "runs": self.runs,
            "held_out_sha256": self.split,
            "environment": self.environment,
            "prediction": {
                name: {str(h): of(compared) for h, compared in key.horizons.items()}
                for name, key in self.keys.items()
            },
            "usable_horizon": {
                name: {run: usable.to_json() for run, usable in key.usable.items()}
                for name, key in self.keys.items()
            },
            "returns": {who: of(compared) for who, compared in self.returns.items()},
            "notes": self.notes,
        }


def compare_predictions(
    models: dict[str, Any], held_out: Trajectories, options: EvaluationOptions
) -> dict[str, ComparedKey]:
    """Errors of several models, each given with its spec by the name of its run."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for run, (model, spec) in models.items():
        key = jax.random.key(options.seed)
        starts, found[run] = start_errors(model, spec, held_out, options, key)
    _, spec = next(iter(models.values()))
    horizons, _, _ = places(held_out, options)
    bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
    return {
        name: _compared_key(
            unit_of(observation),
            {r: e[name] for r, e in found.items()},
            starts,
            horizons,
            bootstrap,
        )
        for name, observation in spec.observations.items()
    }


def _compared_key(
    unit: str,
    errors: dict[str, np.ndarray],
    starts: Starts,
    horizons: Sequence[int],
    bootstrap: Bootstrap,
) -> ComparedKey:
    """errors: run -> (K, N, H) of the model, persistence and others."""
    with np.errstate(invalid="ignore"):
        curves = {run: np.nanmedian(e[0], 0) for run, e in errors.items()}
        persistence = np.nanmedian(next(iter(errors.values()))[1], 0)
    return ComparedKey(
        unit=unit,
        horizons={h: _compared_errors(errors, starts, h, bootstrap) for h in horizons},
        curves=curves,
        persistence=persistence,
        usable={run: usable_horizon(e, starts, bootstrap) for run, e in errors.items()},
    )


def _compared_errors(
    errors: dict[str, np.ndarray], starts: Starts, horizon: int, bootstrap: Bootstrap
) -> Compared:
    there = starts.left >= horizon
    values = {run: e[0, there, horizon - 1] for run, e in errors.items()}
    episodes = starts.episodes[there]
    over = f"over {there.sum()} starts in {len(np.unique(episodes))} held-out episodes"
    numbers = {
        run: bootstrap.clustered(median(v), episodes, f"median {over}") for run, v in values.items()
    }
    best, second = sorted(numbers, key=lambda run: numbers[run].value)[:2]
    what = f"1 - median error / median error of the next, {over}"
    by = bootstrap.clustered(skill(values[best], values[second]), episodes, what)
    return Compared(numbers, Lead(best, second, by))


def compare_returns(returns: dict[str, np.ndarray], bootstrap: Bootstrap) -> Compared:
    """Returns (seeds, episodes) of each run on common episode seeds; of several training seeds
    their mean counts.
    """
    means = {run: earned.mean(0) for run, earned in returns.items()}
    numbers = {run: bootstrap.mean(mean, "episodes") for run, mean in means.items()}
    best, second = sorted(numbers, key=lambda run: -numbers[run].value)[:2]
    return Compared(numbers, Lead(best, second, bootstrap.paired(means[best], means[second])))


def comparison_sheets(comparison: Comparison) -> list[Sheet]:
    """A table an observation, one of usable horizons, one of returns."""
    runs, made = comparison.runs, []
    for name, key in comparison.keys.items():
        rows = [[str(h), *c.numbers.values(), *c.lead.cells()] for h, c in key.horizons.items()]
        header = ["steps", *key.curves, "best", "smaller than the next by"]
        made.append(Sheet(f"Open-loop error of {name}, in {key.unit}", header, rows))
    if comparison.keys:
        rows = [
            [name, *(usable.percentiles[50] for usable in key.usable.values())]
            for name, key in comparison.keys.items()
        ]
        judged = list(next(iter(comparison.keys.values())).usable)
        made.append(Sheet("Steps until persistence is nearer, median", ["of", *judged], rows))
    if comparison.returns:
        rows = [
            [who, *(c.numbers.get(run, "") for run in runs), *c.lead.cells()]
            for who, c in comparison.returns.items()
        ]
        header = ["who", *runs, "best", "above the next by"]
        made.append(Sheet(f"Mean return in the real {comparison.environment}", header, rows))
    return made


def verdict(comparison: Comparison) -> list[str]:
    """Who wins where, in plain sentences."""
    said = []
    for name, key in comparison.keys.items():
        clear = {h: c.lead.best for h, c in key.horizons.items() if c.lead.is_clear}
        ahead = {run: [h for h in clear if clear[h] == run] for run in clear.values()}
        parts = [f"{run} is ahead at {in_steps(hs)}" for run, hs in ahead.items()]
        level = [h for h in key.horizons if h not in clear]
        parts += [f"none is clearly ahead at {in_steps(level)}"] if level else []
        said.append(f"Prediction of {name}: {'; '.join(parts)}.")
    for who, compared in comparison.returns.items():
        best, second, by = compared.lead
        said.append(
            f"{best}'s {who} returns {'' if compared.lead.is_clear else 'not clearly '}more than "
            f"{second}'s, by {by.brief} over the same {by.n} episodes."
        )
    return said or ["There was neither a prediction nor a return to compare."]
