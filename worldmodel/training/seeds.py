"""Several seeds at once: a learner mapped over copies of its state that know nothing of each other.

Every seed has its own parameters, its own share of each batch and its own noise. The step is common
to all, so that what happens once in so many updates stays a branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.data.windows import Window
from worldmodel.nn.learner import Learner, Metrics, RolloutLearner, TrainState, split_module

# The axis of the seeds in a state: the first of every array but the step.
AXES = TrainState(0, 0, 0, 0, 0, None, 0)


class VmappedLearner:
    """`count` copies of the learner it is given, with a batch for each laid end to end.

    trained: what earlier stages trained, for all seeds (count, ...); the learner was built with the
    first one's.
    """

    def __init__(self, learner: Learner, count: int, trained: Mapping[str, nnx.Module]):
        self.learner, self.count = learner, count
        self.graphdefs = learner.graphdefs
        self.trained = {name: split_module(module)[1] for name, module in trained.items()}
        refreshing = isinstance(learner, RolloutLearner)
        self.rollout_every = learner.rollout_every if refreshing else 0
        self.rollout_windows = learner.rollout_windows * count if refreshing else 0

    def init(self, key: jax.Array) -> TrainState:
        fresh = jax.vmap(self.learner.init, out_axes=AXES)(jax.random.split(key, self.count))
        return replace(fresh, frozen=self._own(fresh.frozen), params=self._own(fresh.params))

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Metrics are means over the seeds."""
        mapped = jax.vmap(self.learner.update, in_axes=(AXES, 0, 0), out_axes=(AXES, 0))
        state, metrics = mapped(state, self._split(batch), jax.random.split(key, self.count))
        return state, jax.tree.map(lambda x: x.mean(0), metrics)

    def collect_rollouts(self, state: TrainState, windows: Window, key: jax.Array) -> TrainState:
        mapped = jax.vmap(self.learner.collect_rollouts, in_axes=(AXES, 0, 0), out_axes=AXES)
        return mapped(state, self._split(windows), jax.random.split(key, self.count))

    def _split(self, batch: Window) -> Window:
        return jax.tree.map(lambda x: x.reshape(self.count, -1, *x.shape[1:]), batch)

    def _own(self, params: dict[str, Any]) -> dict[str, Any]:
        """Copies of what was trained before take the place of the first seed's."""
        known = {name: self.trained[name] for name in params if name in self.trained}
        return params | jax.tree.map(jnp.copy, known)


def select_seed(module: nnx.Module, number: int) -> nnx.Module:
    """One seed's module out of one with the parameters of all."""
    definition, params = split_module(module)
    return nnx.merge(definition, jax.tree.map(lambda x: x[number], params))
