"""A small stage, trained in the process of a test: what tests of the training loop share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from worldmodel.config import Config, LoggingOptions, NoPolicy, StageOptions, TrainingOptions
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import Window
from worldmodel.models.mlp import MLPOptions
from worldmodel.models.rssm import RSSMOptions
from worldmodel.nn.learner import (
    Learner,
    Metrics,
    TrainState,
    apply_gradients,
    create_train_state,
)
from worldmodel.runs.directory import RunDirectory
from worldmodel.system.signals import StopRequest
from worldmodel.training.dispatch import make_stage
from worldmodel.training.loop import RunContext, run_stage
from worldmodel.training.mesh import all_devices
from worldmodel.training.metrics import WandB
from worldmodel.training.plan import StagePlan, plan_stages

STAGE = StageOptions(steps=20, batch_size=8, window=6, learning_rate=1e-3, warmup_steps=5)
MLP = MLPOptions(units=16, latent_dim=8)
RSSM = RSSMOptions(deter=32, hidden=16, classes=4, stoch=4, blocks=2)


class LinearLearner:
    """Predicts the second of two observed numbers from the first, with some noise: a learner that
    compiles in no time.
    """

    graphdefs: ClassVar[dict] = {}

    def __init__(self, learning_rate: float = 1e-2):
        self.optimizer = optax.sgd(learning_rate)

    def init(self, key: jax.Array) -> TrainState:
        return create_train_state({"line": {"slope": jax.random.normal(key)}}, self.optimizer)

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        def loss(params: dict) -> jax.Array:
            x = batch.observation["x"] + 0.1 * jax.random.normal(key, batch.observation["x"].shape)
            return jnp.square(params["line"]["slope"] * x[..., 0] - x[..., 1]).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        state, metrics = apply_gradients(state, grads, self.optimizer)
        return state, metrics | {"loss/total": value}


def linear_plan(steps: int, **changes: Any) -> StagePlan:
    """The plan of a stage of a LinearLearner on `random_trajectories`."""
    return StagePlan("world_model", LinearLearner, steps, batch_size=4, window=6, **changes)


def random_trajectories(episodes: int = 30, steps: int = 6) -> Trajectories:
    """Episodes of two normal random numbers per timestep."""
    values = np.random.default_rng(0).normal(size=(episodes * steps, 2)).astype(np.float32)
    return Trajectories(
        observations={"x": values},
        actions=np.zeros((episodes * steps, 1), np.float32),
        rewards=None,
        lengths=np.full(episodes, steps),
        terminated=np.zeros(episodes, bool),
        action_spec=ActionSpec(False, 1, (-1.0,), (1.0,)),
        source="random.npz",
    )


def small_config(model: Any = MLP, stage: StageOptions = STAGE, **changes: Any) -> Config:
    """A configuration whose stages all have the options `stage`."""
    training = TrainingOptions(
        stage, stage, stage, steps_per_dispatch=5, log_every=10, checkpoint_every=10
    )
    config = Config("test", data=NPZData(), model=model, policy=NoPolicy(), training=training)
    return replace(config, **changes)


def small_plan(trajectories: Trajectories, config: Config | None = None) -> StagePlan:
    """The plan of the world model's stage."""
    return plan_stages(config or small_config(), trajectories.spec())["world_model"]


def train_stage(
    plan: StagePlan,
    folder: Path,
    trajectories: Trajectories,
    *,
    learner: Learner | None = None,
    stop: bool = False,
    is_writer: bool = True,
    fsdp_shards: int = 1,
) -> TrainState:
    """Trains a stage. With `stop`, it is requested to stop during its first call to the device, and
    Preempted is raised.
    """
    folder.mkdir(exist_ok=True)
    request = StopRequest()
    request.stop_requested = stop
    context = RunContext(
        directory=RunDirectory(folder, is_writer),
        mesh=all_devices(fsdp_shards),
        stop=request,
        wandb=WandB(LoggingOptions(wandb="disabled"), folder, {}),
    )
    try:
        return run_stage(make_stage(plan, trajectories, learner or plan.build_learner()), context)
    finally:
        request.close()


def read_rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]
