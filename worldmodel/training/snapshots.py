"""Early stopping of each member of an ensemble, while the others continue to train.

What is evaluated and imagined with is a snapshot. A member's parameters are copied into it when
their error on held-out timesteps has fallen by more than 1 % (as in MBPO, Janner et al., arXiv
1906.08253). Current and best parameters are compared on the same timesteps, so it does not matter
which ones come up.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.data.windows import Window
from worldmodel.nn.learner import Learner, Metrics, Params, TrainState

SNAPSHOT = "snapshot"  # key of the snapshot among a state's target parameters
MIN_HELD_OUT_STEPS = 1000  # held-out timesteps behind a comparison
MIN_IMPROVEMENT = 0.01  # by which share the error has to fall


class BestMembersLearner:
    """A learner that also keeps the best parameters of each member of
    `params["model"]["networks"]`, in `target_params["snapshot"]["model"]`, with their errors under
    `errors` there.

    Until the first comparison, and in whatever belongs to no member, the snapshot is the current
    model.
    """

    def __init__(self, learner: Learner):
        self.learner, self.graphdefs = learner, learner.graphdefs

    def init(self, key: jax.Array) -> TrainState:
        state = self.learner.init(key)
        # A copy: the loop donates the state, and no buffer can be donated twice.
        model = jax.tree.map(jnp.copy, state.params["model"])
        statistics = {
            "held_out_errors": jnp.zeros((2, *model["errors"].shape)),  # current, best
            "held_out_steps": jnp.zeros((), jnp.int32),
            "compared": jnp.zeros((), bool),
        }
        return _with_snapshot(state, model, statistics)

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        snapshot = state.target_params[SNAPSHOT]["model"]
        state, metrics = self.learner.update(state, batch, key)
        current, before = state.params["model"], state.statistics
        (current_errors, steps), (best_errors, _) = (
            self._held_out_errors(params, batch) for params in (current, snapshot)
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
        return _with_snapshot(state, model, statistics), metrics

    def _held_out_errors(self, params: Params, batch: Window) -> tuple[jax.Array, jax.Array]:
        return nnx.merge(self.graphdefs["model"], params).holdout_errors(batch)


def _with_snapshot(
    state: TrainState, model: Params, statistics: dict[str, jax.Array]
) -> TrainState:
    return replace(
        state,
        target_params=state.target_params | {SNAPSHOT: {"model": model}},
        statistics=state.statistics | statistics,
    )
