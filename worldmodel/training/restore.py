"""Restores models and policies from the checkpoints of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel import models, policies
from worldmodel.config import Config, DataOptions, ModelOptions
from worldmodel.config.data_sources import source_option
from worldmodel.config.environment_ids import foreign_arguments, local_code
from worldmodel.config.evaluation_data import evaluation_data_options
from worldmodel.config.registry import entry_of
from worldmodel.data.spec import DataSpec
from worldmodel.errors import CheckpointError, ConfigError, DataError, raise_config_errors
from worldmodel.models import WorldModel
from worldmodel.nn.learner import graphdefs_of, split_module
from worldmodel.planning import Agent, Value
from worldmodel.runs import integrity
from worldmodel.runs.checkpoints import Checkpoints
from worldmodel.runs.directory import RunDirectory, find_run
from worldmodel.runs.origin import is_own
from worldmodel.training.learners import trained_modules
from worldmodel.training.plan import StagePlan, plan_stages
from worldmodel.training.seeds import select_seed


@dataclass(frozen=True)
class Restored:
    """One checkpoint of a run.

    value: of a state under the policy, where the run trained a critic
    other_seeds: the agents of the run's other training seeds
    last: the run's last checkpoint, where this is its best one
    trusted: whether its config may name the data to read
    """

    directory: RunDirectory
    config: Config
    spec: DataSpec
    stage: str
    step: int
    model: WorldModel
    policy: nnx.Module | None
    value: Value | None
    other_seeds: tuple[Agent, ...] = ()
    last: Restored | None = None
    trusted: bool = True

    def data_options(self, values: dict[str, Any] | None = None) -> DataOptions:
        """Of the run's own data, or of others: `values` of `evaluation.data`.

        Raises DataError where a run from elsewhere names them: its paths are not read unasked.
        """
        evaluation = replace(self.config.evaluation, data=values)
        options = evaluation_data_options(replace(self.config, evaluation=evaluation))
        source = {"path", source_option(entry_of("data", options))}
        if self.trusted or source & (values or {}).keys():
            return options
        raise DataError(
            f"{self.directory.path}: this user did not train it on this machine, so the data that "
            "its config names is not read unasked; accepted: other data, such as "
            "evaluation.data.path=PATH, or allow_code=true if you trust the run"
        )

    @property
    def agents(self) -> list[Agent]:
        """Of all training seeds."""
        return [Agent(self.model, self.policy, self.value), *self.other_seeds]

    def checkpoint_policies(self) -> dict[str, nnx.Module]:
        """The policies of other checkpoints on disk that act on the same model's features, by name.

        There are none where the stage trains the model too: their features are another model's.
        """
        policies: dict[str, nnx.Module] = {}
        for step in integrity.checkpoint_steps(self.directory.checkpoints(self.stage)):
            if self.policy is None or step == self.step:
                continue
            with contextlib.suppress(CheckpointError):  # a damaged one cannot be evaluated
                other = restore(self.directory.path, str(step), allow_code=True)
                same = other.stage == self.stage and _same_parameters(other.model, self.model)
                if same and other.policy is not None:
                    policies[f"step {step:,}"] = other.policy
        return policies


def restore(path: str | Path, checkpoint: str = "last", *, allow_code: bool = False) -> Restored:
    """Restores the last stage of the run at `path` that has a checkpoint.

    checkpoint: `last` (the newest undamaged one), `best` (by the stage's `best_metric`) or a step.
        The best one comes with the `last`: it was selected among several, in part for its luck.
    allow_code: whether the run is trusted: an environment that it names may be of no installed
        package or have arguments, and its data source is read wherever it was trained

    Of a run with several training seeds, model and policy are those of the first seed, and
    `other_seeds` those of the others.

    Raises CheckpointError if there is no such run or checkpoint, or if it is of another model, and
    ConfigError for such an environment.
    """
    directory = find_run(path)
    config, spec = directory.config(), directory.spec()
    trusted = allow_code or is_own(directory.path, config)
    if not allow_code:
        raise_config_errors(local_code(config))
    if not trusted:  # nothing of it is read, and nothing written where it says
        raise_config_errors(foreign_arguments(config))
        config.evaluation.data, config.data.cache_dir = None, type(config.data)().cache_dir
    stages = [stage for stage in plan_stages(config, spec).values() if stage.has_model]
    stage, step, modules = _restore_modules(directory, stages, checkpoint)
    agents = []
    for seed in range(stage.num_seeds):
        of_seed: dict[str, Any] = modules
        if stage.num_seeds > 1:
            of_seed = {name: select_seed(module, seed) for name, module in modules.items()}
        value = policies.build_value(config.policy, spec, of_seed)
        agents.append(Agent(of_seed["model"], of_seed.get("actor"), value))
    first, *other_seeds = agents
    return Restored(
        directory=directory,
        config=config,
        spec=spec,
        stage=stage.name,
        step=step,
        model=first.model,
        policy=first.policy,
        value=first.value,
        other_seeds=tuple(other_seeds),
        last=restore(path, allow_code=allow_code) if checkpoint == "best" else None,
        trusted=trusted,
    )


def load_world_model(
    path: str | Path,
    options: ModelOptions,
    spec: DataSpec,
    *,
    num_seeds: int = 1,
    dtype: jnp.dtype = jnp.float32,
) -> WorldModel:
    """The world model of another run, as its own stage left it, for training a policy.

    path: folder of that run
    options: of the model; those that change how it imagines, such as a sampler's, may differ from
        the other run's
    spec: of the data that the policy is trained on
    num_seeds: training seeds, all of which the model has

    Raises ConfigError if the other run has other options, data or seeds, or is not complete.
    """
    directory = find_run(path)
    config = directory.config()
    here, there = asdict(options), asdict(config.model)
    different = ["model"] if options.name != config.model.name else []
    different = different or [
        f"model.{field.name}"
        for field in fields(options)
        if here[field.name] != there[field.name] and not field.metadata.get("sampling")
    ]
    different += ["training.num_seeds"] * (num_seeds != config.training.num_seeds)
    different += ["data"] * (spec != directory.spec())
    if different:
        raise ConfigError(
            f"training.pretrained_model={path}: that run has other {' and '.join(different)}; "
            "accepted: a run with the same model, data and number of seeds"
        )
    stages = [stage for stage in plan_stages(config, spec).values() if stage.has_model]
    stage, step, modules = _restore_modules(directory, stages[:1], "last")
    if step < stage.steps:
        raise ConfigError(
            f"training.pretrained_model={path}: its stage {stage.name} is at step {step} of "
            f"{stage.steps}; accepted: a run that has completed it"
        )
    graphdefs = graphdefs_of(lambda key: {"model": models.build(options, spec, key, dtype)})
    return nnx.merge(graphdefs["model"], split_module(modules["model"])[1])


def _restore_modules(
    directory: RunDirectory, stages: Sequence[StagePlan], checkpoint: str
) -> tuple[StagePlan, int, dict[str, Any]]:
    """Stage, step and modules of a checkpoint of one of `stages`; the modules have the parameters
    of all seeds.
    """
    stage, step = _find_checkpoint(directory, stages, checkpoint)
    learner = stage.build_learner()
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    shapes = replace(shapes, opt_state=(), statistics={}, replay_buffer=())  # only for training
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes)
    checkpoints = Checkpoints(directory.checkpoints(stage.name), read_only=True)
    state, _ = checkpoints.restore(step, like, partial=True)
    checkpoints.close()
    return stage, step, trained_modules(learner, state)


def _same_parameters(model: WorldModel, other: WorldModel) -> bool:
    ours, theirs = (jax.tree.leaves(split_module(m)[1]) for m in (model, other))
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def _find_checkpoint(
    directory: RunDirectory, stages: Sequence[StagePlan], checkpoint: str
) -> tuple[StagePlan, int]:
    """The newest stage that has this checkpoint, and its step.

    Raises CheckpointError if there is none, or if it is damaged: only `last` has a replacement.
    """
    steps = {
        stage.name: integrity.checkpoint_steps(directory.checkpoints(stage.name))
        for stage in stages
    }
    for stage in reversed([stage for stage in stages if steps[stage.name]]):
        folder = directory.checkpoints(stage.name)
        if checkpoint == "last":
            step = _latest_valid(folder)
        elif checkpoint == "best":
            step = _best_step(stage, folder)
        else:
            step = int(checkpoint) if checkpoint.isdecimal() else None
        if step is not None and step in steps[stage.name]:
            if checkpoint != "last":  # which is verified already
                _raise_if_damaged(folder / str(step))
            return stage, step
    existing = "; ".join(f"{name}: {found}" for name, found in steps.items() if found)
    raise CheckpointError(
        f"{directory.path} has no checkpoint {checkpoint!r}; existing: {existing or 'none'}. "
        "Accepted: last, best, or the number of a step."
    )


def _latest_valid(folder: Path) -> int | None:
    step, damaged = integrity.latest_valid(folder)
    for other, reason in damaged.items():
        print(
            f"warning: {folder / str(other)} is damaged ({reason}); "
            f"{folder / str(step)} is used instead"
        )
    return step


def _best_step(stage: StagePlan, folder: Path) -> int | None:
    if stage.best is None:
        raise CheckpointError(
            f"checkpoint=best: {folder.parent.parent} has no {stage.group}.best_metric; "
            "accepted: last, or the number of a step"
        )
    return stage.best.best_step(stage.best.values(folder))


def _raise_if_damaged(checkpoint: Path) -> None:
    try:
        integrity.verify(checkpoint)
    except integrity.CorruptCheckpoint as damage:
        raise CheckpointError(
            f"{checkpoint} is damaged ({damage}); accepted: last, the newest undamaged one"
        ) from None
