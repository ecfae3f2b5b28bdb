"""Exponential moving average of a model's parameters, for any learner that trains it.

Samples of a denoiser are clearly better with averaged weights (Karras et al., arXiv 2206.00364).
Training itself does not see the average.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from worldmodel.data.windows import Window
from worldmodel.nn.learner import Learner, Metrics, TrainState

EMA = "ema"  # key of the average among a state's target parameters


class EMALearner:
    """A learner that also averages `params["model"]`, in `target_params["ema"]["model"]`.

    learner: what trains the parameters
    decay: of the average, in [0, 1)
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
        # The arithmetic mean of all parameters so far, until it is longer than the decay reaches:
        # the initial parameters have no weight.
        step_size = jnp.maximum(1 - self.decay, 1 / state.step.astype(jnp.float32))
        # As optax.incremental_update, but with weights whose sum is exactly 1: its rounding errors
        # accumulate to some 1e-4 of the average where the decay is 0.9999.
        change = optax.tree.sub(state.params["model"], average)
        average = optax.tree.add_scale(average, step_size, change)
        return _with_average(state, average), metrics


def _with_average(state: TrainState, model: Any) -> TrainState:
    return replace(state, target_params=state.target_params | {EMA: {"model": model}})
