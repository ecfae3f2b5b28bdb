"""Uncertainty of an ensemble: does it predict the error?

On held-out episodes: the error of the mean of sampled rollouts after 1 and 5 steps under the logged
actions, and each measure summed over those steps, as a penalty would be. (The comparison of Lu et
al., ICLR 2022, arXiv 2110.04135.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import StepArrays, Window, step_arrays
from worldmodel.evaluation.correlation import pearson, sparsification, spearman
from worldmodel.evaluation.result_table import Cell, ResultTable, in_steps
from worldmodel.evaluation.section import Context, Section
from worldmodel.evaluation.starts import PredictionStarts, context_of, prediction_starts, take
from worldmodel.evaluation.statistics import Bootstrap, Estimate, Measured, estimates
from worldmodel.imagination.uncertainty import UNCERTAINTIES, measure_uncertainty
from worldmodel.models.interface import WorldModel

STEPS = (1, 5)
MOST_STARTS = 1000


@dataclass(frozen=True)
class UncertaintyQuality:
    """Agreement of one measure with the error: rank and linear correlation, higher is better, and
    area under the sparsification error, from 0 (as good as the error itself) to 1 (chance) and up.
    """

    spearman: Estimate
    pearson: Estimate
    ause: Estimate

    @classmethod
    def of(
        cls, uncertainty: np.ndarray, error: np.ndarray, episodes: np.ndarray, bootstrap: Bootstrap
    ) -> UncertaintyQuality:
        """From N starts (N,) in `episodes` (N,)."""
        over = f"over {len(error)} starts in {len(np.unique(episodes))} held-out episodes"
        measured = {
            name: Measured(statistic(uncertainty, error), episodes, f"{what} {over}")
            for name, what, statistic in (
                ("spearman", "rank correlation", spearman),
                ("pearson", "linear correlation", pearson),
                ("ause", "area under the sparsification error, 1: chance,", sparsification),
            )
        }
        return cls(**estimates(measured, bootstrap))


@register("section", "uncertainty", order=80)
@dataclass(frozen=True)
class Uncertainty(Section):
    """The agreement of every measure with the error: `quality[name][steps]`."""

    title = "Uncertainty"
    absent = {"uncertainty": None}

    quality: dict[str, dict[int, UncertaintyQuality]]

    @classmethod
    def applies(cls, context: Context) -> bool | str:
        return context.model.has_dynamics and is_ensemble(context.model, context.spec)

    @classmethod
    def run(cls, context: Context) -> Self:
        starts, found, error = uncertainties_and_errors(context)
        steps = [h for h in STEPS if (starts.remaining_steps >= h).any()]

        def agreement(values: np.ndarray, h: int) -> UncertaintyQuality:
            there = starts.remaining_steps >= h
            return UncertaintyQuality.of(
                values[there, h - 1], error[there, h - 1], starts.episodes[there], context.bootstrap
            )

        return cls({name: {h: agreement(x, h) for h in steps} for name, x in found.items()})

    def numbers(self) -> dict[str, Any]:
        return {"uncertainty": self.quality}

    @property
    def explanation(self) -> str:
        return (
            "Each measure is summed over the steps; the error is the norm over all dimensions and "
            "the reward, in training standard deviations. Sparsification: 0 where leaving out the "
            "most uncertain predictions is as good as leaving out the worst ones, 1 where it is as "
            "good as chance."
        )

    def tables(self) -> list[ResultTable]:
        """A table for each number of steps."""
        header = ["measure", "rank correlation", "linear correlation", "sparsification"]
        tables = []
        for steps in next(iter(self.quality.values())):
            rows: list[list[Cell]] = [
                [name.replace("_", " "), at[steps].spearman, at[steps].pearson, at[steps].ause]
                for name, at in self.quality.items()
            ]
            title = f"Uncertainty and error after {in_steps([steps])}"
            tables.append(ResultTable(title, header, rows))
        return tables


def is_ensemble(model: WorldModel, spec: DataSpec) -> bool:
    """Whether the model has two members or more, which could disagree. Nothing is computed."""
    action = jnp.zeros((1, *spec.action.shape), spec.action.dtype)
    members = jax.eval_shape(lambda: model.predict_members(model.initial((1,)), action))
    return members is not None and len(members.location) > 1


def uncertainties_and_errors(
    context: Context,
) -> tuple[PredictionStarts, dict[str, np.ndarray], np.ndarray]:
    """Returns N starts, evenly spaced over held-out episodes; every measure by name, (N, H), summed
    over steps 1 to H; and the error (N, H) after each of them, in training standard deviations: the
    norm over all dimensions and the reward. Values past an episode's end are not valid.
    """
    held_out, options, spec = context.held_out, context.options, context.spec
    per_episode = -(-MOST_STARTS // held_out.num_episodes)
    places_of = replace(options, horizons=list(STEPS), starts_per_episode=per_episode)
    horizons, starts, _ = prediction_starts(held_out, places_of)
    rows, steps = step_arrays(held_out), np.arange(horizons[-1] + 1)
    logged = take(rows, starts.rows[:, None] + np.minimum(steps, starts.remaining_steps[:, None]))
    scales = {name: jnp.asarray(o.std, jnp.float32) for name, o in spec.observations.items()}
    has_reward = spec.has_reward and held_out.rewards is not None
    scales = (scales, jnp.float32(spec.reward_mean_std[1]) if has_reward else None)
    window = context_of(rows, starts, options.context)
    keys, last = jax.random.split(context.key, options.num_samples), starts.context_lengths - 1
    found, error = _measure(context.model, window, jnp.asarray(last), logged, scales, keys)
    error = np.where(np.isnan(error), np.inf, error)  # infinite, not missing
    return starts, {name: np.asarray(found[name]) for name in UNCERTAINTIES}, error


@nnx.jit
def _measure(
    model: WorldModel,
    window: Window,
    last: jax.Array,
    logged: StepArrays,
    scales: tuple[dict[str, jax.Array], jax.Array | None],
    keys: jax.Array,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Measures {name: (N, H)}, summed over steps and averaged over S samples; the error (N, H).

    window: (N, C) observed steps, of which `last` (N,) is the last one that is not padding
    logged: (N, H+1) steps from it on; keys: (S,)
    scales: of observations, and of the reward, None for a dataset without
    """
    actions = logged.action[:, :-1]

    def imagine(key: jax.Array) -> tuple[dict[str, jax.Array], Any]:
        observe_key, rollout_key = jax.random.split(key)
        states = model.observe(window, observe_key)
        start = jax.tree.map(lambda x: x[jnp.arange(len(last)), last], states)
        arrived = model.rollout(start, actions, rollout_key)
        before = jax.tree.map(
            lambda x, y: jnp.concatenate([x[:, None], y[:, :-1]], 1), start, arrived
        )
        means = {name: p.mean() for name, p in model.observation(arrived).items()}
        reward = None if scales[1] is None else model.reward(arrived).mean()
        return measure_uncertainty(model, UNCERTAINTIES, before, actions), (means, reward)

    found, predicted = jax.tree.map(lambda x: x.mean(0), jax.lax.map(imagine, keys))
    observed = {name: logged.observation[name][:, 1:] for name in scales[0]}
    truth = (observed, None if scales[1] is None else logged.reward[:, :-1])
    errors = jax.tree.map(lambda x, y, scale: (x - y) / scale, predicted, truth, scales)
    squares = [
        jnp.square(x).reshape(*actions.shape[:2], -1).sum(-1) for x in jax.tree.leaves(errors)
    ]
    return {name: jnp.cumsum(x, 1) for name, x in found.items()}, jnp.sqrt(sum(squares))
