"""What a checkpoint holds: models and policies, put together again by the stages that made them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from worldmodel import policies
from worldmodel.config import Config
from worldmodel.data.spec import DataSpec
from worldmodel.errors import CheckpointError, ConfigError
from worldmodel.models import WorldModel, family
from worldmodel.nn.learner import split_module
from worldmodel.planning import Agent, Value
from worldmodel.runs import integrity
from worldmodel.runs.best import best_metric_from
from worldmodel.runs.checkpoints import Checkpoints
from worldmodel.runs.directory import RunDirectory, find_run
from worldmodel.training.seeds import select_seed
from worldmodel.training.stages import build_learner, modules, stage_names, stage_options

# Options of models that change how they imagine, not what they learned.
SAMPLING_OPTIONS = frozenset(
    {
        "s_churn", "s_tmax", "s_tmin", "s_noise", "guidance_scale", "guidance_schedule",
        "condition_on_start", "member", "sigma_max", "sigma_min", "normalize_guidance", "reencode_every", "rho",
        "sampler", "sampler_steps",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Restored:
    """One checkpoint of a run."""

    directory: RunDirectory
    config: Config
    spec: DataSpec
    stage: str
    step: int
    model: WorldModel
    policy: nnx.Module | None
    value: Value | None  # what the critic expects, where the run has one
    other_seeds: tuple[Agent, ...] = ()  # of the run's other seeds
    last: Restored | None = None  # the run's last checkpoint, where this is its best one

    @property
    def agents(self) -> list[Agent]:
        """Of all training seeds."""
        return [Agent(self.model, self.policy, self.value), *self.other_seeds]

    def checkpoint_policies(self) -> dict[str, nnx.Module]:
        """The policies of other checkpoints on disk that act on the same model's features, by name.

        There are none where the stage trains the model too: their features are another model's.
        """
        found = {}
        for step in integrity.checkpoint_steps(self.directory.checkpoints(self.stage)):
            if self.policy is None or step == self.step:
                continue
            with contextlib.suppress(CheckpointError):  # damaged: there is nothing to judge by it
                other = restore(self.directory.path, str(step))
                if other.stage == self.stage and _same(other.model, self.model):
                    found[f"step {step:,}"] = other.policy
        return found


def restore(path: str | Path, checkpoint: str = "last") -> Restored:
    """Loads a run: its last stage that has a checkpoint, at `last` (the newest that is whole), at
    `best` (by `best_metric` of the stage's options) or at a step. Where it trained several seeds,
    model and policy are the first one's, and `other_seeds` those of the others. The best one comes with
    the `last`: it was chosen among several, in part for its luck.

    Raises CheckpointError if there is no such run or checkpoint, or if it holds another model.
    """
    directory = find_run(path)
    config, spec = directory.config(), directory.spec()
    stage, step, made = _restored(
        directory, config, spec, _stages_of_models(config, spec), checkpoint
    )
    count = config.training.num_seeds
    of_seeds = [made] if count == 1 else [_of_seed(made, number) for number in range(count)]
    first, *other_seeds = (
        Agent(m["model"], m.get("actor"), policies.build_value(config.policy, spec, m))
        for m in of_seeds
    )
    last = restore(path) if checkpoint == "best" else None
    return Restored(directory, config, spec, stage, step, *first, tuple(other_seeds), last)


def load_world_model(path: str, config: Config, spec: DataSpec) -> WorldModel:
    """The model of another run, of all its seeds, for the policy of a run of `config` on data like
    `spec`. Options of how it imagines, such as a sampler's, are `config`'s.

    It is the world model as its own stage left it: a policy's stage may have changed it.

    Raises ConfigError if it was trained otherwise, on other data or seeds, or is not complete.
    """
    directory = find_run(path)
    theirs = directory.config()
    mine, other = asdict(config.model), asdict(theirs.model)
    wrong = ["model"] if config.model.name != theirs.model.name else []
    wrong = wrong or [
        f"model.{k}" for k in mine if mine[k] != other[k] and k not in SAMPLING_OPTIONS
    ]
    wrong += ["training.num_seeds"] * (config.training.num_seeds != theirs.training.num_seeds)
    wrong += ["data"] * (spec != directory.spec())
    if wrong:
        raise ConfigError(
            f"training.pretrained_model={path}: that run has other {' and '.join(wrong)}; accepted: a "
            "run with the same model, logs and number of seeds"
        )
    first = _stages_of_models(theirs, spec)[:1]
    stage, step, made = _restored(directory, theirs, spec, first, "last")
    if step < (steps := stage_options(theirs, stage).steps):
        raise ConfigError(
            f"training.pretrained_model={path}: its stage {stage} is at step {step} of {steps}; "
            "accepted: a run that has completed it"
        )
    definition = build_learner(config, spec, "policy").graphdefs["model"]
    return nnx.merge(definition, split_module(made["model"])[1])


def _stages_of_models(config: Config, spec: DataSpec) -> list[str]:
    """Stages before the world model's have no model yet."""
    parts = family(config.model).pretrained_modules(config.model, spec)
    return [name for name in stage_names(config, spec) if name not in parts]


def _restored(
    directory: RunDirectory, config: Config, spec: DataSpec, stages: list[str], checkpoint: str
) -> tuple[str, int, dict[str, nnx.Module]]:
    """Stage, step and modules of the newest checkpoint among those of `stages`; with several seeds,
    those of all of them.
    """
    stage, step = _choose(directory, config, stages, checkpoint)
    learner = build_learner(config, spec, stage)
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    shapes = replace(
        shapes, opt_state=(), statistics={}, replay_buffer=()
    )  # which only training needs
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes)
    checkpoints = Checkpoints(directory.checkpoints(stage), read_only=True)
    state, _ = checkpoints.restore(step, like, partial=True)
    checkpoints.close()
    return stage, step, modules(learner, state)


def _of_seed(modules: Mapping[str, nnx.Module], number: int) -> dict[str, nnx.Module]:
    return {name: select_seed(module, number) for name, module in modules.items()}


def _same(model: WorldModel, other: WorldModel) -> bool:
    """Whether all parameters are, bit for bit."""
    mine, theirs = (jax.tree.leaves(split_module(m)[1]) for m in (model, other))
    return all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


def _choose(
    directory: RunDirectory, config: Config, stages: list[str], checkpoint: str
) -> tuple[str, int]:
    """The newest stage that has the checkpoint asked for, which is whole.

    Raises CheckpointError if there is none, or if it is damaged: only for `last` is there another.
    """
    found = {stage: integrity.checkpoint_steps(directory.checkpoints(stage)) for stage in stages}
    found = {stage: steps for stage, steps in found.items() if steps}
    for stage in reversed(found):
        folder = directory.checkpoints(stage)
        if checkpoint == "last":
            return stage, _newest_whole(folder)
        step = _best(config, stage, folder) if checkpoint == "best" else checkpoint
        if str(step) in map(str, found[stage]):
            _refuse_damaged(folder / str(step))
            return stage, int(step)
    there = "; ".join(f"{stage}: {steps}" for stage, steps in found.items()) or "none"
    raise CheckpointError(
        f"{directory.path} has no checkpoint {checkpoint!r}. There are: {there}. "
        "Accepted are last, best and the number of a step."
    )


def _newest_whole(folder: Path) -> int:
    whole, faults = integrity.latest_valid(folder)
    for step, fault in faults.items():
        print(f"warning: {folder / str(step)} is damaged ({fault}); {folder / str(whole)} is taken")
    return whole


def _best(config: Config, stage: str, folder: Path) -> int | None:
    options = stage_options(config, stage)
    best = best_metric_from(options)
    if best is None:
        group = "world_model" if stage == "joint" else stage
        raise CheckpointError(
            f"checkpoint=best: {folder.parent.parent} has no training.{group}.best_metric; "
            "accepted are last and the number of a step"
        )
    return best.best_step(best.values(folder))


def _refuse_damaged(checkpoint: Path) -> None:
    try:
        integrity.verify(checkpoint)
    except integrity.CorruptCheckpoint as fault:
        raise CheckpointError(
            f"{checkpoint} is damaged ({fault}); accepted: last, the newest that is whole"
        ) from None
