"""The best parameters of each member of an ensemble, kept while all go on training.

Members are stopped early, each on its own, without stopping the stage: what is judged and imagined
with is a snapshot, into which a member's parameters are copied when their error on held-out rows
has fallen by more than a hundredth (as in MBPO, Janner et al., arXiv 1906.08253). Present and kept
parameters are compared on the same rows, so that which rows come up decides nothing.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.data.windows import Window
from worldmodel.nn.learner import Learner, Metrics, Params, TrainState

SNAPSHOT = "snapshot"  # its place among a state's slow copies
MIN_HELD_OUT_STEPS = 1000  # held-out rows behind a comparison
MIN_IMPROVEMENT = 0.01  # by how much the error has to fall


class BestMembersLearner:
    """The learner it is given, with the best of each member of `params["model"]["networks"]` kept
    in `target_params["snapshot"]["model"]`, and their errors there in `errors`. Until the first comparison,
    and in whatever no member owns, the snapshot is the model as it is.
    """

    def __init__(self, learner: Learner):
        self.learner, self.graphdefs = learner, learner.graphdefs

    def init(self, key: jax.Array) -> TrainState:
        state = self.learner.init(key)
        # A copy: the loop donates the state, and no buffer can be donated twice.
        model = jax.tree.map(jnp.copy, state.params["model"])
        statistics = {
            "held_out_errors": jnp.zeros((2, *model["errors"].shape)),  # present, kept
            "held_out_rows": jnp.zeros((), jnp.int32),
            "compared": jnp.zeros((), bool),
        }
        return _with_snapshot(state, model, statistics)

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        kept = state.target_params[SNAPSHOT]["model"]
        state, metrics = self.learner.update(state, batch, key)
        now, before = state.params["model"], state.statistics
        (errors_now, rows), (errors_kept, _) = (self._held_out(p, batch) for p in (now, kept))
        rows = before["held_out_rows"] + rows
        errors = before["held_out_errors"] + jnp.stack([errors_now, errors_kept])

        present, best = errors / jnp.maximum(rows, 1)
        due = rows >= MIN_HELD_OUT_STEPS
        better = due & (present < (1 - MIN_IMPROVEMENT) * best)
        taken = better | ~before["compared"]
        networks = jax.tree.map(
            lambda n, k: jnp.where(taken.reshape(-1, *[1] * (n.ndim - 1)), n, k),
            now["networks"],
            kept["networks"],
        )
        error = jnp.where(due, jnp.where(better, present, best), kept["errors"])
        statistics = {
            "held_out_errors": jnp.where(due, 0.0, errors),
            "held_out_rows": jnp.where(due, 0, rows),
            "compared": before["compared"] | due,
        }
        metrics |= {"held_out/current": present.mean(), "held_out/best": best.mean()}
        model = now | {"networks": networks, "errors": error}
        return _with_snapshot(state, model, statistics), metrics

    def _held_out(self, params: Params, batch: Window) -> tuple[jax.Array, jax.Array]:
        return nnx.merge(self.graphdefs["model"], params).holdout_errors(batch)


def _with_snapshot(
    state: TrainState, model: Params, statistics: dict[str, jax.Array]
) -> TrainState:
    return replace(
        state,
        target_params=state.target_params | {SNAPSHOT: {"model": model}},
        statistics=state.statistics | statistics,
    )
