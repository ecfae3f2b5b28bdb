"""Imagined transitions for offline algorithms: rollouts from dataset states, with uncertainty
penalties and truncation.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.imagination import Actor, imagine
from worldmodel.imagination.transitions import Transition, transitions_from_rollout
from worldmodel.imagination.uncertainty import (
    measured,
    penalize,
    step_uncertainty,
    truncate,
    with_uncertainty,
)
from worldmodel.models.interface import WorldModel
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

    Uncertainty is calibrated on these steps: their mean costs `penalty_scale` standard deviations
    of the reward, and their quantile is where rollouts are truncated, so that one setting suits all
    datasets.
    """
    observe_key, rollout_key, end_key = jax.random.split(key, 3)
    start = jax.tree.map(lambda x: x[:, -2], model.observe(windows, observe_key))
    valid_start = windows.mask[:, -1] & ~windows.is_last[:, -2]
    rollout = imagine(model, start, actor, options.horizon, rollout_key)

    def on_dataset(measure: str) -> jax.Array:
        """(N,) of the dataset's actions at the starts."""
        return step_uncertainty(model, [measure], start, windows.action[:, -2])[measure]

    statistics, penalty = {}, None
    if options.penalty != "none":
        typical = masked_mean(on_dataset(options.penalty), valid_start)
        coefficient = options.penalty_scale * spec.reward_mean_std[1] / typical
        rollout = with_uncertainty(model, options.penalty)(rollout)
        penalty = coefficient * measured(rollout)
        rollout = penalize(rollout, coefficient)
    if options.truncation_quantile is not None:
        values = jnp.where(valid_start, on_dataset(options.truncation_measure), jnp.nan)
        limit = jnp.nanquantile(values, options.truncation_quantile)
        rollout = truncate(with_uncertainty(model, options.truncation_measure)(rollout), limit)
        statistics["imagined/truncated"] = 1.0 - rollout.mask.mean()
    transitions, valid = transitions_from_rollout(rollout, valid_start, end_key)
    if penalty is not None:
        statistics["imagined/penalty"] = masked_mean(penalty.reshape(-1), valid)
    statistics["imagined/valid"] = valid.mean()
    statistics["imagined/reward"] = masked_mean(transitions.reward, valid)
    return ImaginedTransitions(transitions, valid, statistics)
