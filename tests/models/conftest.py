"""Datasets of a small world with every kind of observation and action, and models of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import CASES, Case, facts_of, options_of
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
from worldmodel.nn.learner import Learner, TrainState, split_module
from worldmodel.runs.directory import RunDirectory, open_run
from worldmodel.system.signals import StopRequest
from worldmodel.training.dispatch import make_stage
from worldmodel.training.loop import RunContext, run_stage
from worldmodel.training.mesh import all_devices
from worldmodel.training.metrics import WandB
from worldmodel.training.plan import plan_stages

TRANSITIONS = (3, 5, 8, 8)  # of each episode
WINDOW = 6  # steps; the first episode has fewer
BOUNDS = ActionSpec(discrete=False, size=2, low=(-1.0, -1.0), high=(1.0, 1.0))
PARTS = ActionSpec.of_parts(
    {"brake": ActionSpec(True, 2), "force": BOUNDS, "push": ActionSpec(True, 3)}
)
FORCES = np.array([[0.0, 0.0], [1.0, 0.5], [-1.0, 0.5]])  # of the discrete actions
SIDE = 16  # of the image, pixels


def image_of(position: np.ndarray) -> np.ndarray:
    """(T, 2) -> (T, side, side, 1) uint8: a blurred spot at the position, which wraps around."""
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1)
    distance = np.abs(grid - 4 * position[:, None, None]) % SIDE
    distance = np.minimum(distance, SIDE - distance)
    return (255 * np.exp(-np.square(distance).sum(-1) / 20))[..., None].astype(np.uint8)


def point_dataset(case: Case) -> Trajectories:
    """Four episodes of a damped point under forces; the first two terminate."""
    rng = np.random.default_rng(0)
    episodes = []
    for number, steps in enumerate(TRANSITIONS):
        classes = rng.integers(0, len(FORCES), steps)
        forces = FORCES[classes] if case.discrete else rng.uniform(-1, 1, (steps, 2))
        actions, brakes = classes if case.discrete else forces, np.zeros(steps)
        if case.parts:
            brakes = rng.integers(0, 2, steps)
            actions = PARTS.flatten({"brake": brakes, "force": forces, "push": classes})
            forces = forces + FORCES[classes]
        velocity = [rng.normal(size=2)]
        for force, brake in zip(forces, brakes, strict=True):
            velocity.append((0.8 - 0.4 * brake) * velocity[-1] + force)
        position = np.cumsum(velocity, 0)
        speed = np.linalg.norm(velocity, axis=-1, keepdims=True)
        observations = {
            "position": position,
            "motion": np.concatenate([velocity, speed], -1),
            "image": image_of(position),
        }
        episodes.append(
            Episode(
                {key: observations[key] for key in case.observations},
                actions,
                -speed[1:, 0] if case.has_reward else None,
                terminated=number < 2,
            )
        )
    bounds = ActionSpec(True, len(FORCES)) if case.discrete else PARTS if case.parts else BOUNDS
    return stack_episodes(episodes, "a point", bounds)


def environment_dataset(name: str) -> Trajectories:
    """Four episodes of random actions, as long as those of the point."""
    environment, rng = gymnasium.make(name), np.random.default_rng(0)
    space, episodes = environment.action_space, []
    for number, steps in enumerate(TRANSITIONS):
        actions = rng.uniform(space.low, space.high, (steps, *space.shape)).astype(np.float32)
        observations, rewards = [environment.reset(seed=number)[0]], []
        for action in actions:
            observation, reward, *_ = environment.step(action)
            observations.append(observation)
            rewards.append(reward)
        rewards = np.array(rewards, np.float32)
        episodes.append(Episode({"observation": np.stack(observations)}, actions, rewards, False))
    bounds = (tuple(bound.tolist()) for bound in (space.low, space.high))
    return stack_episodes(episodes, name, ActionSpec(False, len(space.low), *bounds))


class Subject:
    """A model with perturbed initial parameters, because a head that is initially zero would hide
    errors, and the first window of every episode. Functions are compiled once.
    """

    def __init__(
        self,
        options: ModelOptions,
        dataset: Trajectories,
        normalization: dict[str, str],
        dtype: jnp.dtype = jnp.float32,
    ):
        self.options, self.dataset, self.spec = options, dataset, dataset.spec(normalization)

        rng = np.random.default_rng(1)
        # Not one program each: models of the same sizes share those of their layers.
        self.graphdef, params = split_module(
            models.build(options, self.spec, jax.random.key(0), dtype)
        )
        params = jax.device_get(params)
        perturbed = jax.tree.map(
            lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params
        )
        self.params = jax.device_put(perturbed)
        self.window = pad_episodes(dataset, WINDOW)  # the first one is padded

    @cached_property
    def model(self) -> models.WorldModel:
        return nnx.merge(self.graphdef, self.params)

    def compiled(self, function: Callable) -> Callable:
        """`function(model, ...)`, compiled: from the other arguments to NumPy arrays, which are
        indexed without compiling further programs.
        """
        program = jax.jit(lambda params, *rest: function(nnx.merge(self.graphdef, params), *rest))
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
            return nnx.merge(self.graphdef, params).loss(window, key)

        program = jax.jit(jax.value_and_grad(loss, has_aux=True))
        return lambda *inputs: jax.device_get(program(self.params, *inputs))


class Counted:
    """A learner that counts how often its update is traced."""

    def __init__(self, learner: Learner):
        self.learner, self.traces = learner, 0
        self.graphdefs, self.init = learner.graphdefs, learner.init

    def update(self, state: TrainState, batch: Window, key: jax.Array) -> tuple:
        self.traces += 1
        return self.learner.update(state, batch, key)


class Trained(NamedTuple):
    """A finished stage of the world model."""

    subject: Subject
    state: TrainState
    learner: Counted
    directory: RunDirectory


def train(subject: Subject, folder: Path, stop: bool = False) -> Trained:
    """Four updates in two calls to the device; with `stop`, it is stopped during the first."""
    stage = StageOptions(steps=4, batch_size=4, window=WINDOW, learning_rate=1e-3, warmup_steps=0)
    training = TrainingOptions(
        stage, stage, stage, steps_per_dispatch=2, log_every=2, checkpoint_every=4
    )
    data, logging = NPZData(path="point.npz"), LoggingOptions(wandb="disabled")
    config = Config(
        "run", runs_dir=str(folder), data=data, model=subject.options, policy=NoPolicy(),
        training=training, logging=logging,
    )  # fmt: skip
    directory = open_run(config)
    directory.check_dataset(subject.spec, subject.dataset.fingerprint())
    plan = plan_stages(config, subject.spec)["world_model"]
    learner = Counted(plan.build_learner())
    request = StopRequest()
    request.stop_requested = stop
    context = RunContext(directory, all_devices(), request, WandB(logging, folder, {}))
    try:
        state = run_stage(make_stage(plan, subject.dataset, learner), context)
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
def dataset_of() -> Callable[[str], Trajectories]:
    """From a name in `CASES` to a dataset of the point."""
    return lambda case: point_dataset(CASES[case])


@pytest.fixture(scope="session")
def subjects() -> Callable[..., Subject]:
    """(family, case, ...) -> `Subject`, shared by all tests."""

    @cache
    def find(family: str, case: str, *dtype: Any) -> Any:
        facts = facts_of(family)
        dataset = (
            environment_dataset(facts.environment)
            if facts.environment
            else point_dataset(CASES[case])
        )
        subject = Subject(options_of(family), dataset, CASES[case].normalization, *dtype)
        subject.facts = facts
        return subject

    return find


@pytest.fixture
def subject(request: pytest.FixtureRequest, subjects: Callable) -> Subject:
    return subjects(*request.param)
