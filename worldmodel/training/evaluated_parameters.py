"""Learners that also keep the parameters that are evaluated and imagined with, where these are not
the last ones: an exponential moving average, or the best of each member of an ensemble.

Training itself does not see them. They lie among a state's target parameters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from worldmodel.data.windows import Window
from worldmodel.nn.learner import Learner, Metrics, Params, TrainState

EMA, SNAPSHOT = "ema", "snapshot"  # keys among a state's target parameters
MIN_HELD_OUT_STEPS = 1000  # held-out timesteps behind a comparison
MIN_IMPROVEMENT = 0.01  # by which share the error has to fall


def _with_copy(
    state: TrainState, name: str, model: Any, statistics: dict[str, jax.Array] | None = None
) -> TrainState:
    return replace(
        state,
        target_params=state.target_params | {name: {"model": model}},
        statistics=state.statistics | (statistics or {}),
    )


def _copied(params: Params) -> Params:
    """The loop donates the state, and no buffer can be donated twice."""
    return jax.tree.map(jnp.copy, params)


class EMALearner:
    """A learner that also averages `params["model"]`, in `target_params["ema"]["model"]`: samples
    of a denoiser are clearly better with averaged weights (Karras et al., arXiv 2206.00364).

    learner: what trains the parameters
    decay: of the average, in [0, 1)
    """

    def __init__(self, learner: Learner, decay: float):
        self.learner, self.decay = learner, decay
        self.graphdefs = learner.graphdefs

    def init(self, key: jax.Array) -> TrainState:
        state = self.learner.init(key)
        return _with_copy(state, EMA, _copied(state.params["model"]))

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        average = state.target_params[EMA]["model"]
        state, metrics = self.learner.update(state, batch, key)
        # The arithmetic mean of all parameters so far, until it is longer than the decay reaches:
        # the initial parameters have no weight.
        step_size = jnp.maximum(1 - self.decay, 1 / state.step.astype(jnp.float32))
        # As optax.incremental_update, but with weights whose sum is exactly 1: its rounding errors
        # accumulate to some 1e-4 of the average where the decay is 0.9999.
        change = optax.tree.sub(state.params["model"], average)
        average = optax.tree.add_scale(average, step_size, change)
        return _with_copy(state, EMA, average), metrics


class BestMembersLearner:
    """A learner that also keeps the best parameters of each member of
    `params["model"]["networks"]`, in `target_params["snapshot"]["model"]`, with their errors under
    `errors` there: early stopping of each, while the others continue to train.

    A member's parameters are copied when their error on held-out timesteps has fallen by more than
    1 % (as in MBPO, Janner et al., arXiv 1906.08253). Current and best parameters are compared on
    the same timesteps, so it does not matter which ones come up.

    Until the first comparison, and in whatever belongs to no member, the snapshot is the current
    model.
    """

    def __init__(self, learner: Learner):
        self.learner, self.graphdefs = learner, learner.graphdefs

    def init(self, key: jax.Array) -> TrainState:
        state = self.learner.init(key)
        model = _copied(state.params["model"])
        statistics = {
            "held_out_errors": jnp.zeros((2, *model["errors"].shape)),  # current, best
            "held_out_steps": jnp.zeros((), jnp.int32),
            "compared": jnp.zeros((), bool),
        }
        return _with_copy(state, SNAPSHOT, model, statistics)

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        snapshot = state.target_params[SNAPSHOT]["model"]
        state, metrics = self.learner.update(state, batch, key)
        current, before = state.params["model"], state.statistics
        (current_errors, steps), (best_errors, _) = (
            nnx.merge(self.graphdefs["model"], params).holdout_errors(batch)
            for params in (current, snapshot)
        )
        steps = before["held_out_steps"] + steps
        errors = before["held_out_errors"] + jnp.stack([current_errors, best_errors])

        current_error, best_error = errors / jnp.maximum(steps, 1)
        due = steps >= MIN_HELD_OUT_STEPS
        better = due & (current_error < (1 - MIN_IMPROVEMENT) * best_error)
        copied = better | ~before["compared"]
        networks = jax.tree.map(
            lambda new, old: jnp.where(copied.reshape(-1, *[1] * (new.ndim - 1)), new, old),
            current["networks"],
            snapshot["networks"],
        )
        error = jnp.where(due, jnp.where(better, current_error, best_error), snapshot["errors"])
        statistics = {
            "held_out_errors": jnp.where(due, 0.0, errors),
            "held_out_steps": jnp.where(due, 0, steps),
            "compared": before["compared"] | due,
        }
        metrics |= {"held_out/current": current_error.mean(), "held_out/best": best_error.mean()}
        model = current | {"networks": networks, "errors": error}
        return _with_copy(state, SNAPSHOT, model, statistics), metrics
