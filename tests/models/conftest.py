"""A small world that every kind of observation and action is logged from, and models of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import models
from worldmodel.config import (
    Config,
    LoggingOptions,
    ModelOptions,
    NoPolicy,
    StageOptions,
    TrainingOptions,
)
from worldmodel.data.episodes import Episode, stack_episodes
from worldmodel.data.loader import pad_episodes
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import Window
from worldmodel.nn.learner import Learner, TrainState, graphdefs_of, split_module
from worldmodel.runs.directory import RunDirectory, open_run
from worldmodel.system.signals import StopRequest
from worldmodel.training.dispatch import make_stage
from worldmodel.training.loop import RunContext, run_stage
from worldmodel.training.mesh import all_devices
from worldmodel.training.metrics import WandB
from worldmodel.training.plan import plan_stages

TRANSITIONS = (3, 5, 8, 8)  # of each episode
ROWS = 6  # of a window: the first episode has fewer
BOUNDS = ActionSpec(discrete=False, size=2, low=(-1.0, -1.0), high=(1.0, 1.0))
DIRECTIONS = np.array([[0.0, 0.0], [1.0, 0.5], [-1.0, 0.5]])  # of the discrete actions
SIDE = 16  # of the image


def picture(position: np.ndarray) -> np.ndarray:
    """(T, 2) -> (T, side, side, 1) uint8: a soft spot where the point is, on a ring of `SIDE`."""
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1)
    apart = np.abs(grid - 4 * position[:, None, None]) % SIDE
    apart = np.minimum(apart, SIDE - apart)
    return (255 * np.exp(-np.square(apart).sum(-1) / 20))[..., None].astype(np.uint8)


def point_logs(observed: tuple[str, ...], discrete: bool, rewarded: bool) -> Trajectories:
    """Four episodes of a point that is pushed about and slows down; the first two really end."""
    rng = np.random.default_rng(0)
    episodes = []
    for number, steps in enumerate(TRANSITIONS):
        classes = rng.integers(0, len(DIRECTIONS), steps)
        pushes = DIRECTIONS[classes] if discrete else rng.uniform(-1, 1, (steps, 2))
        velocity = [rng.normal(size=2)]
        for push in pushes:
            velocity.append(0.8 * velocity[-1] + push)
        position = np.cumsum(velocity, 0)
        speed = np.linalg.norm(velocity, axis=-1, keepdims=True)
        known = {
            "position": position,
            "motion": np.concatenate([velocity, speed], -1),
            "image": picture(position),
        }
        episodes.append(
            Episode(
                {key: known[key] for key in observed},
                classes if discrete else pushes,
                -speed[1:, 0] if rewarded else None,
                terminated=number < 2,
            )
        )
    bounds = ActionSpec(True, len(DIRECTIONS)) if discrete else BOUNDS
    return stack_episodes(episodes, "a point", bounds)


def environment_logs(name: str) -> Trajectories:
    """Four episodes under random actions, as long as those of the point."""
    environment, rng = gymnasium.make(name), np.random.default_rng(0)
    space, episodes = environment.action_space, []
    for number, steps in enumerate(TRANSITIONS):
        actions = rng.uniform(space.low, space.high, (steps, *space.shape)).astype(np.float32)
        rows, rewards = [environment.reset(seed=number)[0]], []
        for action in actions:
            row, reward, *_ = environment.step(action)
            rows.append(row)
            rewards.append(reward)
        rewards = np.array(rewards, np.float32)
        episodes.append(Episode({"observation": np.stack(rows)}, actions, rewards, False))
    bounds = (tuple(bound.tolist()) for bound in (space.low, space.high))
    return stack_episodes(episodes, name, ActionSpec(False, len(space.low), *bounds))


class Subject:
    """A model with all parameters moved away from their first values (a head that starts at zero
    would hide much), and the beginning of every episode. Its programs are compiled once.
    """

    def __init__(
        self,
        options: ModelOptions,
        logs: Trajectories,
        scaling: dict[str, str],
        dtype: jnp.dtype = jnp.float32,
    ):
        self.options, self.logs, self.spec = options, logs, logs.spec(scaling)

        def build(key: jax.Array) -> models.WorldModel:
            return models.build(options, self.spec, key, dtype)

        rng = np.random.default_rng(1)
        self.definition = graphdefs_of(lambda key: {"model": build(key)})["model"]
        params = jax.device_get(jax.jit(lambda key: split_module(build(key))[1])(jax.random.key(0)))
        moved = jax.tree.map(
            lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params
        )
        self.params = jax.device_put(moved)
        self.window = pad_episodes(logs, ROWS)  # the first one is padded

    @cached_property
    def model(self) -> models.WorldModel:
        return nnx.merge(self.definition, self.params)

    def compiled(self, function: Callable) -> Callable:
        """`function(model, ...)`, compiled: from the other arguments to numpy arrays, whose rows
        are taken without one more program.
        """
        program = jax.jit(lambda params, *rest: function(nnx.merge(self.definition, params), *rest))
        return lambda *inputs: jax.device_get(program(self.params, *inputs))

    @cached_property
    def observe(self) -> Callable:
        return self.compiled(lambda model, *inputs: model.observe(*inputs))

    @cached_property
    def step(self) -> Callable:
        return self.compiled(lambda model, *inputs: model.step(*inputs))

    @cached_property
    def rollout(self) -> Callable:
        return self.compiled(lambda model, *inputs: model.rollout(*inputs))

    @cached_property
    def learn(self) -> Callable:
        """(window, key) -> ((loss, (metrics, states)), gradient)."""

        def loss(params: Any, window: Window, key: jax.Array) -> tuple:
            return nnx.merge(self.definition, params).loss(window, key)

        program = jax.jit(jax.value_and_grad(loss, has_aux=True))
        return lambda *inputs: jax.device_get(program(self.params, *inputs))


class Counted:
    """A learner that counts how often its update is traced, to be compiled."""

    def __init__(self, learner: Learner):
        self.learner, self.traces = learner, 0
        self.graphdefs, self.init = learner.graphdefs, learner.init

    def update(self, state: TrainState, batch: Window, key: jax.Array) -> tuple:
        self.traces += 1
        return self.learner.update(state, batch, key)


class Trained(NamedTuple):
    """A finished world-model stage."""

    subject: Subject
    state: TrainState
    learner: Counted
    directory: RunDirectory


def train(subject: Subject, folder: Path, stop: bool = False) -> Trained:
    """Four updates in two calls to the device; with `stop`, it is asked to end during the first."""
    stage = StageOptions(steps=4, batch_size=4, window=ROWS, learning_rate=1e-3, warmup_steps=0)
    training = TrainingOptions(
        stage, stage, stage, steps_per_dispatch=2, log_every=2, checkpoint_every=4
    )
    data, logging = NPZData(path="point.npz"), LoggingOptions(wandb="disabled")
    config = Config(
        "run", runs_dir=str(folder), data=data, model=subject.options, policy=NoPolicy(),
        training=training, logging=logging,
    )  # fmt: skip
    directory = open_run(config)
    directory.check_dataset(subject.spec, subject.logs.fingerprint())
    plan = plan_stages(config, subject.spec)["world_model"]
    learner = Counted(plan.build_learner())
    request = StopRequest()
    request.stop_requested = stop
    context = RunContext(directory, all_devices(), request, WandB(logging, folder, {}))
    try:
        state = run_stage(make_stage(plan, subject.logs, learner), context)
    finally:
        request.close()
    return Trained(subject, state, learner, directory)


@pytest.fixture(scope="session")
def make_subject() -> type[Subject]:
    return Subject


@pytest.fixture(scope="session")
def train_subject() -> Callable[..., Trained]:
    return train


@pytest.fixture(scope="session")
def logs_of_a_point() -> Callable[..., Trajectories]:
    return point_logs


@pytest.fixture(scope="session")
def logs_of_an_environment() -> Callable[[str], Trajectories]:
    return environment_logs
