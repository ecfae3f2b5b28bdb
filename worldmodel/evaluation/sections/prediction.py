"""Open-loop prediction: how far the rollouts are from the logged observations at each horizon.

The prediction is the mean of sampled rollouts. There are two baselines: persistence repeats the
last observation; climatology is always the training mean (vectors only), which is better than
persistence at long horizons without any knowledge of the dynamics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from worldmodel.config.registry import register
from worldmodel.data.spec import ObservationSpec
from worldmodel.evaluation.example_rollouts import (
    EXAMPLES,
    ExampleRollout,
    draw_images,
    draw_vectors,
)
from worldmodel.evaluation.figures import Panel, extent, figure
from worldmodel.evaluation.result_table import (
    ResultTable,
    by_horizon,
    in_steps,
    table_by_horizon,
    worst_dimensions,
)
from worldmodel.evaluation.sampled_rollouts import OpenLoopEvaluator, Reached
from worldmodel.evaluation.section import MORE, Context, Measure, Section
from worldmodel.evaluation.statistics import (
    Bootstrap,
    Estimate,
    Measured,
    estimates,
    finite_or_none,
    median,
    quantiles,
    skill,
)

FEW_EPISODES = 5  # resampling fewer gives intervals that are too narrow
COLUMNS = {
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
IN_TERMINAL = ("skill", "error", "persistence")


@dataclass(frozen=True)
class HorizonMetrics:
    """Medians over starts at one horizon, in the unit of the observation, and the skills.

    climatology and its skill are of vectors alone, psnr and ssim of images alone
    dimensions: the error of each dimension of a vector
    """

    error: Estimate
    persistence: Estimate
    skill: Estimate
    error_lower_quartile: Estimate | None = None
    error_upper_quartile: Estimate | None = None
    climatology: Estimate | None = None
    skill_climatology: Estimate | None = None
    psnr: Estimate | None = None
    psnr_persistence: Estimate | None = None
    ssim: Estimate | None = None
    ssim_persistence: Estimate | None = None
    dimensions: Sequence[Estimate] = ()

    def numbers(self) -> dict[str, Any]:
        """By name, without those that do not exist."""
        return {name: number for name, number in vars(self).items() if number}


@dataclass(frozen=True)
class Curve:
    """Quartiles (3, H) of the error over starts at horizons 1 to H, and the starts (H,) at each."""

    model: np.ndarray
    persistence: np.ndarray
    climatology: np.ndarray | None
    starts: np.ndarray

    def numbers(self) -> dict[str, Any]:
        """The medians, and the number of starts."""
        curves = {
            "error": self.model,
            "persistence": self.persistence,
            "climatology": self.climatology,
        }
        medians = {name: values[1] for name, values in curves.items() if values is not None}
        return medians | {"n": self.starts}


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
            measured = {at.horizon: _measured(rollouts, name, at) for at in rollouts.all_reached}
            horizons = {
                at.horizon: HorizonMetrics(
                    **estimates(measured[at.horizon], bootstrap),
                    dimensions=_dimensions(rollouts, name, at, bootstrap),
                )
                for at in rollouts.all_reached
            }
            curve = _curve(errors, rollouts)
            observations[name] = ObservationPrediction(unit, horizons, curve, examples[name])
            compared += _measures(name, unit, measured, horizons)
        return cls(observations, caveats=_caveats(rollouts), compared=compared)

    def numbers(self) -> dict[str, Any]:
        keys = self.observations.items()
        return {
            "prediction": {key: found.horizons for key, found in keys},
            "units": {key: found.unit for key, found in keys},
            "curves": {key: found.curve for key, found in keys if found.curve},
        }

    def tables(self) -> list[ResultTable]:
        tables = []
        for key, found in self.observations.items():
            longest = max(found.horizons)
            errors = {"error": found.horizons[longest].dimensions}
            tables += [_table(key, found), *worst_dimensions("Error", key, longest, errors)]
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
                draw = draw_images if found.examples[0].real.ndim == 4 else draw_vectors
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


def _measured(rollouts: OpenLoopEvaluator, name: str, at: Reached) -> dict[str, Measured]:
    """All of `HorizonMetrics` but the dimensions."""
    metrics = rollouts.metrics
    error, *baselines = metrics.errors[name][:, at.mask, at.horizon - 1]

    def middle(values: np.ndarray, of: str = "") -> Measured:
        return Measured(median(values), at.episodes, f"median{of} over {at.text}")

    found = {"error": middle(error)}
    for side, level in (("lower", 0.25), ("upper", 0.75)):
        quartile = Measured(quantiles(error, [level]), at.episodes, f"quartile over {at.text}")
        found[f"error_{side}_quartile"] = quartile
    for baseline, values in zip(("persistence", "climatology"), baselines, strict=False):
        found[baseline] = middle(values)
        what = f"1 - median error / median error of {baseline}, over {at.text}"
        key = "skill" if baseline == "persistence" else "skill_climatology"
        found[key] = Measured(skill(error, values), at.episodes, what)
    for measure, values in metrics.images.get(name, {}).items():
        for agent, of in enumerate(("", "_persistence")):
            of_agent = values[agent, at.mask, at.place]
            found[f"{measure}{of}"] = middle(of_agent, f" {measure.upper()}")
    return found


def _dimensions(
    rollouts: OpenLoopEvaluator, name: str, at: Reached, bootstrap: Bootstrap
) -> list[Estimate]:
    if name not in rollouts.metrics.dimensions:
        return []
    errors = rollouts.metrics.dimensions[name][at.mask, at.place]
    return [
        bootstrap.clustered(median(x), at.episodes, f"median of dimension {d} over {at.text}")
        for d, x in enumerate(errors.T)
    ]


def _measures(
    name: str,
    unit: str,
    measured: dict[int, dict[str, Measured]],
    horizons: dict[int, HorizonMetrics],
) -> list[Measure]:
    title, axis = f"Open-loop error of {name}, in {unit}", f"error, {unit}"
    rows = {str(h): at["error"] for h, at in measured.items()}
    baseline = {str(h): numbers.persistence for h, numbers in horizons.items()}
    subject = f"Prediction of {name}"
    found = [Measure(f"prediction.{name}", subject, title, axis, rows, baseline=baseline)]
    for kind in ("psnr", "ssim"):
        subject = f"{kind.upper()} of {name}"
        rows = {str(h): at[kind] for h, at in measured.items() if kind in at}
        if rows:
            found.append(Measure(f"{kind}.{name}", subject, subject, kind.upper(), rows, MORE))
    return found


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
        raw = rollouts.spec.observations[name].to_raw
        episode = int(start.episodes[0])
        return ExampleRollout(named[at], episode, row, seen, raw(real), raw(imagined))

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
    numbers = {h: metrics.numbers() for h, metrics in found.horizons.items()}
    rows = {h: {COLUMNS[n]: row[n] for n in COLUMNS if n in row} for h, row in numbers.items()}
    hidden = [title for title in COLUMNS.values() if title not in IN_TERMINAL]
    return table_by_horizon(f"Open-loop error of {key}, in {found.unit}", rows, hidden)


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
