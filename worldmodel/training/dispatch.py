"""What a stage is, and the programs that are compiled for it.

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

from worldmodel.config import StageOptions, TrainingOptions
from worldmodel.data.loader import Loader
from worldmodel.data.windows import Window
from worldmodel.nn.learner import Learner, TrainState
from worldmodel.training import mesh as meshes


@dataclass(frozen=True)
class RolloutUpdate:
    """What renews a learner's memory: every so many updates, from a batch of its own."""

    every: int
    apply: Callable[[TrainState, Window, jax.Array], TrainState]
    batches: Loader


@dataclass(frozen=True)
class Stage:
    """A learner, its batches and how long it trains."""

    name: str
    learner: Learner
    batches: Loader
    options: StageOptions
    refresh: RolloutUpdate | None = None

    @property
    def group(self) -> str:
        """Of its options: a joint stage has the world model's settings."""
        return f"training.{'world_model' if self.name == 'joint' else self.name}"

    @property
    def interval(self) -> int:
        """Updates between refreshes, 0 without any."""
        return self.refresh.every if self.refresh else 0

    def close(self) -> None:
        """Ends the threads and processes that make its batches."""
        self.batches.close()
        if self.refresh:
            self.refresh.batches.close()


class Keys(NamedTuple):
    """Of a stage's initial parameters, and the one that step numbers are folded into."""

    init: jax.Array
    steps: jax.Array


def stage_keys(seed: int, stage: str) -> Keys:
    return Keys(
        *jax.random.split(jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode())))
    )


def steps_per_dispatch(
    training: TrainingOptions, steps: int, most: int = 2**31, rollout_every: int = 0
) -> int:
    """The most updates per call, up to `most`, that divide the stage and the intervals of log,
    checkpoint and refresh alike.

    So one compiled program serves the whole stage.
    """
    common = math.gcd(steps, training.log_every, training.checkpoint_every, rollout_every)
    most = min(common, training.steps_per_dispatch, most)
    return max(n for n in range(1, most + 1) if common % n == 0)


def make_dispatch(
    learner: Learner, batches: Loader, mesh: jax.sharding.Mesh, updates: int, shardings: Any = None
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """A jitted function (state, arrays, feed, key) -> (state, metrics (updates,)) that donates the
    state; `shardings` says where its arrays lie: on every device, unless they are given.
    """
    whole = meshes.replicated(mesh)

    @meshes.with_abstract_mesh(mesh)
    def dispatch(state: TrainState, arrays: Any, feed: Any, key: jax.Array) -> Any:
        def one(state: TrainState, k: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
            batch = meshes.shard_batch(batches.batch(arrays, feed, k), mesh)
            key_of_step = jax.random.fold_in(key, state.step)
            state, metrics = learner.update(_whole(state, shardings, mesh), batch, key_of_step)
            return jax.lax.with_sharding_constraint(state, shardings or whole), metrics

        return jax.lax.scan(one, state, jnp.arange(updates, dtype=jnp.uint32))

    return jax.jit(dispatch, donate_argnums=0, out_shardings=(shardings or whole, whole))


def _whole(state: TrainState, shardings: Any, mesh: jax.sharding.Mesh) -> TrainState:
    """The state with all modules whole on every device, for one update; what only the optimiser
    sees stays split. Left to itself, the compiler would split activations as parameters are.
    """
    if shardings is None or all(place.is_fully_replicated for place in jax.tree.leaves(shardings)):
        return state
    modules = (state.params, state.frozen, state.target_params)
    params, frozen, slow = jax.lax.with_sharding_constraint(modules, meshes.replicated(mesh))
    return replace(state, params=params, frozen=frozen, target_params=slow)


def make_rollout_update(
    refresh: RolloutUpdate, mesh: jax.sharding.Mesh, shardings: Any = None
) -> Callable[..., TrainState]:
    """A jitted function (state, arrays, feed, key) -> state that donates the state."""

    @meshes.with_abstract_mesh(mesh)
    def apply(state: TrainState, arrays: Any, feed: Any, key: jax.Array) -> TrainState:
        windows = meshes.shard_batch(refresh.batches.batch(arrays, feed, jnp.uint32(0)), mesh)
        state = _whole(state, shardings, mesh)
        return refresh.apply(state, windows, jax.random.fold_in(key, state.step))

    shardings = shardings or meshes.replicated(mesh)
    return jax.jit(apply, donate_argnums=0, out_shardings=shardings)


class Programs(NamedTuple):
    """What a stage runs on the devices: `updates` a call, and the renewal of its memory."""

    dispatch: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    rollout_update: Callable[..., TrainState] | None
    arrays: Any
    updates: int
