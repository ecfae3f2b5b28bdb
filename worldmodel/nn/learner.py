"""The interface of training: a `Learner` turns batches into updates of a `TrainState`. One loop
runs them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from worldmodel.data.windows import Window

Params = dict[str, Any]
Metrics = dict[str, jax.Array]
Module = TypeVar("Module", bound=nnx.Module)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a stage needs to resume with bit-identical results, together with the seed.

    params: name of a module -> its parameters, trained by the optimizer
    frozen: parameters of modules of earlier stages that this one uses
    opt_state: of the optimizer
    target_params: parameters of target networks, moving averages and snapshots
    statistics: running statistics
    step: updates so far, int32
    replay_buffer: imagined transitions, where a stage keeps some
    """

    params: Params
    frozen: Params
    opt_state: Any
    target_params: Params
    statistics: dict[str, jax.Array]
    step: jax.Array
    replay_buffer: Any = ()


class Learner(Protocol):
    """Trains the modules of a stage.

    graphdefs: name of a module -> its definition, which `nnx.merge` joins with parameters
    """

    graphdefs: dict[str, nnx.GraphDef]

    def init(self, key: jax.Array) -> TrainState:
        """The state before the first update."""
        ...

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """One update on a batch (B, T), and its metrics, scalars."""
        ...


@runtime_checkable
class RolloutLearner(Learner, Protocol):
    """A learner that also adds rollouts to its replay buffer, every `rollout_every` updates (0:
    never), from `rollout_windows` windows at once.
    """

    rollout_every: int
    rollout_windows: int

    def collect_rollouts(self, state: TrainState, windows: Window, key: jax.Array) -> TrainState:
        """The state with new rollouts in its replay buffer."""
        ...


def create_train_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    target_params: Params | None = None,
    statistics: dict[str, jax.Array] | None = None,
) -> TrainState:
    """The state before the first update."""
    return TrainState(
        params=params,
        frozen={},
        opt_state=optimizer.init(params),
        target_params=target_params or {},
        statistics=statistics or {},
        step=jnp.zeros((), jnp.int32),
    )


def apply_gradients(
    state: TrainState, grads: Params, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """One step of the optimizer, and the norms of gradient and update."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
        "optimizer/gradient_norm": optax.tree.norm(grads),
        "optimizer/update_norm": optax.tree.norm(updates),
    }
    return replace(state, params=params, opt_state=opt_state, step=state.step + 1), metrics


def split_module(module: Any) -> tuple[nnx.GraphDef, Params]:
    """A module, or a tuple of modules, as (definition, parameters as nested dicts of arrays);
    `nnx.merge` joins them.
    """
    graphdef, state = nnx.split(module)
    return graphdef, nnx.to_pure_dict(state)


def graphdefs_of(build: Callable[[jax.Array], dict[str, nnx.Module]]) -> dict[str, nnx.GraphDef]:
    """The definitions of the modules that `build(key)` returns, without computing parameters."""
    modules = nnx.eval_shape(build, jax.random.key(0))
    return {name: split_module(module)[0] for name, module in modules.items()}


def detached(module: Module) -> Module:
    """The same module with parameters that receive no gradient; its inputs still do."""
    graphdef, params = split_module(module)
    return nnx.merge(graphdef, jax.lax.stop_gradient(params))
