"""Several training seeds at once: a learner mapped over independent copies of its state.

Every seed has its own parameters, its own share of each batch and its own noise. The step is common
to all, so that what happens once in so many updates stays a branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.data.windows import Window
from worldmodel.nn.learner import (
    Learner,
    Metrics,
    Params,
    RolloutLearner,
    TrainState,
    split_module,
)

# The axis of the seeds in a state: the first of every array but the step.
_axes: dict[str, Any] = {field.name: 0 for field in fields(TrainState)} | {"step": None}
AXES = TrainState(**_axes)


class VmappedLearner:
    """`num_seeds` copies of a learner, whose batches come one after the other in one batch.

    learner: of one seed, built with the first seed's modules of `trained`
    trained: modules of earlier stages, with parameters (num_seeds, ...)
    """

    def __init__(self, learner: Learner, num_seeds: int, trained: Mapping[str, nnx.Module]):
        self.learner, self.num_seeds = learner, num_seeds
        self.graphdefs = learner.graphdefs
        self.trained = {name: split_module(module)[1] for name, module in trained.items()}
        self.rollout_every = self.rollout_windows = 0
        if isinstance(learner, RolloutLearner):
            self.rollout_every = learner.rollout_every
            self.rollout_windows = learner.rollout_windows * num_seeds

    def init(self, key: jax.Array) -> TrainState:
        state = jax.vmap(self.learner.init, out_axes=AXES)(jax.random.split(key, self.num_seeds))
        return replace(
            state,
            frozen=self._with_trained(state.frozen),
            params=self._with_trained(state.params),
        )

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Metrics are means over the seeds."""
        update = jax.vmap(self.learner.update, in_axes=(AXES, 0, 0), out_axes=(AXES, 0))
        state, metrics = update(state, self._split(batch), jax.random.split(key, self.num_seeds))
        return state, jax.tree.map(lambda x: x.mean(0), metrics)

    def collect_rollouts(self, state: TrainState, windows: Window, key: jax.Array) -> TrainState:
        if not isinstance(self.learner, RolloutLearner):
            return state
        collect = jax.vmap(self.learner.collect_rollouts, in_axes=(AXES, 0, 0), out_axes=AXES)
        return collect(state, self._split(windows), jax.random.split(key, self.num_seeds))

    def _split(self, batch: Window) -> Window:
        return jax.tree.map(lambda x: x.reshape(self.num_seeds, -1, *x.shape[1:]), batch)

    def _with_trained(self, params: Params) -> Params:
        """The parameters, with copies of those that earlier stages trained for each seed."""
        trained = {name: self.trained[name] for name in params if name in self.trained}
        return params | jax.tree.map(jnp.copy, trained)


def select_seed(module: nnx.Module, number: int) -> Any:
    """The module of one seed, from one whose parameters are (num_seeds, ...)."""
    graphdef, params = split_module(module)
    return nnx.merge(graphdef, jax.tree.map(lambda x: x[number], params))
