"""The average of a model's parameters: a plain mean at first, then exponential."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel.config import Config, StageOptions, TrainingOptions
from worldmodel.config.registry import schemas
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.nn.layers import Linear
from worldmodel.nn.learner import TrainState, graphdefs_of, split_module
from worldmodel.policies.actor_critic import ActorCriticOptions
from worldmodel.training.evaluated_parameters import EMALearner
from worldmodel.training.learners import trained_modules
from worldmodel.training.plan import plan_stages

KEY = jax.random.key(0)


class Counting:
    """A learner whose every parameter is the number of updates made."""

    def __init__(self) -> None:
        self.graphdefs = graphdefs_of(lambda key: {"model": self.build(key)})

    def build(self, key: jax.Array) -> nnx.Module:
        return Linear(2, 3, rngs=nnx.Rngs(params=key))

    def init(self, key: jax.Array) -> TrainState:
        params = {"model": split_module(self.build(key))[1]}
        return TrainState(params, {}, (), {}, {}, jnp.zeros((), jnp.int32))

    def update(self, state: TrainState, batch: None, key: jax.Array) -> tuple[TrainState, dict]:
        step = state.step + 1
        params = jax.tree.map(lambda x: jnp.full_like(x, step), state.params)
        return replace(state, params=params, step=step), {}


def averages(decay: float, steps: int) -> list[float]:
    learner, values = EMALearner(Counting(), decay), []
    state, update = learner.init(KEY), jax.jit(learner.update)
    for _ in range(steps):
        state, _ = update(state, None, KEY)
        kernel = np.asarray(trained_modules(learner, state)["model"].kernel[...])
        np.testing.assert_allclose(kernel, kernel[0, 0], rtol=1e-6)
        values.append(float(kernel[0, 0]))
    return values


def test_the_average_is_a_plain_mean_until_the_decay_reaches_as_far() -> None:
    """With decay 0.75 an update has weight 1/4 from the fourth on; initial parameters have none."""
    expected, mean = [], 0.0
    for step in range(1, 9):
        mean += max(0.25, 1 / step) * (step - mean)
        expected.append(mean)
    assert expected[:3] == [1.0, 1.5, 2.0]
    np.testing.assert_allclose(averages(0.75, 8), expected, rtol=1e-6)


def test_the_average_starts_as_a_copy_of_the_parameters() -> None:
    """The loop donates the state: the same buffer twice would be an error."""
    state = EMALearner(Counting(), 0.9).init(KEY)
    donate = jax.jit(lambda state: state, donate_argnums=0)
    parameters, average = (
        jax.tree.leaves(x["model"]) for x in (state.params, state.target_params["ema"])
    )
    assert all(bool((a == b).all()) for a, b in zip(parameters, average, strict=True))
    jax.block_until_ready(donate(state))


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_training_does_not_depend_on_the_average(decay: float) -> None:
    learner = EMALearner(Counting(), decay)
    state, _ = learner.update(learner.init(KEY), None, KEY)
    assert float(state.params["model"]["kernel"][0, 0]) == 1.0


@pytest.mark.parametrize("family", ["diffusion", "trajectory_diffusion"])
def test_diffusion_is_averaged_and_policies_imagine_with_the_average(family: str) -> None:
    spec = DataSpec({"x": ObservationSpec((3,), "float32")}, ActionSpec(True, 2))
    stage = StageOptions(steps=3)
    config = Config(
        data=NPZData(), model=schemas("model")[family](), policy=ActorCriticOptions(),
        training=TrainingOptions(world_model=stage, policy=stage),
    )  # fmt: skip
    learner = plan_stages(config, spec)["world_model"].build_learner()
    assert isinstance(learner, EMALearner) and config.model.ema_decay > 0.9
    state = jax.device_get(jax.jit(learner.init)(KEY))
    # As if training had moved the parameters away from their average.
    params = jax.tree.map(lambda x: x + 1, state.params)
    trained = trained_modules(learner, replace(state, params=params))
    policy = jax.jit(plan_stages(config, spec)["policy"].build_learner(trained).init)(KEY)
    average = state.target_params["ema"]["model"]
    jax.tree.map(np.testing.assert_array_equal, policy.frozen["model"], average)
