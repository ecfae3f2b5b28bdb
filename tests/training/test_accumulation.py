"""Microbatches and rematerialization: the same gradients with less memory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import random_trajectories

from worldmodel.config import Config, NoPolicy, TrainingOptions
from worldmodel.config.rules import config_errors
from worldmodel.data.loader import make_loader
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.windows import Window
from worldmodel.errors import ConfigError
from worldmodel.models.mlp import MLPOptions
from worldmodel.training.mesh import AXES, SHARDS, all_devices, state_shardings
from worldmodel.training.world_model import gradients

KEY = jax.random.key(1)


def loss(params: dict, batch: Window, key: jax.Array) -> tuple[jax.Array, dict]:
    """Of a small network that predicts one observed number from the other: a mean over windows."""
    hidden = jax.nn.silu(batch.observation["x"][..., :1] @ params["first"])
    error = jax.nn.silu(hidden @ params["second"]).sum(-1) - batch.observation["x"][..., 1]
    total = jnp.square(error).mean()
    return total, {"loss/total": total}


@pytest.fixture(scope="module")
def problem() -> tuple[dict, Window]:
    """The network's parameters, and a batch of eight windows."""
    rng = np.random.default_rng(0)
    shapes = {"first": (1, 16), "second": (16, 8)}
    params = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    batches = make_loader(random_trajectories(), 8, 6, 0)
    batch = jax.jit(lambda arrays, feed: batches.batch(arrays, feed, 0))
    return params, jax.device_get(batch(batches.arrays(), batches.feed(0, 1)))


@pytest.fixture(scope="module")
def plain(problem: tuple[dict, Window]) -> jax.stages.Compiled:
    """(params, batch, key) -> gradients and metrics of the whole batch at once."""
    return jax.jit(partial(gradients, loss)).lower(*problem, KEY).compile()


def close(a: dict, b: dict) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * float(np.abs(y).max()))


def test_microbatches_give_the_gradients_and_metrics_of_the_whole_batch(
    problem: tuple[dict, Window], plain: jax.stages.Compiled
) -> None:
    params, batch = problem
    whole, metrics = plain(params, batch, KEY)
    grads, means = jax.jit(partial(gradients, loss, microbatches=4))(params, batch, KEY)
    close(grads, whole)
    assert float(means["loss/total"]) == pytest.approx(float(metrics["loss/total"]), rel=1e-5)
    half = jax.tree.map(lambda x: np.repeat(x[::2], 2, 0), batch)  # a part is not the whole
    part, _ = plain(params, half, KEY)
    assert any(
        not np.allclose(x, y, rtol=1e-3)
        for x, y in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True)
    )


def test_rematerialization_gives_the_same_gradients_with_more_operations(
    problem: tuple[dict, Window], plain: jax.stages.Compiled
) -> None:
    saving = jax.jit(partial(gradients, loss, remat=True)).lower(*problem, KEY).compile()
    close(saving(*problem, KEY)[0], plain(*problem, KEY)[0])
    flops = [c.cost_analysis()["flops"] for c in (plain, saving)]
    assert flops[1] > flops[0]


def test_large_arrays_are_sharded_along_their_longest_axis_that_divides() -> None:
    shapes = {"wide": (6, 64), "tall": (128, 4), "odd": (127, 64), "none": (127, 63), "small": (4,)}
    arrays = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    mesh = jax.sharding.AbstractMesh((2, 4), AXES)
    specs = {
        name: tuple(sharding.spec)
        for name, sharding in state_shardings(arrays, mesh, smallest=100).items()
    }
    assert specs["wide"] == specs["odd"] == (None, SHARDS) and specs["tall"] == (SHARDS,)
    assert specs["none"] == specs["small"] == ()
    mesh = jax.sharding.AbstractMesh((8, 1), AXES)
    assert all(s.is_fully_replicated for s in state_shardings(arrays, mesh).values())


def test_devices_that_do_not_form_groups_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="fsdp_shards=3 does not divide the number of devices, 1; .* 1"
    ):
        all_devices(3)


def test_microbatches_are_for_world_models_alone() -> None:
    training = TrainingOptions(gradient_accumulation_steps=2, remat=True)
    training.world_model.steps = training.policy.steps = 1
    data = GymnasiumData(name="pendulum", environment="Pendulum-v1")
    config = Config("x", data=data, model=MLPOptions(), policy=NoPolicy(), training=training)

    def errors(**options: object) -> list[str]:
        changed = replace(config, training=replace(training, **options))
        about = ("training.gradient_accumulation_steps:", "training.remat:")
        return [error for error in config_errors(changed) if error.startswith(about)]

    assert not errors()
    assert len(errors(joint=True)) == len(errors(pretrained_model="runs/other")) == 2
    assert len(errors(joint=True, remat=False)) == 1
