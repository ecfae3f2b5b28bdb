"""Open-loop prediction: how far the rollouts are from the logged observations at each horizon.

The prediction is the mean of sampled rollouts. There are two baselines: persistence repeats the
last observation; climatology is always the training mean (vectors only), which is better than
persistence at long horizons without any knowledge of the dynamics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from worldmodel.config.registry import register
from worldmodel.data.spec import ObservationSpec
from worldmodel.evaluation.figures import (
    MOST_DIMENSIONS,
    Panel,
    extent,
    figure,
    image_strip,
)
from worldmodel.evaluation.result_table import ResultTable, by_horizon, in_steps, table_by_horizon
from worldmodel.evaluation.sampled_rollouts import OpenLoopEvaluator
from worldmodel.evaluation.section import MORE, Context, Measure, Section
from worldmodel.evaluation.statistics import (
    Bootstrap,
    Estimate,
    Measured,
    finite_or_none,
    median,
    quantiles,
    skill,
)

FEW_EPISODES = 5  # resampling fewer gives intervals that are too narrow
EXAMPLES = {"easier": 0.25, "typical": 0.5, "harder": 0.75}  # quantiles of the error
MOST_IN_TABLE, WORST = 32, 5  # dimensions of a vector that has a table of its worst ones


@dataclass(frozen=True)
class HorizonMetrics:
    """Medians over starts at one horizon, in the unit of the observation, and the skills.

    quartiles: lower and upper quartile of the error
    dimensions: the error of each dimension of a vector
    images: PSNR and SSIM of an image, of the model and of persistence
    """

    error: Estimate
    persistence: Estimate
    skill: Estimate
    climatology: Estimate | None
    skill_climatology: Estimate | None = None
    quartiles: tuple[Estimate, Estimate] | None = None
    dimensions: list[Estimate] = field(default_factory=list)
    images: dict[str, Estimate] = field(default_factory=dict)

    def numbers(self) -> dict[str, Any]:
        """By name, without those that do not exist."""
        lower, upper = self.quartiles or (None, None)
        found = {
            "error": self.error,
            "error_lower_quartile": lower,
            "error_upper_quartile": upper,
            "persistence": self.persistence,
            "skill": self.skill,
            "climatology": self.climatology,
            "skill_climatology": self.skill_climatology,
            **self.images,
            "dimensions": self.dimensions or None,
        }
        return {name: number for name, number in found.items() if number is not None}


@dataclass(frozen=True)
class Curve:
    """Quartiles (3, H) of the error over starts at horizons 1 to H, and the starts (H,) at each."""

    model: np.ndarray
    persistence: np.ndarray
    climatology: np.ndarray | None
    starts: np.ndarray

    def medians(self) -> dict[str, list[Any]]:
        quartiles = {
            "error": self.model,
            "persistence": self.persistence,
            "climatology": self.climatology,
        }
        return {
            name: [finite_or_none(x) for x in values[1]]
            for name, values in quartiles.items()
            if values is not None
        } | {"n": self.starts.tolist()}


@dataclass(frozen=True)
class ExampleRollout:
    """One start in raw units. real: (C + H, ...), the context first; imagined: (S, H, ...)."""

    name: str
    episode: int
    row: int
    context_length: int
    real: np.ndarray
    imagined: np.ndarray


@dataclass(frozen=True)
class ObservationPrediction:
    """The prediction of one observation."""

    unit: str
    horizons: dict[int, HorizonMetrics]
    curve: Curve | None = None
    examples: list[ExampleRollout] = field(default_factory=list)


@register("section", "prediction", order=10)
@dataclass(frozen=True)
class Prediction(Section):
    """Open-loop prediction of every observation, by name."""

    title = "Open-loop prediction"
    absent = {"prediction": {}, "units": {}, "curves": {}}
    comparable = True

    observations: dict[str, ObservationPrediction]
    caveats: list[str] = field(default_factory=list)
    compared: list[Measure] = field(default_factory=list)

    @classmethod
    def applies(cls, context: Context) -> bool | str:
        return context.model.has_dynamics or (
            "This family of models has no dynamics: there is no prediction to evaluate."
        )

    @classmethod
    def run(cls, context: Context) -> Self:
        rollouts, bootstrap, compared = context.open_loop, context.bootstrap, []
        metrics = rollouts.metrics
        examples = _examples(rollouts, next(iter(metrics.errors.values()))[0])
        observations = {}
        for name, errors in metrics.errors.items():
            unit = unit_of(context.spec.observations[name])
            horizons, measures = _horizons(rollouts, name, unit, bootstrap)
            curve = _curve(errors, rollouts)
            observations[name] = ObservationPrediction(unit, horizons, curve, examples[name])
            compared += measures
        return cls(observations, _caveats(rollouts), compared)

    def numbers(self) -> dict[str, Any]:
        keys = self.observations.items()
        return {
            "prediction": {
                key: {h: n.numbers() for h, n in found.horizons.items()} for key, found in keys
            },
            "units": {key: found.unit for key, found in keys},
            "curves": {key: found.curve.medians() for key, found in keys if found.curve},
        }

    def notes(self) -> list[str]:
        return self.caveats

    def measures(self) -> list[Measure]:
        return self.compared

    def tables(self) -> list[ResultTable]:
        tables = []
        for key, found in self.observations.items():
            tables += [_table(key, found), *_worst_dimensions(key, found)]
        return tables

    @property
    def explanation(self) -> str:
        return (
            "Errors are medians over starts. Skill is 1 - median error / median error of the "
            "baseline: persistence repeats the last observation, climatology is the training mean."
        )

    def sentences(self) -> list[str]:
        sentences = []
        for key, found in self.observations.items():
            verdicts = {h: _verdict(n) for h, n in found.horizons.items()}
            longest = max(found.horizons)
            number = found.horizons[longest].skill
            # Persistence has no error where nothing ever moves, and the skill no finite value.
            size = (
                f" (skill over persistence at {in_steps([longest])}: {number})"
                if finite_or_none(number.value) is not None
                else ""
            )
            sentences.append(f"Open-loop prediction of {key} is {by_horizon(verdicts)}{size}.")
        return sentences

    def highlights(self) -> list[str]:
        return [
            f"skill {found.horizons[max(found.horizons)].skill} of {key} at "
            f"{in_steps([max(found.horizons)])}"
            for key, found in self.observations.items()
        ]

    def figures(self) -> list[str]:
        curves = {key: o.curve for key, o in self.observations.items() if o.curve is not None}
        legend = [("model", "model"), ("baseline", "persistence")]
        if any(curve.climatology is not None for curve in curves.values()):
            legend.append(("dataset", "climatology (median only)"))
        panels = [
            (key, _curve_panel(key, self.observations[key].unit, c)) for key, c in curves.items()
        ]
        caption = "Error by horizon: median over starts, and the quartiles as a band."
        drawn = [figure(caption, panels, legend)] if panels else []
        for key, found in self.observations.items():
            if found.examples:
                draw = _strips if found.examples[0].real.ndim == 4 else _lines
                drawn.append(draw(key, found.examples))
        return drawn


def unit_of(observation: ObservationSpec) -> str:
    return "share of the pixel range" if observation.is_image else "training standard deviations"


def _caveats(rollouts: OpenLoopEvaluator) -> list[str]:
    episodes = len(np.unique(rollouts.starts.episodes))
    notes = list(rollouts.notes)
    if 1 < episodes < FEW_EPISODES:
        notes.append(
            f"Only {episodes} held-out episodes: intervals of the prediction errors are too narrow."
        )
    if episodes == 1:
        notes.append(
            "A single held-out episode: intervals of the prediction errors come from its starts, "
            "which are not independent, and are too narrow."
        )
    return notes


def _horizons(
    rollouts: OpenLoopEvaluator, name: str, unit: str, bootstrap: Bootstrap
) -> tuple[dict[int, HorizonMetrics], list[Measure]]:
    measured = {h: _measured(rollouts, name, place, h) for place, h in enumerate(rollouts.horizons)}
    horizons = {
        h: HorizonMetrics(
            error=at["error"].estimate(bootstrap),
            persistence=at["persistence"].estimate(bootstrap),
            skill=at["skill"].estimate(bootstrap),
            climatology=at["climatology"].estimate(bootstrap) if "climatology" in at else None,
            skill_climatology=at["skill_climatology"].estimate(bootstrap)
            if "climatology" in at
            else None,
            quartiles=_quartiles(rollouts, name, h, bootstrap),
            dimensions=[x.estimate(bootstrap) for n, x in at.items() if n.startswith("dimension")],
            images={n: x.estimate(bootstrap) for n, x in at.items() if n[:4] in ("psnr", "ssim")},
        )
        for h, at in measured.items()
    }
    compared = [
        Measure(
            f"prediction.{name}",
            f"Prediction of {name}",
            f"Open-loop error of {name}, in {unit}",
            "steps",
            f"error, {unit}",
            {str(h): at["error"] for h, at in measured.items()},
            baseline={str(h): n.persistence for h, n in horizons.items()},
        )
    ]
    for measure in rollouts.metrics.images.get(name, {}):
        subject = f"{measure.upper()} of {name}"
        rows = {str(h): at[measure] for h, at in measured.items()}
        compared.append(
            Measure(f"{measure}.{name}", subject, subject, "steps", measure.upper(), rows, MORE)
        )
    return horizons, compared


def _measured(
    rollouts: OpenLoopEvaluator, name: str, place: int, horizon: int
) -> dict[str, Measured]:
    """At the horizon in place `place` of those of the options."""
    metrics, at = rollouts.metrics, rollouts.reached(horizon)
    error, *baselines = metrics.errors[name][:, at.mask, horizon - 1]

    def middle(values: np.ndarray, of: str = "") -> Measured:
        return Measured(median(values), at.episodes, f"median{of} over {at.text}")

    found = {"error": middle(error)}
    for baseline, values in zip(("persistence", "climatology"), baselines, strict=False):
        found[baseline] = middle(values)
        what = f"1 - median error / median error of {baseline}, over {at.text}"
        key = "skill" if baseline == "persistence" else "skill_climatology"
        found[key] = Measured(skill(error, values), at.episodes, what)
    if name in metrics.dimensions:
        for d, values in enumerate(metrics.dimensions[name][at.mask, place].T):
            found[f"dimension {d}"] = middle(values, f" of dimension {d}")
    for measure, values in metrics.images.get(name, {}).items():
        for agent, of in enumerate(("", "_persistence")):
            of_agent = values[agent, at.mask, place]
            found[f"{measure}{of}"] = middle(of_agent, f" {measure.upper()}")
    return found


def _quartiles(
    rollouts: OpenLoopEvaluator, name: str, horizon: int, bootstrap: Bootstrap
) -> tuple[Estimate, Estimate]:
    at = rollouts.reached(horizon)
    statistic = quantiles(rollouts.metrics.errors[name][0, at.mask, horizon - 1], [0.25, 0.75])
    lower, upper = bootstrap.clustered_many(statistic, at.episodes, f"quartile over {at.text}")
    return lower, upper


def _curve(errors: np.ndarray, rollouts: OpenLoopEvaluator) -> Curve:
    """From errors (K, N, H)."""
    with np.errstate(invalid="ignore"):
        quartiles = np.nanquantile(errors, [0.25, 0.5, 0.75], axis=1).swapaxes(0, 1)
    reached = rollouts.starts.remaining_steps[:, None] >= np.arange(1, errors.shape[-1] + 1)
    model, persistence, *climatology = quartiles
    return Curve(model, persistence, climatology[0] if climatology else None, reached.sum(0))


def _examples(rollouts: OpenLoopEvaluator, errors: np.ndarray) -> dict[str, list[ExampleRollout]]:
    """A few starts in full, by the model's error (N, H) at the longest horizon."""
    able = np.flatnonzero(rollouts.starts.remaining_steps >= rollouts.horizon)
    able = able[np.argsort(errors[able, -1], kind="stable")]
    named = {int(able[round(q * (len(able) - 1))]): name for name, q in EXAMPLES.items()}

    def example(name: str, at: int, imagined: np.ndarray) -> ExampleRollout:
        start = rollouts.starts.take(np.array([at]))
        row, seen = int(start.rows[0]), int(start.context_lengths[0])
        real = rollouts.rows.observation[name][row - seen + 1 : row + rollouts.horizon + 1]
        return ExampleRollout(named[at], int(start.episodes[0]), row, seen, real, imagined)

    return {
        name: [example(name, at, x[:, i]) for i, at in zip(range(x.shape[1]), named, strict=False)]
        for name, x in rollouts.examples(np.array(list(named))).items()
    }


def _verdict(numbers: HorizonMetrics) -> str:
    """Against persistence by the interval of the skill, then against climatology."""
    if not numbers.skill.low > 0:
        return "worse than persistence" if numbers.skill.high < 0 else "no better than persistence"
    climatology = numbers.climatology
    if climatology is not None and not numbers.error.high < climatology.value:
        return "better than persistence but not clearly than the training mean"
    return "better than persistence" + (" and the training mean" if climatology else "")


# ------------------------------------------------------------------------------ tables and figures


def _table(key: str, found: ObservationPrediction) -> ResultTable:
    """A row for every horizon; narrower in a terminal."""
    titles = {
        "skill": "skill",
        "error": "error",
        "error_lower_quartile": "lower quartile",
        "error_upper_quartile": "upper quartile",
        "persistence": "persistence",
        "climatology": "climatology",
        "skill_climatology": "skill over climatology",
        "psnr": "PSNR",
        "psnr_persistence": "PSNR of persistence",
        "ssim": "SSIM",
        "ssim_persistence": "SSIM of persistence",
    }
    rows = {
        h: {titles[name]: row[name] for name in titles if name in row}
        for h, row in ((h, n.numbers()) for h, n in found.horizons.items())
    }
    hidden = [title for title in titles.values() if title not in ("skill", "error", "persistence")]
    title = f"Open-loop error of {key}, in {found.unit}"
    return table_by_horizon(title, rows, hidden)


def _worst_dimensions(key: str, found: ObservationPrediction) -> list[ResultTable]:
    """The worst dimensions of a short vector at the longest horizon; results.json has all."""
    longest = max(found.horizons)
    errors = found.horizons[longest].dimensions
    if not 2 <= len(errors) <= MOST_IN_TABLE:
        return []
    worst = sorted(range(len(errors)), key=lambda d: -errors[d].value)[:WORST]
    count = len(errors)
    which = f"The worst {len(worst)} of {count}" if count > WORST else f"The {count}"
    title = f"{which} dimensions of {key} after {in_steps([longest])}"
    return [ResultTable(title, ["dimension", "error"], [[str(d), errors[d]] for d in worst])]


def _curve_panel(key: str, unit: str, curve: Curve) -> str:
    steps = np.arange(1, curve.model.shape[1] + 1)
    _, top = extent(curve.model, curve.persistence)
    panel = Panel(
        (min(1, steps[-1] - 1), steps[-1]),
        (0, top),
        label=f"{key}: error of model and persistence by horizon",
        x_title="steps ahead",
        y_title="error / pixel range" if "pixel" in unit else "error / training std",
        width=400,
        height=250,
    )
    panel.band(steps, curve.persistence[0], curve.persistence[2], "baseline")
    panel.band(steps, curve.model[0], curve.model[2], "model")
    if curve.climatology is not None:
        panel.line(steps, curve.climatology[1], "dataset dashed")
    panel.line(steps, curve.persistence[1], "baseline")
    panel.line(steps, curve.model[1], "model")
    return panel.svg()


def _lines(key: str, examples: list[ExampleRollout]) -> str:
    """Vectors over time."""
    size = examples[0].real.shape[1]
    spread = np.concatenate([e.real for e in examples]).std(0)
    dimensions = np.sort(np.argsort(-spread, kind="stable")[:MOST_DIMENSIONS])
    panels = [
        (f"{key}[{d}] \u00b7 {e.name} start", _line_panel(key, int(d), e, examples))
        for d in dimensions
        for e in examples
    ]
    some = f"The {len(dimensions)} of {size} dimensions that vary most. " if size > 4 else ""
    return figure(
        f"Imagined and real: {key}. {some}{_which(examples)} Left of the dotted line the model "
        "observes the episode, right of it only the actions.",
        panels,
        [("real", "real"), ("model", "imagined (mean; thin: sampled rollouts)")],
    )


def _line_panel(key: str, d: int, example: ExampleRollout, examples: list[ExampleRollout]) -> str:
    real, imagined = example.real[:, d], example.imagined[:, :, d]
    ahead = np.arange(len(real)) - example.context_length + 1
    panel = Panel(
        (ahead[0], ahead[-1]),
        extent(*(e.real[:, d] for e in examples), *(e.imagined[..., d] for e in examples)),
        label=f"{key}[{d}], {example.name} start: imagined and real",
        x_title="steps ahead",
        height=180,
    )
    panel.rule(0)
    future = ahead[example.context_length :]
    for sample in imagined:
        panel.line(future, sample, "model thin")
    panel.line(ahead, real, "real")
    panel.line(future, imagined.mean(0), "model")
    return panel.svg()


def _strips(key: str, examples: list[ExampleRollout]) -> str:
    """Images, moving and as strips."""
    panels = [
        (f"{e.name} start", image_strip(e.real[e.context_length :], e.imagined)) for e in examples
    ]
    return figure(
        f"Imagined and real: {key}. {_which(examples)} Moving: real on the left, the mean of the "
        "sampled rollouts on the right. Below: real in the upper row, imagined in the lower row, "
        "with the number of steps ahead.",
        panels,
    )


def _which(examples: list[ExampleRollout]) -> str:
    if len(examples) < len(EXAMPLES):
        return f"{len(examples)} held-out start(s)."
    return (
        "Three held-out starts, at the 25th, 50th and 75th percentile of the model's error at the "
        "longest horizon."
    )
