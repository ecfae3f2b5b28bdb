"""From options to the learners and batches of each stage. Training and loading build them the same
way.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel import models, policies
from worldmodel.config import Config, StageOptions
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.nn import optimizer
from worldmodel.nn.learner import Learner, TrainState
from worldmodel.policies.offline_options import OfflineOptions
from worldmodel.training import mesh as meshes
from worldmodel.training.averaging import EMA, EMALearner
from worldmodel.training.seeds import VmappedLearner, select_seed
from worldmodel.training.snapshots import SNAPSHOT, BestMembersLearner
from worldmodel.training.world_model import WorldModelLearner

Modules = Mapping[str, nnx.Module]  # by name, as earlier stages trained them


def stage_names(config: Config, spec: DataSpec) -> list[str]:
    """The stages of a run, in order."""
    parts = list(models.family(config.model).pretrained_modules(config.model, spec))
    if config.training.joint:
        if parts:
            raise ConfigError(
                f"training.joint=true: model={config.model.name} trains its {' and '.join(parts)} "
                "before the rest for logs like these; accepted: training.joint=false"
            )
        return ["joint"]
    policy = [] if config.policy.name == "none" else ["policy"]
    if config.training.pretrained_model:
        return policy
    return parts + (["world_model"] if models.family(config.model).trainable else []) + policy


def stage_options(config: Config, stage: str) -> StageOptions:
    """A joint stage has the world model's settings."""
    return getattr(config.training, "world_model" if stage == "joint" else stage)


def compute_type(config: Config) -> jnp.dtype:
    return jnp.dtype(config.training.precision)


def build_learner(
    config: Config, spec: DataSpec, stage: str, trained: Modules | None = None
) -> Learner:
    """The learner of a stage. It starts from modules that earlier ones `trained`, or from new ones,
    which is all that is needed to restore into.
    """
    count, trained = config.training.num_seeds, trained or {}
    if count == 1:
        return _build(config, spec, stage, trained)
    first = {name: select_seed(module, 0) for name, module in trained.items()}
    return VmappedLearner(_build(config, spec, stage, first), count, trained)


def _build(config: Config, spec: DataSpec, stage: str, trained: Modules) -> Learner:
    dtype = compute_type(config)
    optimize = optimizer.build(stage_options(config, stage))
    build_model = partial(models.build, config.model, spec, dtype=dtype)
    parts = models.family(config.model).pretrained_modules(config.model, spec)
    how = {
        "microbatches": config.training.gradient_accumulation_steps,
        "remat": config.training.remat,
    }
    if stage in parts:
        return WorldModelLearner(
            lambda key: getattr(build_model(key), stage), optimize, name=stage, **how
        )
    if stage == "world_model":
        new = build_model(jax.random.key(0)) if parts else None
        kept = {name: trained.get(name, getattr(new, name)) for name in parts}
        return _kept(config, WorldModelLearner(build_model, optimize, parts=kept, **how))
    if not spec.has_reward and policies.needs_reward(config.policy):
        raise ConfigError(
            f"policy={config.policy.name} learns from rewards, and these logs have none; accepted: "
            "policy=bc, or policy=none for the world model alone"
        )
    arguments = (spec, optimize, dtype)
    if stage == "joint":
        return _kept(config, policies.build_joint(config.policy, build_model, *arguments))
    model = trained.get("model") or build_model(jax.random.key(0))
    return policies.build(config.policy, model, *arguments)


def _kept(config: Config, learner: Learner) -> Learner:
    """The learner, with the copy of the model that is judged in place of its last parameters."""
    if models.family(config.model).uses_best_snapshot(config.model):
        return BestMembersLearner(learner)
    return EMALearner(learner, config.model.ema_decay) if config.model.ema_decay else learner


def validate_stages(config: Config, spec: DataSpec, mesh: jax.sharding.Mesh) -> None:
    """Raises ConfigError for what any stage would refuse, so that it is known before the first."""
    for name in stage_names(config, spec):
        group = "world_model" if name == "joint" else name  # whose settings a joint stage has
        windows = stage_options(config, name).batch_size
        pieces = 1 if name == "policy" else config.training.gradient_accumulation_steps
        meshes.check_divisible(f"training.{group}.batch_size", windows, mesh, pieces)

        def init(key: jax.Array, stage: str = name) -> TrainState:
            return build_learner(config, spec, stage).init(key)

        jax.eval_shape(init, jax.random.key(0))
    if isinstance(config.policy, OfflineOptions) and config.policy.real_ratio < 1:
        meshes.check_divisible("policy.rollout_batch_size", config.policy.rollout_batch_size, mesh)


def modules(learner: Learner, state: TrainState) -> dict[str, nnx.Module]:
    """What a stage has made or used, by name, with parameters from its state: where their
    average or their best is kept, that.
    """
    copies = [state.target_params.get(name, {}) for name in (EMA, SNAPSHOT)]
    places = (state.frozen, state.params, *copies)
    known = {name: params for place in places for name, params in place.items()}
    parts = {name: p for name, p in state.frozen.items() if name not in learner.graphdefs}
    return {
        name: nnx.merge(definition, known[name] | (parts if name == "model" else {}))
        for name, definition in learner.graphdefs.items()
    }
