"""The first stages: a world model, or a part of one, learns from logged windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import optax
from flax import nnx

from worldmodel.data.windows import Window
from worldmodel.nn.learner import (
    Metrics,
    Params,
    TrainState,
    apply_gradients,
    create_train_state,
    graphdefs_of,
    split_module,
)
from worldmodel.training.accumulation import Loss, gradients


class WorldModelLearner:
    """Minimises the `loss` of the module that `build(key)` makes new."""

    def __init__(
        self,
        build: Callable[[jax.Array], nnx.Module],
        optimizer: optax.GradientTransformation,
        *,
        name: str = "model",
        parts: Mapping[str, nnx.Module] | None = None,
        microbatches: int = 1,
        remat: bool = False,
    ):
        """name: of the module; parts: attributes of it that were trained before and stay as they
        are; microbatches, remat: see `gradients`.
        """
        self.microbatches, self.remat = microbatches, remat
        self.build, self.optimizer, self.name = build, optimizer, name
        self.graphdefs = graphdefs_of(lambda key: {name: build(key)})
        self.parts = {part: split_module(module)[1] for part, module in (parts or {}).items()}

    def init(self, key: jax.Array) -> TrainState:
        # Copies, since the state is donated; outside the compiled part, where they would be
        # constants.
        frozen = jax.tree.map(lambda x: x.copy(), self.parts)
        return replace(jax.jit(self._fresh)(key), frozen=frozen)

    def _fresh(self, key: jax.Array) -> TrainState:
        params = split_module(self.build(key))[1]
        trained = {name: value for name, value in params.items() if name not in self.parts}
        return create_train_state({self.name: trained}, self.optimizer)

    def loss(self, frozen: Params) -> Loss:
        """Of what is trained, beside what is frozen."""

        def loss(params: Params, batch: Window, key: jax.Array) -> tuple[jax.Array, Metrics]:
            module = nnx.merge(self.graphdefs[self.name], params[self.name] | frozen)
            total, (metrics, _) = module.loss(batch, key)
            return total, metrics

        return loss

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        how = (self.microbatches, self.remat)
        grads, metrics = gradients(self.loss(state.frozen), state.params, batch, key, *how)
        state, norms = apply_gradients(state, grads, self.optimizer)
        return state, metrics | norms
