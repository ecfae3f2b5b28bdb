"""What a stage of training is: a `Learner` turns batches into updates of a `TrainState`. One loop
runs them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from worldmodel.data.windows import Window

Params = dict[str, Any]
Metrics = dict[str, jax.Array]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "frozen", "optimizer", "slow", "statistics", "step", "memory"],
    meta_fields=[],
)
@dataclass(frozen=True)
class TrainState:
    """All that a stage needs to go on, bit for bit, together with the seed.

    params: name of a module -> its parameters, trained by the optimiser
    frozen: modules of earlier stages that this one uses
    slow: slow copies of modules
    statistics: running statistics
    step: updates made so far, int32
    memory: imagined rows that are kept, where a stage keeps some
    """

    params: Params
    frozen: Params
    optimizer: Any
    slow: Params
    statistics: dict[str, jax.Array]
    step: jax.Array
    memory: Any = ()


class Learner(Protocol):
    """One stage. `definitions` rebuild the modules from their parameters."""

    definitions: dict[str, nnx.GraphDef]

    def init(self, key: jax.Array) -> TrainState: ...

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]: ...


@runtime_checkable
class Refreshing(Protocol):
    """A learner whose memory is also renewed, every `refresh_every` updates (0: never), from
    `refresh_windows` windows at once.
    """

    refresh_every: int
    refresh_windows: int

    def refresh(self, state: TrainState, windows: Window, key: jax.Array) -> TrainState: ...


def start(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    slow: Params | None = None,
    statistics: dict[str, jax.Array] | None = None,
) -> TrainState:
    """The state before the first update."""
    return TrainState(
        params=params,
        frozen={},
        optimizer=optimizer.init(params),
        slow=slow or {},
        statistics=statistics or {},
        step=jnp.zeros((), jnp.int32),
    )


def apply_gradients(
    state: TrainState, grads: Params, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """One optimiser step, and the norms of gradient and update."""
    updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
        "optimizer/gradient_norm": optax.tree.norm(grads),
        "optimizer/update_norm": optax.tree.norm(updates),
    }
    return replace(state, params=params, optimizer=optimizer_state, step=state.step + 1), metrics


def divide(module: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """A module as (definition, parameters as nested dicts of arrays); `nnx.merge` puts them
    together again.
    """
    definition, state = nnx.split(module)
    return definition, nnx.to_pure_dict(state)


def definitions_of(build: Callable[[jax.Array], dict[str, nnx.Module]]) -> dict[str, nnx.GraphDef]:
    """The definitions of the modules that `build(key)` would make, without their parameters."""
    modules = nnx.eval_shape(build, jax.random.key(0))
    return {name: divide(module)[0] for name, module in modules.items()}


def detached(module: nnx.Module) -> nnx.Module:
    """The same module with parameters that take no gradient; its inputs still do."""
    definition, params = divide(module)
    return nnx.merge(definition, jax.lax.stop_gradient(params))
