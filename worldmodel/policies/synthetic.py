"""Imagined transitions for offline algorithms: rollouts from dataset states, with uncertainty
penalties and truncation.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.imagination import Actor, Rollout, imagine
from worldmodel.imagination.transitions import Transition, transitions_from_rollout
from worldmodel.imagination.uncertainty import (
    measured,
    penalize,
    step_uncertainty,
    truncate,
    with_uncertainty,
)
from worldmodel.models.interface import State, WorldModel
from worldmodel.models.latent import masked_mean
from worldmodel.policies.offline_options import OfflineOptions


class ImaginedTransitions(NamedTuple):
    """Transitions of N rollouts of H steps.

    transitions: (N H, ...)
    valid: (N H,) bool, those to learn from
    statistics: metrics by name, scalars
    """

    transitions: Transition
    valid: jax.Array
    statistics: dict[str, jax.Array]


class DatasetSteps(NamedTuple):
    """Dataset steps that uncertainty is calibrated on: states (N, ...), actions (N, A), and which
    of them are not padding, (N,) bool.
    """

    state: State
    action: jax.Array
    valid: jax.Array


def rollout_statistic_names(options: OfflineOptions) -> list[str]:
    """Names of the statistics that `generate_transitions` returns."""
    names = ["valid", "reward"]
    names += ["penalty"] * (options.penalty != "none")
    names += ["truncated"] * (options.truncation_quantile is not None)
    return [f"imagined/{name}" for name in names]


def generate_transitions(
    options: OfflineOptions,
    spec: DataSpec,
    model: WorldModel,
    actor: Actor,
    windows: Window,
    key: jax.Array,
) -> ImaginedTransitions:
    """Rolls out `actor` from the last but one step of each window (N, T), the last one whose action
    is in the window.
    """
    observe_key, rollout_key, end_key = jax.random.split(key, 3)
    start = jax.tree.map(lambda x: x[:, -2], model.observe(windows, observe_key))
    valid_start = windows.mask[:, -1] & ~windows.is_last[:, -2]
    dataset = DatasetSteps(start, windows.action[:, -2], valid_start)
    rollout = imagine(model, start, actor, options.horizon, rollout_key)
    statistics, penalty = {}, None
    if options.penalty != "none":
        rollout, penalty = _penalized(options, spec, model, rollout, dataset)
    if options.truncation_quantile is not None:
        measure, quantile = options.truncation_measure, options.truncation_quantile
        values = _of_dataset(measure, model, dataset)
        limit = jnp.nanquantile(jnp.where(dataset.valid, values, jnp.nan), quantile)
        rollout = truncate(with_uncertainty(model, measure)(rollout), limit)
        statistics["imagined/truncated"] = 1.0 - rollout.mask.mean()
    transitions, valid = transitions_from_rollout(rollout, valid_start, end_key)
    if penalty is not None:
        statistics["imagined/penalty"] = masked_mean(penalty.reshape(-1), valid)
    statistics["imagined/valid"] = valid.mean()
    statistics["imagined/reward"] = masked_mean(transitions.reward, valid)
    return ImaginedTransitions(transitions, valid, statistics)


def _penalized(
    options: OfflineOptions,
    spec: DataSpec,
    model: WorldModel,
    rollout: Rollout,
    dataset: DatasetSteps,
) -> tuple[Rollout, jax.Array]:
    """The rollout with penalized rewards, and the penalties (N, H).

    The mean uncertainty of dataset steps costs `penalty_scale` standard deviations of the reward,
    so that one scale suits all datasets.
    """
    typical = masked_mean(_of_dataset(options.penalty, model, dataset), dataset.valid)
    coefficient = options.penalty_scale * spec.reward_mean_std[1] / typical
    rollout = with_uncertainty(model, options.penalty)(rollout)
    return penalize(rollout, coefficient), coefficient * measured(rollout)


def _of_dataset(name: str, model: WorldModel, dataset: DatasetSteps) -> jax.Array:
    return step_uncertainty(model, [name], dataset.state, dataset.action)[name]
