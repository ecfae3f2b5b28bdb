"""The learner of a world model, or of a module of it that is pretrained."""

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
    """Minimizes the `loss` of a module.

    build: from a key to a new module with `loss(window, key) -> loss, (metrics, ...)`
    name: of the module among the state's parameters
    pretrained: attributes of the module that earlier stages trained, which stay as they are
    microbatches, remat: see `gradients`
    """

    def __init__(
        self,
        build: Callable[[jax.Array], nnx.Module],
        optimizer: optax.GradientTransformation,
        *,
        name: str = "model",
        pretrained: Mapping[str, nnx.Module] | None = None,
        microbatches: int = 1,
        remat: bool = False,
    ):
        self.microbatches, self.remat = microbatches, remat
        self.build, self.optimizer, self.name = build, optimizer, name
        self.graphdefs = graphdefs_of(lambda key: {name: build(key)})
        self.pretrained = {
            attribute: split_module(module)[1] for attribute, module in (pretrained or {}).items()
        }

    def init(self, key: jax.Array) -> TrainState:
        # Copies, since the state is donated; outside the compiled part, where they would be
        # constants.
        frozen = jax.tree.map(lambda x: x.copy(), self.pretrained)
        return replace(jax.jit(self._init)(key), frozen=frozen)

    def _init(self, key: jax.Array) -> TrainState:
        params = split_module(self.build(key))[1]
        trained = {name: value for name, value in params.items() if name not in self.pretrained}
        return create_train_state({self.name: trained}, self.optimizer)

    def loss(self, frozen: Params) -> Loss:
        """As a function of the trained parameters, given the `frozen` ones."""

        def loss(params: Params, batch: Window, key: jax.Array) -> tuple[jax.Array, Metrics]:
            module = nnx.merge(self.graphdefs[self.name], params[self.name] | frozen)
            total, (metrics, _) = module.loss(batch, key)
            return total, metrics

        return loss

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        grads, metrics = gradients(
            self.loss(state.frozen),
            state.params,
            batch,
            key,
            microbatches=self.microbatches,
            remat=self.remat,
        )
        state, norms = apply_gradients(state, grads, self.optimizer)
        return state, metrics | norms
