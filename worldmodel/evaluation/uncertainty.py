"""Does an ensemble know where it is wrong? Its measures of uncertainty beside the true error.

On held-out episodes: the error, after 1 step and after 5 under the logged actions, of the mean of
sampled futures, and each measure summed over those steps, as a penalty would be. (The comparison of
Lu et al., ICLR 2022, arXiv 2110.04135.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.config import EvaluationOptions
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import StepArrays, Window, step_arrays
from worldmodel.evaluation.correlation import pearson, sparsification, spearman
from worldmodel.evaluation.starts import PredictionStarts, context_of, prediction_starts, take
from worldmodel.evaluation.statistics import Bootstrap, Estimate
from worldmodel.imagination.uncertainty import UNCERTAINTIES, measure_uncertainty
from worldmodel.models.interface import WorldModel

STEPS = (1, 5)
MOST_STARTS = 1000


@dataclass(frozen=True)
class UncertaintyQuality:
    """Of one measure with the error: rank and linear correlation, higher is better; and area under
    the sparsification error, from 0 (as good as the error itself) to 1 (chance) and more.
    """

    spearman: Estimate
    pearson: Estimate
    ause: Estimate

    @classmethod
    def of(
        cls, uncertainty: np.ndarray, error: np.ndarray, episodes: np.ndarray, bootstrap: Bootstrap
    ) -> UncertaintyQuality:
        """From N starts (N,) in `episodes` (N,)."""
        statistics = {
            "spearman": ("rank correlation", spearman),
            "pearson": ("linear correlation", pearson),
            "ause": ("area under the sparsification error, 1: chance,", sparsification),
        }
        over = f"{len(error)} starts in {len(np.unique(episodes))} held-out episodes"
        return cls(
            **{
                name: bootstrap.clustered(make(uncertainty, error), episodes, f"{what} over {over}")
                for name, (what, make) in statistics.items()
            }
        )

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).to_json() for name in ("spearman", "pearson", "ause")}


@dataclass(frozen=True)
class Uncertainty:
    """Every measure's agreement with the error: `measures[name][steps]`."""

    measures: dict[str, dict[int, UncertaintyQuality]]

    @property
    def steps(self) -> list[int]:
        return list(next(iter(self.measures.values())))

    def to_json(self) -> dict[str, Any]:
        return {
            name: {str(steps): agreement.to_json() for steps, agreement in by_steps.items()}
            for name, by_steps in self.measures.items()
        }


def evaluate_uncertainty(
    model: WorldModel,
    spec: DataSpec,
    held_out: Trajectories,
    options: EvaluationOptions,
    key: jax.Array,
) -> Uncertainty:
    """Judges a model that `is_ensemble`."""
    starts, found, error = uncertainties_and_errors(model, spec, held_out, options, key)
    bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
    steps = [h for h in STEPS if (starts.remaining_steps >= h).any()]

    def agreement(values: np.ndarray, h: int) -> UncertaintyQuality:
        there = starts.remaining_steps >= h
        at = values[there, h - 1], error[there, h - 1]
        return UncertaintyQuality.of(*at, starts.episodes[there], bootstrap)

    return Uncertainty({name: {h: agreement(x, h) for h in steps} for name, x in found.items()})


def is_ensemble(model: WorldModel, spec: DataSpec) -> bool:
    """Whether two members or more could disagree. Nothing is computed."""
    discrete, size = spec.action.discrete, spec.action.size
    action = jnp.zeros(1, jnp.int32) if discrete else jnp.zeros((1, size))
    members = jax.eval_shape(lambda: model.predict_members(model.initial((1,)), action))
    return members is not None and len(members.location) > 1


def uncertainties_and_errors(
    model: WorldModel,
    spec: DataSpec,
    held_out: Trajectories,
    options: EvaluationOptions,
    key: jax.Array,
) -> tuple[PredictionStarts, dict[str, np.ndarray], np.ndarray]:
    """PredictionStarts, evenly spaced over held-out episodes; every measure, summed over steps 1 to H, name
    -> (N, H), and the error after each of them (N, H), in training standard deviations: the norm
    over all dimensions and the reward. Past an episode's end they mean nothing.
    """
    per_episode = -(-MOST_STARTS // held_out.num_episodes)
    places_of = replace(options, horizons=list(STEPS), starts_per_episode=per_episode)
    horizons, starts, _ = prediction_starts(held_out, places_of)
    rows, steps = step_arrays(held_out), np.arange(horizons[-1] + 1)
    future = take(rows, starts.rows[:, None] + np.minimum(steps, starts.remaining_steps[:, None]))
    scales = {name: np.asarray(o.std, np.float32) for name, o in spec.observations.items()}
    if spec.has_reward and held_out.rewards is not None:
        scales["reward"] = np.float32(spec.reward_mean_std[1])
    window = context_of(rows, starts, options.context)
    keys = jax.random.split(key, options.num_samples)
    found, error = _judge(model, window, starts.context_lengths - 1, future, scales, keys)
    error = np.where(np.isnan(error), np.inf, error)  # infinitely wrong, not missing
    return starts, {name: np.asarray(found[name]) for name in UNCERTAINTIES}, error


@nnx.jit
def _judge(
    model: WorldModel,
    window: Window,
    last: jax.Array,
    future: StepArrays,
    scales: dict[str, jax.Array],
    keys: jax.Array,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Measures {name: (N, H)}, summed over steps and averaged over S futures; the error (N, H).

    window: (N, C) rows seen, of which `last` (N,) is the last real one; future: (N, H+1) rows from
    it on; keys: (S,)
    """
    actions = future.action[:, :-1]

    def imagine(key: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        observe_key, rollout_key = jax.random.split(key)
        states = model.observe(window, observe_key)
        start = jax.tree.map(lambda x: x[jnp.arange(len(last)), last], states)
        arrived = model.rollout(start, actions, rollout_key)
        before = jax.tree.map(
            lambda x, y: jnp.concatenate([x[:, None], y[:, :-1]], 1), start, arrived
        )
        means = {name: p.mean() for name, p in model.observation(arrived).items()}
        if "reward" in scales:  # without one in the logs there is none to tell, or to compare
            means["reward"] = model.reward(arrived).mean()
        return measure_uncertainty(model, UNCERTAINTIES, before, actions), means

    found, predicted = jax.tree.map(lambda x: x.mean(0), jax.lax.map(imagine, keys))
    truth = {name: x[:, 1:] for name, x in future.observation.items()}
    truth["reward"] = future.reward[:, :-1]
    off = [(predicted[name] - truth[name]) / scale for name, scale in scales.items()]
    squares = [jnp.square(x).reshape(*actions.shape[:2], -1).sum(-1) for x in off]
    return {name: jnp.cumsum(x, 1) for name, x in found.items()}, jnp.sqrt(sum(squares))
