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
from worldmodel.evaluation.result_table import ResultTable, by_horizon, in_steps, table_by_horizon
from worldmodel.evaluation.sampled_rollouts import OpenLoopEvaluator, Reached
from worldmodel.evaluation.scores import FEWEST_SAMPLES, LEVELS, Scores
from worldmodel.evaluation.section import Context, Measure, Section
from worldmodel.evaluation.sections.prediction import MOST_IN_TABLE, WORST, unit_of
from worldmodel.evaluation.statistics import (
    Annotated,
    Bootstrap,
    Estimate,
    Measured,
    Statistic,
    means,
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
    comparable = True

    observations: dict[str, dict[int, CalibrationMetrics]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    caveats: list[str] = field(default_factory=list)
    compared: list[Measure] = field(default_factory=list)

    @classmethod
    def applies(cls, context: Context) -> bool | str:
        return context.model.has_dynamics

    @classmethod
    def run(cls, context: Context) -> Self:
        rollouts, observations, compared = context.open_loop, {}, []
        units = {key: unit_of(o) for key, o in context.spec.observations.items()}
        for key in rollouts.metrics.errors:
            found = rollouts.metrics.scores.get(key)
            observations[key] = {}
            if found is not None:
                each = not context.spec.observations[key].is_image
                samples = context.options.num_samples
                observations[key] = {
                    h: calibration_at(
                        found, i, rollouts.reached(h), samples, each, context.bootstrap
                    )
                    for i, h in enumerate(rollouts.horizons)
                }
                compared += _measures(rollouts, key, units[key], found)
        return cls(observations, units, _caveats(context, observations), compared)

    def numbers(self) -> dict[str, Any]:
        return {
            "calibration": {
                key: {h: c.numbers() for h, c in found.items()}
                for key, found in self.observations.items()
            }
        }

    def notes(self) -> list[str]:
        return self.caveats

    def measures(self) -> list[Measure]:
        return self.compared

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
                tables += [_table(key, self.units[key], found), *_of_dimensions(key, found)]
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
    for place, horizon in enumerate(rollouts.horizons):
        at = rollouts.reached(horizon)
        scored = Scores(*(x[at.mask, place] for x in found))
        crps[str(horizon)] = Measured(
            means(scored.crps.mean(-1)), at.episodes, f"mean fair CRPS over {at.text}"
        )
        statistic = spread_skill_ratio(scored.spread, scored.squared_error)
        ratio[str(horizon)] = Measured(statistic, at.episodes, f"spread / skill over {at.text}")
    rollouts_of = f"sampled rollouts of {key}"
    return [
        Measure(
            f"crps.{key}",
            f"CRPS of {rollouts_of}",
            f"CRPS of {rollouts_of}, in {unit}",
            "steps",
            "CRPS",
            crps,
        ),
        Measure(
            f"spread_skill_ratio.{key}",
            f"Spread of {rollouts_of}",
            f"Spread / skill of {rollouts_of}, 1 where the spread is right",
            "steps",
            "spread / skill",
            ratio,
            better=None,
        ),
    ]


def _verdict(ratio: Estimate) -> str:
    if ratio.high < 1:
        return "overconfident"
    return "too wide" if ratio.low > 1 else "about as wide as they should be"


def calibration_at(
    found: Scores,
    place: int,
    reached: Reached,
    samples: int,
    each: bool,
    bootstrap: Bootstrap,
) -> CalibrationMetrics:
    """At the horizon in place `place` of the scores, over the starts that reach it; of `each`
    dimension too.
    """
    crps, log_score, energy, spread, square, rank = (x[reached.mask, place] for x in found)
    episodes = reached.episodes
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


def _of_dimensions(key: str, found: dict[int, CalibrationMetrics]) -> list[ResultTable]:
    """The dimensions of a short vector with the highest CRPS at the longest horizon."""
    longest = max(found)
    numbers = found[longest].dimensions
    count = len(numbers.get("crps", ()))
    if not 2 <= count <= MOST_IN_TABLE:
        return []
    worst = sorted(range(count), key=lambda d: -numbers["crps"][d].value)[:WORST]
    which = f"the worst {len(worst)} of {count}" if count > WORST else f"the {count}"
    title = f"Calibration of {which} dimensions of {key} after {in_steps([longest])}"
    rows = [[str(d), numbers["crps"][d], numbers["spread_skill_ratio"][d]] for d in worst]
    return [ResultTable(title, ["dimension", "CRPS", "spread / skill"], rows)]


def _rank_panel(name: str, found: CalibrationMetrics) -> str:
    """Shares times their number: 1 where samples and truth are alike."""
    count = len(found.rank_histogram)
    low, value, high = (
        np.array([getattr(rank, end) for rank in found.rank_histogram]) * count
        for end in ("low", "value", "high")
    )
    panel = Panel(
        (-0.5, count - 0.5),
        (0, max(2.0, extent(high, value)[1])),
        label=f"{name} steps: how often the truth has each rank among the samples",
        x_title="samples below the truth",
        y_title="share / uniform share",
        height=180,
    )
    edges = np.repeat(np.arange(count + 1) - 0.5, 2)[1:-1]
    low, value, high = (np.repeat(x, 2) for x in (low, value, high))
    panel.band(edges, low, high, "model")
    panel.line(edges, value, "model")
    panel.line([-0.5, count - 0.5], [1, 1], "dataset dashed")
    return panel.svg()


def _coverage_panel(name: str, found: CalibrationMetrics) -> str:
    nominal = np.array([found.nominal[level] for level in found.coverage])
    low, value, high = (
        np.array([getattr(number, end) for number in found.coverage.values()])
        for end in ("low", "value", "high")
    )
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
