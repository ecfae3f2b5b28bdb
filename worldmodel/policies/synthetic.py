"""Imagined rows for offline algorithms: rollouts from logged states, priced and cut by what the
model does not know.
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
    UNCERTAINTIES,
    penalize,
    truncate,
    with_uncertainty,
)
from worldmodel.models.interface import State, WorldModel
from worldmodel.models.latent import masked_mean
from worldmodel.policies.offline_options import OfflineOptions


class ImaginedTransitions(NamedTuple):
    """rows: (N H,) transitions; valid: (N H,) bool, those to learn from."""

    rows: Transition
    valid: jax.Array
    statistics: dict[str, jax.Array]


class DatasetSteps(NamedTuple):
    """Logged steps that uncertainty is compared with: states (N, ...), actions (N, A), and which of
    them are real, (N,) bool.
    """

    state: State
    action: jax.Array
    real: jax.Array


def rollout_statistic_names(options: OfflineOptions) -> list[str]:
    """Names of the statistics that `generate_transitions` gives."""
    names = ["valid", "reward"]
    names += ["penalty"] * (options.penalty != "none") + ["truncated"] * (
        options.truncation_quantile is not None
    )
    return [f"imagined/{name}" for name in names]


def generate_transitions(
    options: OfflineOptions,
    spec: DataSpec,
    model: WorldModel,
    actor: Actor,
    windows: Window,
    key: jax.Array,
) -> ImaginedTransitions:
    """Rollouts from one row of each window (N, T): the last but one, for which it is known what was
    done there.
    """
    observe_key, rollout_key, end_key = jax.random.split(key, 3)
    start = jax.tree.map(lambda x: x[:, -2], model.observe(windows, observe_key))
    real = windows.mask[:, -1] & ~windows.is_last[:, -2]
    known = DatasetSteps(start, windows.action[:, -2], real)
    rollout = imagine(model, start, actor, options.horizon, rollout_key)
    statistics = {}
    if options.penalty != "none":
        rollout, cost = _priced(options, spec, model, rollout, known)
    if options.truncation_quantile is not None:
        rollout = _cut(options, model, rollout, known)
        statistics["imagined/truncated"] = 1.0 - rollout.valid.mean()
    rows, valid = transitions_from_rollout(rollout, real, end_key)
    if options.penalty != "none":
        statistics["imagined/penalty"] = masked_mean(cost.reshape(-1), valid)
    statistics["imagined/valid"] = valid.mean()
    statistics["imagined/reward"] = masked_mean(rows.reward, valid)
    return ImaginedTransitions(rows, valid, statistics)


def _priced(
    options: OfflineOptions,
    spec: DataSpec,
    model: WorldModel,
    rollout: Rollout,
    known: DatasetSteps,
) -> tuple[Rollout, jax.Array]:
    """Uncertainty costs reward: what it is on average on logged steps costs `penalty_scale`
    standard deviations of the reward, so that one scale suits all data. Also gives the cost (N, H).
    """
    usual = masked_mean(_on_logs(options.penalty, model, known), known.real)
    price = options.penalty_scale * spec.reward_mean_std[1] / usual
    rollout = with_uncertainty(model, options.penalty)(rollout)
    return penalize(rollout, price), price * rollout.uncertainty


def _cut(
    options: OfflineOptions, model: WorldModel, rollout: Rollout, known: DatasetSteps
) -> Rollout:
    """Rows count only before uncertainty first exceeds its quantile on logged steps."""
    usual = jnp.where(known.real, _on_logs(options.truncation_measure, model, known), jnp.nan)
    limit = jnp.nanquantile(usual, options.truncation_quantile)
    return truncate(with_uncertainty(model, options.truncation_measure)(rollout), limit)


def _on_logs(name: str, model: WorldModel, known: DatasetSteps) -> jax.Array:
    return UNCERTAINTIES[name](model.predict_members(known.state, known.action))
