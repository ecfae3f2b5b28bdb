"""The plan of a run: its stages in order, with every number that training needs.

Training, the dry run and loading start from the same plan; the whole configuration goes no further
than this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from worldmodel import models
from worldmodel.config import Config, StageOptions
from worldmodel.data.loader import Loader, make_loader
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import ConfigError
from worldmodel.nn import optimizer
from worldmodel.nn.learner import Learner, RolloutLearner, TrainState
from worldmodel.runs.best import BestMetric
from worldmodel.training.learners import LearnerBuilder
from worldmodel.training.mesh import check_divisible


@dataclass(frozen=True)
class StagePlan:
    """One stage of a run.

    name: `world_model`, `policy`, `joint`, or a module of the model that is pretrained
    build_learner: from the modules that earlier stages trained, by name, to the stage's learner;
        without them, to one with new modules, which is enough to restore a checkpoint
    steps: updates
    batch_size: windows in a batch, for each seed
    window: timesteps in a window
    has_model: whether the stage trains or uses a whole world model
    seed: of initial parameters, batches and noise
    num_seeds: training seeds at once
    microbatches: parts of a batch whose gradients are computed one after the other
    loader, num_workers: how batches reach the device, see `make_loader`
    steps_per_dispatch: most updates in a call to the device
    log_every, checkpoint_every: updates between rows of metrics.jsonl, and between checkpoints
    max_to_keep: newest checkpoints that are kept
    best: how one more checkpoint is chosen to be kept
    rollback: whether training returns to the last checkpoint when it diverges
    """

    name: str
    build_learner: Callable[..., Learner]
    steps: int
    batch_size: int
    window: int
    has_model: bool = True
    seed: int = 0
    num_seeds: int = 1
    microbatches: int = 1
    loader: str = "auto"
    num_workers: int = 0
    steps_per_dispatch: int = 25
    log_every: int = 100
    checkpoint_every: int = 1000
    max_to_keep: int = 2
    best: BestMetric | None = None
    rollback: bool = False

    @property
    def group(self) -> str:
        """Where the stage's options are set, as messages name it."""
        return f"training.{_options_group(self.name)}"

    def make_loader(self, trajectories: Trajectories) -> Loader:
        """The stage's batches: those of each seed one after the other."""
        return self._loader(trajectories, self.batch_size * self.num_seeds, self.seed)

    def make_rollout_loader(self, trajectories: Trajectories, num_windows: int) -> Loader:
        """The windows that rollouts start from, drawn independently of the batches."""
        return self._loader(trajectories, num_windows, self.seed + 1)

    def _loader(self, trajectories: Trajectories, num_windows: int, seed: int) -> Loader:
        return make_loader(
            trajectories, num_windows, self.window, seed, self.loader, self.num_workers
        )


def plan_stages(config: Config, spec: DataSpec) -> dict[str, StagePlan]:
    """The stages of a run by name, in order. Raises ConfigError for a combination of options that
    cannot be trained on data of this kind.
    """
    training = config.training
    family = models.family(config.model)
    pretrained = tuple(family.pretrained_modules(config.model, spec))
    if training.joint:
        if pretrained:
            raise ConfigError(
                f"training.joint=true: model={config.model.name} trains its "
                f"{' and '.join(pretrained)} first on data like these; accepted: "
                "training.joint=false"
            )
        names = ["joint"]
    else:
        model_stages = [*pretrained, *(["world_model"] if family.trainable else [])]
        names = [] if training.pretrained_model else model_stages
        names += [] if config.policy.name == "none" else ["policy"]

    stages = {}
    for name in names:
        options: StageOptions = getattr(training, _options_group(name))
        microbatches = 1 if name == "policy" else training.gradient_accumulation_steps
        build_learner = LearnerBuilder(
            stage=name,
            model=config.model,
            policy=config.policy,
            spec=spec,
            optimizer=optimizer.build(options),
            dtype=jnp.dtype(training.precision),
            num_seeds=training.num_seeds,
            microbatches=microbatches,
            remat=training.remat,
        )
        best = options.best_metric and BestMetric(options.best_metric, options.best_mode)
        stages[name] = StagePlan(
            name=name,
            build_learner=build_learner,
            steps=options.steps,
            batch_size=options.batch_size,
            window=options.window,
            has_model=name not in pretrained,
            seed=config.seed,
            num_seeds=training.num_seeds,
            microbatches=microbatches,
            loader=config.data.loader,
            num_workers=config.data.num_workers,
            steps_per_dispatch=training.steps_per_dispatch,
            log_every=training.log_every,
            checkpoint_every=training.checkpoint_every,
            max_to_keep=training.max_to_keep,
            best=best or None,
            rollback=training.on_divergence == "rollback",
        )
    return stages


def _options_group(stage: str) -> str:
    """The joint stage uses the options of the world model's stage."""
    return "world_model" if stage == "joint" else stage


def check_stages(stages: Iterable[StagePlan], mesh: jax.sharding.Mesh) -> None:
    """Raises ConfigError for what any stage would refuse, before the first one starts."""
    for stage in stages:
        key, size = f"{stage.group}.batch_size", stage.batch_size
        check_divisible(key, size, mesh, stage.microbatches)
        jax.eval_shape(partial(_check_learner, stage, mesh), jax.random.key(0))


def _check_learner(stage: StagePlan, mesh: jax.sharding.Mesh, key: jax.Array) -> TrainState:
    learner = stage.build_learner()
    if isinstance(learner, RolloutLearner) and learner.rollout_every:
        windows = learner.rollout_windows // stage.num_seeds
        check_divisible("policy.rollout_batch_size", windows, mesh)
    return learner.init(key)
