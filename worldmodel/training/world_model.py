"""The first stage: a world model learns from logged windows."""

from __future__ import annotations

import jax
import optax
from flax import nnx

from worldmodel.data.windows import Window
from worldmodel.learner import (
    Metrics,
    Params,
    TrainState,
    apply_gradients,
    definitions_of,
    divide,
    start,
)
from worldmodel.models import ModelBuilder


class WorldModelLearner:
    """Minimises `WorldModel.loss`. `build_model(key)` makes a new model."""

    def __init__(
        self,
        build_model: ModelBuilder,
        optimizer: optax.GradientTransformation,
    ):
        self.build_model, self.optimizer = build_model, optimizer
        self.definitions = definitions_of(lambda key: {"model": build_model(key)})

    def init(self, key: jax.Array) -> TrainState:
        return jax.jit(self._fresh)(key)

    def _fresh(self, key: jax.Array) -> TrainState:
        return start({"model": divide(self.build_model(key))[1]}, self.optimizer)

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        def loss(params: Params) -> tuple[jax.Array, Metrics]:
            total, (metrics, _) = nnx.merge(self.definitions["model"], params["model"]).loss(
                batch, key
            )
            return total, metrics

        grads, metrics = jax.grad(loss, has_aux=True)(state.params)
        state, norms = apply_gradients(state, grads, self.optimizer)
        return state, metrics | norms
