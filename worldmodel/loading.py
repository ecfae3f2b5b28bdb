"""A finished or running run, loaded from its folder: model, policy, config and what can be asked of
them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel import data, policies
from worldmodel.config import Config
from worldmodel.config.dream import DreamOptions
from worldmodel.config_io import changed, made
from worldmodel.data.fitting import fitted
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import split_episodes
from worldmodel.data.windows import Window
from worldmodel.dream import DreamEnv, DreamVectorEnv
from worldmodel.dream import dream as dreams
from worldmodel.errors import CheckpointError, ConfigError
from worldmodel.evaluation.acting import Agent
from worldmodel.evaluation.evaluator import Results, evaluate_loaded
from worldmodel.judged_data import judged_data
from worldmodel.learner import divide
from worldmodel.models import WorldModel, parts
from worldmodel.planning import Value
from worldmodel.run_directory import RunDirectory, find_run
from worldmodel.training import integrity
from worldmodel.training.best import best_of
from worldmodel.training.checkpoints import Checkpoints
from worldmodel.training.seeds import of_seed
from worldmodel.training.stages import build_learner, modules, stage_names, stage_options

# Options of models that change how they imagine, not what they learned.
OF_IMAGINATION = frozenset(
    {
        "churn", "churn_high", "churn_low", "churn_noise", "guidance", "guidance_schedule",
        "hold_start", "member", "noise_high", "noise_low", "normalize_guidance", "reencode", "rho",
        "sampler", "sampler_steps",
    }
)  # fmt: skip


@dataclass(frozen=True)
class LoadedRun:
    """One checkpoint of a run."""

    directory: RunDirectory
    config: Config
    spec: DataSpec
    stage: str
    step: int
    model: WorldModel
    policy: nnx.Module | None
    value: Value | None  # what the critic expects, where the run has one
    twins: tuple[Agent, ...] = ()  # of the run's other seeds
    last: LoadedRun | None = None  # the run's last checkpoint, where this is its best one

    @property
    def agents(self) -> list[Agent]:
        """Of all training seeds."""
        return [Agent(self.model, self.policy, self.value), *self.twins]

    def predict(
        self,
        observations: dict[str, np.ndarray],
        actions: np.ndarray,
        context: int,
        horizon: int,
        samples: int = 1,
        key: jax.Array | None = None,
    ) -> dict[str, np.ndarray]:
        """Open-loop prediction in raw units.

        observations: name -> (B, >= context, ...); the first `context` rows are seen
        actions: (B, >= context + horizon - 1, ...); row t is what was done at observation t
        Returns name -> (B, samples, horizon, ...), the expected observation of each sampled future.
        """
        window, future = self._inputs(observations, actions, context, horizon)
        key = jax.random.key(0) if key is None else key
        predicted = _predict(self.model, window, future, jax.random.split(key, samples))
        return {name: np.asarray(jnp.swapaxes(value, 0, 1)) for name, value in predicted.items()}

    def evaluate(self, **overrides: Any) -> Results:
        """Judges this checkpoint and rewrites its evaluation; keywords are single options of
        `evaluation`, those of a group as a dict: `episodes=10, planner={"kind": "cem"}`.

        Raises ConfigError, or DataError for logs of `data` that are not like the run's.
        """
        config = changed(self.config, {"evaluation": overrides})
        if config.evaluation.data is not None:
            trajectories = fitted(data.load(judged_data(config)), self.spec)
        else:
            trajectories = data.load(config.data)
            self.directory.bind_data(self.spec, trajectories.fingerprint())
        return evaluate_loaded(self, trajectories, config.evaluation)

    def earlier_policies(self) -> dict[str, nnx.Module]:
        """The policies of other checkpoints on disk that act on the same model's features, by name.

        There are none where the stage trains the model too: their features are another model's.
        """
        found = {}
        for step in integrity.steps_in(self.directory.checkpoints(self.stage)):
            if self.policy is None or step == self.step:
                continue
            with contextlib.suppress(CheckpointError):  # damaged: there is nothing to judge by it
                other = load(self.directory.path, str(step))
                if other.stage == self.stage and _same(other.model, self.model):
                    found[f"step {step:,}"] = other.policy
        return found

    def dream(
        self, num_envs: int | None = None, autoreset_mode: str = "NextStep", **options: Any
    ) -> DreamEnv | DreamVectorEnv:
        """The model as a Gymnasium environment, or with `num_envs` as a vector environment, which
        begins anew by `autoreset_mode`: NextStep, SameStep or Disabled.

        `options` are those of `DreamOptions`: where dreams begin and end, and what uncertainty
        costs. Raises ConfigError for others, and for a model that cannot be dreamed.
        """
        chosen = made(DreamOptions, options, "dream")
        dreams.check(self.model, self.spec, chosen)
        logs = data.load(self.config.data)
        self.directory.bind_data(self.spec, logs.fingerprint())
        count = logs.num_episodes
        training, held_out = split_episodes(count, self.config.data.holdout)
        numbers = {"training": training, "held_out": held_out, "all": np.arange(count)}[chosen.logs]
        context = chosen.context or self.config.evaluation.context
        limit = chosen.time_limit or int(logs.lengths.max()) - 1
        chosen = replace(chosen, context=context, time_limit=limit)
        dream = dreams.build(self.model, self.spec, logs.select(numbers), numbers, chosen)
        if num_envs is None:
            return DreamEnv(dream, self.spec)
        return DreamVectorEnv(dream, self.spec, num_envs, autoreset_mode)

    def _inputs(
        self, observations: dict[str, np.ndarray], actions: np.ndarray, context: int, horizon: int
    ) -> tuple[Window, jax.Array]:
        missing = self.spec.observations.keys() - observations.keys()
        if missing:
            raise ValueError(f"observations {sorted(missing)} are missing")
        if actions.shape[1] < context + horizon - 1:
            raise ValueError(
                f"{actions.shape[1]} actions were given; context {context} and horizon {horizon} "
                f"need {context + horizon - 1}"
            )
        actions = jnp.asarray(self.spec.action.normalize(actions))
        seen = {k: jnp.asarray(observations[k])[:, :context] for k in self.spec.observations}
        shape = (actions.shape[0], context)
        no = jnp.zeros(shape, bool)
        window = Window(
            observation=seen,
            action=actions[:, :context],
            reward=jnp.zeros(shape),
            is_first=no.at[:, 0].set(True),
            is_last=no,
            is_terminal=no,
            mask=~no,
        )
        return window, actions[:, context - 1 : context + horizon - 1]


def _same(model: WorldModel, other: WorldModel) -> bool:
    """Whether all parameters are, bit for bit."""
    mine, theirs = (jax.tree.leaves(divide(m)[1]) for m in (model, other))
    return all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


@nnx.jit
def _predict(
    model: WorldModel, window: Window, actions: jax.Array, keys: jax.Array
) -> dict[str, jax.Array]:
    """{name: (samples, B, H, ...)}: filter the window, follow the actions, once for every key."""

    def one(key: jax.Array) -> dict[str, jax.Array]:
        observe_key, rollout_key = jax.random.split(key)
        seen = model.observe(window, observe_key)
        last = jax.tree.map(lambda x: x[:, -1], seen)
        states = model.rollout(last, actions, rollout_key)
        return {name: p.mean() for name, p in model.observation(states).items()}

    return jax.lax.map(one, keys)


def load(path: str | Path, checkpoint: str = "last") -> LoadedRun:
    """Loads a run: its last stage that has a checkpoint, at `last` (the newest that is whole), at
    `best` (by `best_metric` of the stage's options) or at a step. Where it trained several seeds,
    model and policy are the first one's, and `twins` those of the others. The best one comes with
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
    first, *twins = (
        Agent(m["model"], m.get("actor"), policies.value(config.policy, spec, m)) for m in of_seeds
    )
    last = load(path) if checkpoint == "best" else None
    return LoadedRun(directory, config, spec, stage, step, *first, tuple(twins), last)


def dreamed(
    run: str | Path, checkpoint: str = "last", num_envs: int | None = None, **options: Any
) -> DreamEnv | DreamVectorEnv:
    """What Gymnasium makes of `worldmodel/Dream-v0`: `load(run, checkpoint).dream(...)`."""
    return load(run, checkpoint).dream(num_envs, **options)


def model_of(path: str, config: Config, spec: DataSpec) -> WorldModel:
    """The model of another run, of all its seeds, for the policy of a run of `config` on data like
    `spec`. Options of how it imagines, such as a sampler's, are `config`'s.

    It is the world model as its own stage left it: a policy's stage may have changed it.

    Raises ConfigError if it was trained otherwise, on other data or seeds, or is not complete.
    """
    directory = find_run(path)
    theirs = directory.config()
    mine, other = asdict(config.model), asdict(theirs.model)
    wrong = ["model"] if config.model.name != theirs.model.name else []
    wrong = wrong or [f"model.{k}" for k in mine if mine[k] != other[k] and k not in OF_IMAGINATION]
    wrong += ["training.num_seeds"] * (config.training.num_seeds != theirs.training.num_seeds)
    wrong += ["data"] * (spec != directory.spec())
    if wrong:
        raise ConfigError(
            f"training.model_from={path}: that run has other {' and '.join(wrong)}; accepted: a "
            "run with the same model, logs and number of seeds"
        )
    first = _stages_of_models(theirs, spec)[:1]
    stage, step, made = _restored(directory, theirs, spec, first, "last")
    if step < (steps := stage_options(theirs, stage).steps):
        raise ConfigError(
            f"training.model_from={path}: its stage {stage} is at step {step} of {steps}; "
            "accepted: a run that has completed it"
        )
    definition = build_learner(config, spec, "policy").definitions["model"]
    return nnx.merge(definition, divide(made["model"])[1])


def _stages_of_models(config: Config, spec: DataSpec) -> list[str]:
    """Stages before the world model's have no model yet."""
    return [name for name in stage_names(config, spec) if name not in parts(config.model, spec)]


def _restored(
    directory: RunDirectory, config: Config, spec: DataSpec, stages: list[str], checkpoint: str
) -> tuple[str, int, dict[str, nnx.Module]]:
    """Stage, step and modules of the newest checkpoint among those of `stages`; with several seeds,
    those of all of them.
    """
    stage, step = _choose(directory, config, stages, checkpoint)
    learner = build_learner(config, spec, stage)
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    shapes = replace(shapes, optimizer=(), statistics={}, memory=())  # which only training needs
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes)
    checkpoints = Checkpoints(directory.checkpoints(stage), read_only=True)
    state, _ = checkpoints.restore(step, like, partial=True)
    checkpoints.close()
    return stage, step, modules(learner, state)


def _of_seed(modules: Mapping[str, nnx.Module], number: int) -> dict[str, nnx.Module]:
    return {name: of_seed(module, number) for name, module in modules.items()}


def _choose(
    directory: RunDirectory, config: Config, stages: list[str], checkpoint: str
) -> tuple[str, int]:
    """The newest stage that has the checkpoint asked for, which is whole.

    Raises CheckpointError if there is none, or if it is damaged: only for `last` is there another.
    """
    found = {stage: integrity.steps_in(directory.checkpoints(stage)) for stage in stages}
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
    whole, faults = integrity.newest_whole(folder)
    for step, fault in faults.items():
        print(f"warning: {folder / str(step)} is damaged ({fault}); {folder / str(whole)} is taken")
    return whole


def _best(config: Config, stage: str, folder: Path) -> int | None:
    options = stage_options(config, stage)
    best = best_of(options)
    if best is None:
        group = "world_model" if stage == "joint" else stage
        raise CheckpointError(
            f"checkpoint=best: {folder.parent.parent} has no training.{group}.best_metric; "
            "accepted are last and the number of a step"
        )
    return best.among(best.values(folder))


def _refuse_damaged(checkpoint: Path) -> None:
    try:
        integrity.verify(checkpoint)
    except integrity.Damaged as fault:
        raise CheckpointError(
            f"{checkpoint} is damaged ({fault}); accepted: last, the newest that is whole"
        ) from None
