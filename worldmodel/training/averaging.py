"""A running average of a model's parameters, beside whatever learner trains it.

Samples of a denoiser are clearly better with averaged weights (Karras et al., arXiv 2206.00364),
and the average costs one pass over the parameters an update. Training itself is not touched.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from worldmodel.data.windows import Window
from worldmodel.nn.learner import Learner, Metrics, Params, TrainState

EMA = "ema"  # its place among a state's slow copies


class EMALearner:
    """The learner it is given, with an average of `params["model"]` kept in
    `slow["ema"]["model"]`.
    """

    def __init__(self, learner: Learner, decay: float):
        self.learner, self.decay = learner, decay
        self.graphdefs = learner.graphdefs

    def init(self, key: jax.Array) -> TrainState:
        state = self.learner.init(key)
        # A copy: the loop donates the state, and no buffer can be donated twice.
        return _with_average(state, jax.tree.map(jnp.copy, state.params["model"]))

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        average = state.target_params[EMA]["model"]
        state, metrics = self.learner.update(state, batch, key)
        # The plain mean of all so far, until that is longer than the decay reaches: the parameters
        # that training began with leave no trace.
        rate = jnp.maximum(1 - self.decay, 1 / state.step.astype(jnp.float32))
        moved = jax.tree.map(lambda a, p: a + rate * (p - a), average, state.params["model"])
        return _with_average(state, moved), metrics


def _with_average(state: TrainState, model: Params) -> TrainState:
    return replace(state, target_params=state.target_params | {EMA: {"model": model}})
