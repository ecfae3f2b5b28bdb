"""Open-loop prediction: how far the model's future is from the logged one, horizon by horizon.

From a start the model has seen `context` logged rows; then it follows the logged actions without
seeing more. Its prediction is the mean over sampled futures. Two baselines: persistence repeats
the last seen observation; climatology is always the training mean (vectors only), which beats
persistence in the long run without knowing any dynamics. Of the model, only its interface is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import numpy as np

from worldmodel.config import EvaluationOptions
from worldmodel.data.spec import DataSpec, ObservationSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.evaluation.calibration import FEWEST_SAMPLES, Calibration, calibration_at
from worldmodel.evaluation.rewards_and_termination import (
    RewardMetrics,
    TerminationMetrics,
    predict_terminations,
    reward_metrics,
    termination_metrics,
)
from worldmodel.evaluation.sampled_rollouts import OpenLoopEvaluator, OpenLoopMetrics
from worldmodel.evaluation.starts import PredictionStarts, prediction_starts
from worldmodel.evaluation.statistics import Bootstrap, Estimate, median, quantiles, skill
from worldmodel.evaluation.usable_horizon import UsableHorizon, usable_horizon
from worldmodel.models.interface import WorldModel

FEW_EPISODES = 5  # below which resampling them says little
EXAMPLES = {"easier": 0.25, "typical": 0.5, "harder": 0.75}  # quantiles of the error


@dataclass(frozen=True)
class HorizonMetrics:
    """Medians over starts at one horizon, in the unit of the observation, and the skills.

    quartiles: of the error, lower and upper; dimensions: the error of each number of a vector;
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


@dataclass(frozen=True)
class Curve:
    """Quartiles (3, H) of the error over starts at horizons 1 to H, and the starts (H,) at each."""

    model: np.ndarray
    persistence: np.ndarray
    climatology: np.ndarray | None
    starts: np.ndarray


@dataclass(frozen=True)
class ExampleRollout:
    """One start in raw units. real: (seen + H, ...), the context first; imagined: (S, H, ...)."""

    name: str
    episode: int
    row: int
    context_length: int
    real: np.ndarray
    imagined: np.ndarray


@dataclass(frozen=True)
class ObservationPrediction:
    """All about one named observation. `calibration` is by horizon, where futures differ."""

    unit: str
    horizons: dict[int, HorizonMetrics]
    curve: Curve
    examples: list[ExampleRollout]
    usable: UsableHorizon | None = None
    calibration: dict[int, Calibration] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """Open-loop prediction of every observation, and by horizon of rewards and ends, where the logs
    have them; `notes` tell what was left out.
    """

    observations: dict[str, ObservationPrediction]
    notes: list[str]
    rewards: dict[int, RewardMetrics] = field(default_factory=dict)
    terminations: dict[int, TerminationMetrics] = field(default_factory=dict)


def evaluate_open_loop(
    model: WorldModel,
    spec: DataSpec,
    held_out: Trajectories,
    options: EvaluationOptions,
    key: jax.Array,
) -> Prediction:
    """Judges `model` on held-out episodes. Each horizon uses the starts for which it exists."""
    horizons, starts, notes = prediction_starts(held_out, options)
    judge = OpenLoopEvaluator(model, spec, held_out, starts, options, horizons, key)
    measured = judge.evaluate()
    examples = _examples(judge, next(iter(measured.errors.values()))[0])
    bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)

    def judged(name: str) -> ObservationPrediction:
        errors, scores = measured.errors[name], measured.scores.get(name)
        by_place = list(enumerate(horizons))
        told = (options.num_samples, not spec.observations[name].is_image, bootstrap)
        return ObservationPrediction(
            unit=unit_of(spec.observations[name]),
            horizons={h: _numbers(measured, name, i, starts, h, bootstrap) for i, h in by_place},
            curve=_curve(errors, starts),
            examples=examples[name],
            usable=usable_horizon(errors, starts, bootstrap),
            calibration={h: calibration_at(scores, i, starts, h, *told) for i, h in by_place}
            if scores is not None
            else {},
        )

    keys = {name: judged(name) for name in measured.errors}
    rewards, ends = {}, {}
    if measured.reward is not None:
        rewards = reward_metrics(measured.reward, held_out, spec, starts, horizons, bootstrap)
    if held_out.terminated.any():
        foretold = predict_terminations(judge, measured.termination_probability, held_out, horizons)
        ends = termination_metrics(foretold, bootstrap)
    notes += _notes(measured, held_out, starts, options)
    return Prediction(keys, notes, rewards, ends)


def _notes(
    measured: OpenLoopMetrics,
    held_out: Trajectories,
    starts: PredictionStarts,
    options: EvaluationOptions,
) -> list[str]:
    """What one has to know of how it was judged."""
    notes = []
    if 1 < (episodes := len(np.unique(starts.episodes))) < FEW_EPISODES:
        notes.append(
            f"Only {episodes} held-out episodes: intervals of the prediction errors are too narrow."
        )
    if episodes == 1:
        notes.append(
            "A single held-out episode: intervals of the prediction errors come from its starts, "
            "which are not independent, and are too narrow."
        )
    if options.num_samples < FEWEST_SAMPLES:
        notes.append(
            f"Calibration needs evaluation.num_samples of {FEWEST_SAMPLES} or more; 39 have intervals "
            "that should hold exactly 50, 80, 90 and 95 %."
        )
    elif missing := [name for name in measured.errors if name not in measured.scores]:
        notes.append(
            f"All sampled futures of {', '.join(missing)} agree: there is no spread to judge."
        )
    if measured.reward is None:
        notes.append("The logs hold no reward: the reward is not judged.")
    if not held_out.terminated.any():
        notes.append("No held-out episode was terminated: the model's ends are not judged.")
    return notes


def open_loop_errors(
    model: WorldModel,
    spec: DataSpec,
    held_out: Trajectories,
    options: EvaluationOptions,
    key: jax.Array,
) -> tuple[PredictionStarts, dict[str, np.ndarray]]:
    """The N starts of `evaluate_open_loop` and the errors behind its numbers, to compare models on them.

    Errors are name -> (K, N, H) at horizons 1 to H, NaN past an episode's end. K: the model,
    persistence and, for vectors, climatology. PredictionStarts depend on `held_out` and `options` alone.
    """
    horizons, starts, _ = prediction_starts(held_out, options)
    judge = OpenLoopEvaluator(model, spec, held_out, starts, options, horizons, key)
    return starts, judge.evaluate().errors


def _examples(judge: OpenLoopEvaluator, errors: np.ndarray) -> dict[str, list[ExampleRollout]]:
    """A few starts in full, by the model's error (N, H) at the longest horizon."""
    able = np.flatnonzero(judge.starts.remaining_steps >= judge.horizon)
    able = able[np.argsort(errors[able, -1], kind="stable")]
    named = {able[round(q * (len(able) - 1))]: name for name, q in EXAMPLES.items()}

    def example(name: str, at: int, imagined: np.ndarray) -> ExampleRollout:
        start = judge.starts.take(np.array([at]))
        row, seen, episode = (
            int(start.rows[0]),
            int(start.context_lengths[0]),
            int(start.episodes[0]),
        )
        real = judge.rows.observation[name][row - seen + 1 : row + judge.horizon + 1]
        return ExampleRollout(named[at], episode, row, seen, real, imagined)

    return {
        name: [example(name, at, x[:, i]) for i, at in zip(range(x.shape[1]), named, strict=False)]
        for name, x in judge.examples(np.array(list(named))).items()
    }


def unit_of(observation: ObservationSpec) -> str:
    return "share of the pixel range" if observation.is_image else "training standard deviations"


def _numbers(
    measured: OpenLoopMetrics,
    name: str,
    place: int,
    starts: PredictionStarts,
    horizon: int,
    bootstrap: Bootstrap,
) -> HorizonMetrics:
    """At the horizon that is in place `place` of those asked for."""
    there = starts.remaining_steps >= horizon
    errors, episodes = measured.errors[name][:, there, horizon - 1], starts.episodes[there]
    count = len(np.unique(episodes))
    over = (
        f"over {there.sum()} starts in {count} held-out {'episode' if count == 1 else 'episodes'}"
    )

    def middle(values: np.ndarray, of: str = "") -> Estimate:
        return bootstrap.clustered(median(values), episodes, f"median{of} {over}")

    def skill_over(reference: np.ndarray, called: str) -> Estimate:
        what = f"1 - median error / median error of {called}, {over}"
        return bootstrap.clustered(skill(errors[0], reference), episodes, what)

    quartiles = quantiles(errors[0], [0.25, 0.75])
    lower, upper = bootstrap.clustered_many(quartiles, episodes, f"quartile {over}")
    images = measured.images.get(name, {})
    return HorizonMetrics(
        error=middle(errors[0]),
        persistence=middle(errors[1]),
        skill=skill_over(errors[1], "persistence"),
        climatology=middle(errors[2]) if len(errors) > 2 else None,
        skill_climatology=skill_over(errors[2], "climatology") if len(errors) > 2 else None,
        quartiles=(lower, upper),
        dimensions=[
            middle(e, f" of dimension {d}")
            for d, e in enumerate(measured.dimensions[name][there, place].T)
        ]
        if name in measured.dimensions
        else [],
        images={
            f"{measure}{of}": middle(values[who, there, place], f" {measure.upper()}")
            for measure, values in images.items()
            for who, of in enumerate(("", "_persistence"))
        },
    )


def _curve(errors: np.ndarray, starts: PredictionStarts) -> Curve:
    """From errors (K, N, H)."""
    with np.errstate(invalid="ignore"):
        quartiles = np.nanquantile(errors, [0.25, 0.5, 0.75], axis=1).swapaxes(0, 1)
    count = (starts.remaining_steps[:, None] >= np.arange(1, errors.shape[-1] + 1)).sum(0)
    model, persistence, *climatology = quartiles
    return Curve(model, persistence, climatology[0] if climatology else None, count)
