"""What an evaluation found, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.config.references import Reference
from worldmodel.evaluation import ranking
from worldmodel.evaluation.aggregates import note_on_seeds
from worldmodel.evaluation.free_run import FreeRun
from worldmodel.evaluation.policy_ranking import PolicyRanking
from worldmodel.evaluation.prediction import HorizonMetrics, ObservationPrediction, Prediction
from worldmodel.evaluation.returns import EvaluationEpisodes
from worldmodel.evaluation.spectrum import Spectrum
from worldmodel.evaluation.statistics import SEEDS, Estimate, finite_or_none
from worldmodel.evaluation.uncertainty import Uncertainty

AGENTS = ("policy", "planner")  # with the model, in the real environment


@dataclass(frozen=True)
class AgentReturns:
    """Mean return of one who acts, over episodes or training seeds, and all returns (episodes,).

    played: the episodes in full, those of each training seed; none of the logs
    success: the rate of what the environment calls success, where it tells
    normalized: the mean on a scale where a reference's pair is 0 and 100
    """

    mean: Estimate
    episodes: np.ndarray
    rollouts: Sequence[EvaluationEpisodes] = ()
    success: Estimate | None = None
    normalized: Estimate | None = None


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from. `split` is the digest of the episodes judged on, `data` says of
    which logs they are.
    """

    run: str = ""
    stage: str = ""
    step: int = 0
    held_out_sha256: str = ""
    command: str = ""
    environment: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    data: str = ""


@dataclass(frozen=True)
class Scale:
    """What normalised scores are counted by, and what is to be said of it."""

    reference: Reference
    note: str


@dataclass(frozen=True)
class Results:
    """A whole evaluation. `returns` holds those of policy, planner, logs and random that could be
    had; `spectrum` is that of a linear latent, `uncertainty` that of an ensemble, `decision` how
    the model ranks policies and plans; `scale` is there where returns are normalised; `last` what
    was found of the last checkpoint where these numbers are those of the best; `free_run`, by
    observation, where that was asked for.
    """

    prediction: Prediction
    returns: dict[str, AgentReturns]
    confidence: float
    provenance: Provenance
    spectrum: Spectrum | None = None
    uncertainty: Uncertainty | None = None
    decision: PolicyRanking | None = None
    scale: Scale | None = None
    last: Results | None = None
    free_run: dict[str, FreeRun] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """What one has to know beside the numbers."""
        said = [note_on_seeds(_seeds(self))] if self.provenance.stage else []
        if (seeds := _seeds(self)) > 1:
            said.append(
                f"Prediction, calibration and ranking are of the first of {seeds} training seeds, "
                "returns of all."
            )
        said += [] if self.scale is None else [self.scale.note]
        said += [] if self.decision is None else ranking.notes(self.decision)
        return [*self.prediction.notes, *filter(None, said)]


def _seeds(results: Results) -> int:
    """How many were trained."""
    return max(
        (r.mean.n for r in results.returns.values() if r.mean.sample_unit == SEEDS), default=1
    )


def checkpoint(source: Provenance) -> str:
    return f"{source.stage}, step {source.step:,}" if source.stage else "not from a run"


def to_json(results: Results) -> dict[str, Any]:
    """Plain JSON: `prediction.KEY.HORIZON.{error, ...}` and `returns.{policy, planner, ...}`.

    `curves` holds the median error at every horizon; `episodes` single returns, to compare runs on
    the same seeds; `spectrum` the modes of a linear latent, else null; `uncertainty`, of an
    ensemble, MEASURE.STEPS.{spearman, pearson, ause}, else null. `calibration.KEY.HORIZON` is of
    sampled futures; `usable_horizon.KEY`, `reward.HORIZON` and `terminal.HORIZON` are of the same
    starts; `last` has step, prediction, returns, decision of the last checkpoint beside the best;
    `free_run`, where whole records were simulated, KEY.{context, mean, channels, records}, else
    null.
    """
    source = results.provenance
    return {
        "run": source.run,
        "stage": source.stage,
        "step": source.step,
        "prediction": {
            key: {str(h): _numbers(n) for h, n in judged.horizons.items()}
            for key, judged in results.prediction.observations.items()
        },
        "calibration": {
            key: {str(h): c.to_json() for h, c in judged.calibration.items()}
            for key, judged in results.prediction.observations.items()
        },
        "usable_horizon": {
            key: judged.usable.to_json()
            for key, judged in results.prediction.observations.items()
            if judged.usable is not None
        },
        "reward": {str(h): r.to_json() for h, r in results.prediction.rewards.items()},
        "terminal": {str(h): e.to_json() for h, e in results.prediction.terminations.items()},
        "returns": {name: r.mean.to_json() for name, r in results.returns.items()},
        "success": where_told(results, "success"),
        "normalized": where_told(results, "normalized"),
        "reference": None if results.scale is None else results.scale.reference.to_json(),
        "policy_ranking": None if results.decision is None else results.decision.to_json(),
        "last": None if results.last is None else _of_last(results.last),
        "units": {key: judged.unit for key, judged in results.prediction.observations.items()},
        "notes": results.notes,
        "curves": {key: _curves(judged) for key, judged in results.prediction.observations.items()},
        "episodes": {
            name: [finite_or_none(x) for x in r.episodes]
            for name, r in results.returns.items()
            if name != "dataset"
        },
        "spectrum": None if results.spectrum is None else results.spectrum.to_json(),
        "uncertainty": None if results.uncertainty is None else results.uncertainty.to_json(),
        "free_run": {key: run.to_json() for key, run in results.free_run.items()} or None,
        "environment": source.environment,
        "data": source.data,
        "held_out_sha256": source.held_out_sha256,
        "command": source.command,
        "seconds": source.seconds,
        "software": source.software,
        "config": source.config,
    }


def where_told(results: Results, name: str) -> dict[str, Any]:
    """Of everyone who acts, where there is such a number."""
    found = {who: getattr(r, name) for who, r in results.returns.items()}
    return {who: number.to_json() for who, number in found.items() if number is not None}


def episodes(results: Results) -> list[dict[str, Any]]:
    """Plain JSON, a row for every episode played: who acted, of which training seed (0, 1, ...),
    the episode's seed, return, length, how it ended, and success where the environment tells.
    """
    return [
        {"agent": who, "training_seed": seed} | row
        for who, earned in results.returns.items()
        for seed, played in enumerate(earned.rollouts)
        for row in played.rows()
    ]


def _numbers(numbers: HorizonMetrics) -> dict[str, Any]:
    lower, upper = numbers.quartiles or (None, None)
    found = {
        "error": numbers.error,
        "error_lower_quartile": lower,
        "error_upper_quartile": upper,
        "persistence": numbers.persistence,
        "skill": numbers.skill,
        "climatology": numbers.climatology,
        "skill_climatology": numbers.skill_climatology,
        **numbers.images,
    }
    single = {name: number.to_json() for name, number in found.items() if number is not None}
    each = [number.to_json() for number in numbers.dimensions]
    return single | ({"dimensions": each} if each else {})


def _of_last(last: Results) -> dict[str, Any]:
    whole = to_json(last)
    return {
        name: whole[name] for name in ("stage", "step", "prediction", "returns", "policy_ranking")
    }


def _curves(judged: ObservationPrediction) -> dict[str, Any]:
    curve = judged.curve
    medians = {
        "error": curve.model,
        "persistence": curve.persistence,
        "climatology": curve.climatology,
    }
    return {
        name: [finite_or_none(x) for x in quartiles[1]]
        for name, quartiles in medians.items()
        if quartiles is not None
    } | {"n": curve.starts.tolist()}
