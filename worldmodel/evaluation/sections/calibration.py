"""Calibration: do sampled rollouts know how wrong they are? Scores of the samples by horizon.

Means over starts, not medians: only for means is the true distribution the best answer (Gneiting
and Raftery, JASA 2007). In units of the error: training standard deviations or the pixel range.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from worldmodel.config.registry import register
from worldmodel.evaluation import scores
from worldmodel.evaluation.figures import Panel, extent, figure
from worldmodel.evaluation.html import Card
from worldmodel.evaluation.result_table import (
    ResultTable,
    by_horizon,
    in_steps,
    table_by_horizon,
    worst_dimensions,
)
from worldmodel.evaluation.sampled_rollouts import OpenLoopEvaluator, Reached
from worldmodel.evaluation.scores import FEWEST_SAMPLES, LEVELS, Scores
from worldmodel.evaluation.section import Context, Measure, Section
from worldmodel.evaluation.sections.prediction import unit_of
from worldmodel.evaluation.statistics import (
    Annotated,
    Bootstrap,
    Estimate,
    Measured,
    Statistic,
    means,
    values_and_ends,
)

CAPTION = (
    "Left: how often the truth has each rank among the samples; level where the samples are right, "
    "high at both ends where they are overconfident, in the middle where they are too wide. Right: "
    "how often an interval of the samples holds the truth; on the dashed line where it is right, "
    "below where it is overconfident. Bands are intervals of these shares."
)


@dataclass(frozen=True)
class CalibrationMetrics:
    """At one horizon. Lower is better for CRPS, energy score and log score (nats a dimension).

    spread_skill_ratio: 1 where the spread is right, less where the model is overconfident
    coverage: by LEVELS, how often an interval holds the truth that should do so in `nominal` cases
    rank_histogram: how often the truth has each rank among the S samples, 0 to S
    dimensions: the same for each dimension of a vector
    """

    crps: Estimate
    energy_score: Estimate
    log_score: Estimate
    spread_skill_ratio: Estimate
    coverage: dict[int, Estimate]
    nominal: dict[int, float]
    rank_histogram: list[Estimate]
    dimensions: dict[str, list[Estimate]]

    def numbers(self) -> dict[str, Any]:
        coverage = {
            level: Annotated(number, {"nominal": self.nominal[level]})
            for level, number in self.coverage.items()
        }
        return {n: x for n, x in vars(self).items() if n != "nominal"} | {"coverage": coverage}


@register("section", "calibration", order=30)
@dataclass(frozen=True)
class Calibration(Section):
    """Calibration by observation and horizon, where the sampled rollouts have a spread."""

    title = "Calibration of sampled rollouts"
    absent = {"calibration": {}}
    comparable = needs_dynamics = True

    observations: dict[str, dict[int, CalibrationMetrics]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    @classmethod
    def run(cls, context: Context) -> Self:
        rollouts, observations, compared = context.open_loop, {}, []
        units = {key: unit_of(o) for key, o in context.spec.observations.items()}
        for key in rollouts.metrics.errors:
            found = rollouts.metrics.scores.get(key)
            observations[key] = {}
            if found is not None:
                each = not context.spec.observations[key].is_image
                given = (context.options.num_samples, each, context.bootstrap)
                observations[key] = {
                    at.horizon: calibration_at(found, at, *given) for at in rollouts.all_reached
                }
                compared += _measures(rollouts, key, units[key], found)
        caveats = _caveats(context, observations)
        return cls(observations, units, caveats=caveats, compared=compared)

    def numbers(self) -> dict[str, Any]:
        return {"calibration": self.observations}

    @property
    def explanation(self) -> str:
        if not any(self.observations.values()):
            return ""
        return (
            "Means over starts. CRPS and energy score: lower is better. Spread / skill: 1 where "
            "the spread is right, less where the model is overconfident. Last columns: how often "
            "the truth is inside an interval that should hold that share. A model trained by "
            "squared error does not predict the noise of the observation, which is missing from "
            "its spread."
        )

    def tables(self) -> list[ResultTable]:
        tables = []
        for key, found in self.observations.items():
            if found:
                of = found[max(found)].dimensions
                columns = {"CRPS": "crps", "spread / skill": "spread_skill_ratio"}
                columns = {title: of.get(name, ()) for title, name in columns.items()}
                tables.append(_table(key, self.units[key], found))
                tables += worst_dimensions("Calibration", key, max(found), columns)
        return tables

    def sentences(self) -> list[str]:
        return [
            f"Sampled rollouts of {key} are "
            f"{by_horizon({h: _verdict(c.spread_skill_ratio) for h, c in found.items()})}."
            for key, found in self.observations.items()
            if found
        ]

    def cards(self) -> list[Card]:
        """At the longest horizon, of the observation whose ratio is furthest from 1."""
        ratios = {
            (key, max(found)): found[max(found)].spread_skill_ratio
            for key, found in self.observations.items()
            if found
        }
        if not ratios:
            return []
        key, horizon = max(ratios, key=lambda at: abs(np.log(max(ratios[at].value, 1e-9))))
        number = ratios[key, horizon]
        text = (
            f"Spread of sampled rollouts of {key} / their error at {in_steps([horizon])}, 1 where "
            f"it is right: the rollouts are {_verdict(number)}."
        )
        return [Card("Whether its spread is right", number, "spread / skill", text)]

    def figures(self) -> list[str]:
        """At the shortest, a middle and the longest horizon of each observation."""
        panels = []
        for key, found in self.observations.items():
            horizons = list(found)
            for h in dict.fromkeys(horizons[i] for i in (0, len(horizons) // 2, -1) if horizons):
                name = f"{key} \u00b7 +{h}"
                panels.append((f"{name}: rank of the truth", _rank_panel(name, found[h])))
                if found[h].coverage:
                    panels.append((f"{name}: coverage", _coverage_panel(name, found[h])))
        return [figure(CAPTION, panels)] if panels else []


def _caveats(context: Context, observations: dict[str, dict[int, CalibrationMetrics]]) -> list[str]:
    if context.options.num_samples < FEWEST_SAMPLES:
        return [
            f"Calibration needs evaluation.num_samples of {FEWEST_SAMPLES} or more; with 39 there "
            "are intervals that should hold exactly 50, 80, 90 and 95 %."
        ]
    missing = [key for key, found in observations.items() if not found]
    same = f"All sampled rollouts of {', '.join(missing)} are the same: there is no spread."
    return [same] if missing else []


def _measures(rollouts: OpenLoopEvaluator, key: str, unit: str, found: Scores) -> list[Measure]:
    crps, ratio = {}, {}
    for at in rollouts.all_reached:
        scored, row = Scores(*(x[at.mask, at.place] for x in found)), str(at.horizon)
        mean = means(scored.crps.mean(-1))
        crps[row] = Measured(mean, at.episodes, f"mean fair CRPS over {at.text}")
        of_all = spread_skill_ratio(scored.spread, scored.squared_error)
        ratio[row] = Measured(of_all, at.episodes, f"spread / skill over {at.text}")
    of, right = f"of sampled rollouts of {key}", "1 where the spread is right"
    title = f"Spread / skill {of}, {right}"
    return [
        Measure(f"crps.{key}", f"CRPS {of}", f"CRPS {of}, in {unit}", "CRPS", crps),
        Measure(f"spread_skill_ratio.{key}", f"Spread {of}", title, "spread / skill", ratio, None),
    ]


def _verdict(ratio: Estimate) -> str:
    if ratio.high < 1:
        return "overconfident"
    return "too wide" if ratio.low > 1 else "about as wide as they should be"


def calibration_at(
    found: Scores, at: Reached, samples: int, each: bool, bootstrap: Bootstrap
) -> CalibrationMetrics:
    """Over the starts that reach a horizon; of `each` dimension too."""
    crps, log_score, energy, spread, square, rank = (x[at.mask, at.place] for x in found)
    episodes = at.episodes
    over = f"{samples} samples from {len(episodes)} starts in {len(np.unique(episodes))} episodes"

    def estimates(statistic: Statistic, what: str) -> list[Estimate]:
        return bootstrap.clustered_many(statistic, episodes, f"{what}, {over}")

    def mean(values: np.ndarray, what: str) -> list[Estimate]:
        """Over all dimensions first, then of each."""
        of_all = values.mean(-1, keepdims=True)
        return estimates(means(np.concatenate([of_all, values], 1) if each else of_all), what)

    intervals = {level: scores.interval_of(level, samples) for level in LEVELS}
    intervals = {level: interval for level, interval in intervals.items() if interval}
    inside = {
        level: mean(
            scores.is_inside(rank, k, samples).astype(np.float64),
            f"share inside an interval that should hold {100 * nominal:.3g} %",
        )
        for level, (k, nominal) in intervals.items()
    }
    of_dimensions = {
        "crps": mean(crps, "mean fair CRPS"),
        "log_score": mean(log_score, "mean fair log score of a normal"),
        "spread_skill_ratio": estimates(_spread_skill(spread, square, each), "spread / skill"),
    }
    shares = np.stack([(rank == r).mean(-1) for r in range(samples + 1)], 1)
    return CalibrationMetrics(
        energy_score=estimates(
            lambda counts: means(energy)(counts)[:, None], "mean fair energy score"
        )[0],
        coverage={level: found[0] for level, found in inside.items()},
        nominal={level: nominal for level, (_, nominal) in intervals.items()},
        rank_histogram=estimates(means(shares), "share of each rank"),
        dimensions={
            name: found[1:]
            for name, found in (
                of_dimensions | {f"coverage_{level}": found for level, found in inside.items()}
            ).items()
            if each
        },
        **{name: found[0] for name, found in of_dimensions.items()},
    )


def spread_skill_ratio(spread: np.ndarray, square: np.ndarray) -> Statistic:
    """Root mean square spread (N, D) / root mean square error of the samples' mean (N, D)."""
    of_all = _spread_skill(spread, square, each=False)
    return lambda counts: of_all(counts)[:, 0]


def _spread_skill(spread: np.ndarray, square: np.ndarray, each: bool) -> Statistic:
    """Root mean squares (N, D), over all dimensions first, then of each."""
    parts = [np.concatenate([x.mean(-1, keepdims=True), x], 1) for x in (spread, square)]
    width, error = (means(x if each else x[:, :1]) for x in parts)

    def statistic(counts: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.sqrt(width(counts) / error(counts))

    return statistic


def _table(key: str, unit: str, found: dict[int, CalibrationMetrics]) -> ResultTable:
    """A terminal shows of the intervals that of 90 %, or the widest."""
    nominal = next(iter(found.values())).nominal
    main = 90 if 90 in nominal else max(nominal, default=None)
    columns = {level: f"in {100 * share:.3g} %" for level, share in nominal.items()}
    rows = {
        h: {
            "CRPS": n.crps,
            "energy": n.energy_score,
            "log score": n.log_score,
            "spread / skill": n.spread_skill_ratio,
        }
        | {column: n.coverage[level] for level, column in columns.items()}
        for h, n in found.items()
    }
    hidden = ["energy", "log score", *(name for lv, name in columns.items() if lv != main)]
    return table_by_horizon(f"Calibration of sampled {key}, CRPS in {unit}", rows, hidden)


def _rank_panel(name: str, found: CalibrationMetrics) -> str:
    """Shares times their number: 1 where samples and truth are alike."""
    count = len(found.rank_histogram)
    value, low, high = values_and_ends(found.rank_histogram) * count
    panel = Panel(
        (-0.5, count - 0.5),
        (0, max(2.0, extent(high, value)[1])),
        label=f"{name} steps: how often the truth has each rank among the samples",
        x_title="samples below the truth",
        y_title="share / uniform share",
        height=180,
    )
    edges = np.repeat(np.arange(count + 1) - 0.5, 2)[1:-1]
    value, low, high = (np.repeat(x, 2) for x in (value, low, high))
    panel.band(edges, low, high, "model")
    panel.line(edges, value, "model")
    panel.line([-0.5, count - 0.5], [1, 1], "dataset dashed")
    return panel.svg()


def _coverage_panel(name: str, found: CalibrationMetrics) -> str:
    nominal = np.array([found.nominal[level] for level in found.coverage])
    value, low, high = values_and_ends(list(found.coverage.values()))
    panel = Panel(
        (0, 1),
        (0, 1),
        label=f"{name} steps: how often an interval holds the truth",
        x_title="should hold",
        y_title="holds",
        height=180,
    )
    panel.line([0, 1], [0, 1], "dataset dashed")
    panel.band(nominal, low, high, "model")
    panel.line(nominal, value, "model")
    panel.dots(nominal, value, "model", 3)
    return panel.svg()
