"""A stage with its batches, and the programs that are compiled for it.

Many updates run per call to the device (`lax.scan`), and the state's buffers are donated.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from worldmodel.data.loader import Loader
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import Window
from worldmodel.nn.learner import Learner, RolloutLearner, TrainState
from worldmodel.training import mesh as meshes
from worldmodel.training.plan import StagePlan


@dataclass(frozen=True)
class RolloutUpdate:
    """How a learner's replay buffer is refilled: every so many updates, from windows of its own."""

    every: int
    apply: Callable[[TrainState, Window, jax.Array], TrainState]
    batches: Loader


@dataclass(frozen=True)
class Stage:
    """A planned stage, ready to train: its learner and its batches."""

    plan: StagePlan
    learner: Learner
    batches: Loader
    rollout_update: RolloutUpdate | None = None

    @property
    def updates_per_dispatch(self) -> int:
        """Updates per call to the device: one compiled program serves the whole stage."""
        every = self.rollout_update.every if self.rollout_update else 0
        intervals = (self.plan.steps, self.plan.log_every, self.plan.checkpoint_every, every)
        limit = min(self.plan.steps_per_dispatch, self.batches.max_updates_per_call)
        return largest_common_divisor(intervals, limit)

    def close(self) -> None:
        """Ends the threads and processes that make its batches."""
        self.batches.close()
        if self.rollout_update:
            self.rollout_update.batches.close()


def make_stage(plan: StagePlan, trajectories: Trajectories, learner: Learner) -> Stage:
    """The stage with its batches: those of its updates, and those that rollouts start from."""
    batches = plan.make_loader(trajectories)
    rollout_update = None
    if isinstance(learner, RolloutLearner) and learner.rollout_every:
        windows = plan.make_rollout_loader(trajectories, learner.rollout_windows)
        rollout_update = RolloutUpdate(learner.rollout_every, learner.collect_rollouts, windows)
    return Stage(plan, learner, batches, rollout_update)


def largest_common_divisor(numbers: tuple[int, ...], limit: int) -> int:
    """The largest divisor of all `numbers`, up to `limit`. 0 is divided by every number."""
    common = math.gcd(*numbers)
    return max(n for n in range(1, min(common, limit) + 1) if common % n == 0)


class Keys(NamedTuple):
    """Of a stage's initial parameters, and the one that step numbers are folded into."""

    init: jax.Array
    steps: jax.Array


def stage_keys(seed: int, stage: str) -> Keys:
    """The keys of the stage of this name, independent of those of other stages and seeds."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()))
    init, steps = jax.random.split(key)
    return Keys(init, steps)


def make_dispatch(
    learner: Learner, batches: Loader, mesh: jax.sharding.Mesh, updates: int, shardings: Any = None
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """A jitted function (state, arrays, feed, key) -> (state, metrics (updates,)) that donates the
    state. `shardings` of the state: without them, all its arrays are on every device.
    """
    replicated = meshes.replicated(mesh)

    @meshes.with_abstract_mesh(mesh)
    def dispatch(state: TrainState, arrays: Any, feed: Any, key: jax.Array) -> Any:
        def update(state: TrainState, k: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
            batch = meshes.shard_batch(batches.batch(arrays, feed, k), mesh)
            step_key = jax.random.fold_in(key, state.step)
            state, metrics = learner.update(_gathered(state, shardings, mesh), batch, step_key)
            return jax.lax.with_sharding_constraint(state, shardings or replicated), metrics

        return jax.lax.scan(update, state, jnp.arange(updates, dtype=jnp.uint32))

    return jax.jit(dispatch, donate_argnums=0, out_shardings=(shardings or replicated, replicated))


def _gathered(state: TrainState, shardings: Any, mesh: jax.sharding.Mesh) -> TrainState:
    """The state with all modules on every device, for one update; the optimizer's state stays
    split. Left to itself, the compiler would split activations as parameters are.
    """
    if shardings is None or all(place.is_fully_replicated for place in jax.tree.leaves(shardings)):
        return state
    modules = (state.params, state.frozen, state.target_params)
    params, frozen, targets = jax.lax.with_sharding_constraint(modules, meshes.replicated(mesh))
    return replace(state, params=params, frozen=frozen, target_params=targets)


def make_rollout_update(
    rollout_update: RolloutUpdate, mesh: jax.sharding.Mesh, shardings: Any = None
) -> Callable[..., TrainState]:
    """A jitted function (state, arrays, feed, key) -> state that donates the state."""

    @meshes.with_abstract_mesh(mesh)
    def apply(state: TrainState, arrays: Any, feed: Any, key: jax.Array) -> TrainState:
        batch = rollout_update.batches.batch(arrays, feed, jnp.uint32(0))
        state = _gathered(state, shardings, mesh)
        step_key = jax.random.fold_in(key, state.step)
        return rollout_update.apply(state, meshes.shard_batch(batch, mesh), step_key)

    shardings = shardings or meshes.replicated(mesh)
    return jax.jit(apply, donate_argnums=0, out_shardings=shardings)


class Programs(NamedTuple):
    """What a stage runs on the devices: `updates` per call, and refills of its replay buffer."""

    dispatch: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    rollout_update: Callable[..., TrainState] | None
    arrays: Any
    updates: int
