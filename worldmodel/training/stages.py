"""From options to the learners and batches of each stage. Training and loading build them the same
way.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel import models, policies
from worldmodel.config import Config, StageOptions
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.learner import Learner, TrainState
from worldmodel.models import WorldModel
from worldmodel.nn import optimizer
from worldmodel.training import mesh as meshes
from worldmodel.training.world_model import WorldModelLearner


def stage_names(config: Config) -> list[str]:
    """The stages of a run, in order."""
    if config.training.joint:
        return ["joint"]
    return ["world_model"] if config.policy.name == "none" else ["world_model", "policy"]


def stage_options(config: Config, stage: str) -> StageOptions:
    """A joint stage has the world model's settings."""
    return config.training.policy if stage == "policy" else config.training.world_model


def compute_type(config: Config) -> jnp.dtype:
    return jnp.dtype(config.training.precision)


def build_learner(
    config: Config, spec: DataSpec, stage: str, model: WorldModel | None = None
) -> Learner:
    """The learner of a stage; `policy` needs the trained model (or any, to restore into)."""
    dtype = compute_type(config)
    options = stage_options(config, stage)
    build_model = partial(models.build, config.model, spec, dtype=dtype)
    if stage == "world_model":
        return WorldModelLearner(build_model, optimizer.build(options))
    if not spec.has_reward:
        raise ConfigError(
            f"policy={config.policy.name} learns from rewards, and these logs have none; "
            "train the world model alone with policy=none"
        )
    arguments = (spec.action, optimizer.build(options), dtype)
    if stage == "joint":
        return policies.build_joint(config.policy, build_model, *arguments)
    model = model if model is not None else build_model(jax.random.key(0))
    return policies.build(config.policy, model, *arguments)


def check(config: Config, spec: DataSpec, mesh: jax.sharding.Mesh) -> None:
    """Raises ConfigError for what any stage would refuse, so that it is known before the first."""
    for name in stage_names(config):
        meshes.check_batch_size(name, stage_options(config, name).batch_size, mesh)

        def init(key: jax.Array, stage: str = name) -> TrainState:
            return build_learner(config, spec, stage).init(key)

        jax.eval_shape(init, jax.random.key(0))


def module(learner: Learner, state: TrainState, name: str) -> nnx.Module | None:
    """One module of a stage with its parameters from the state; None if the stage has no such
    module.
    """
    if name not in learner.definitions:
        return None
    params = state.params.get(name, state.frozen.get(name))
    return nnx.merge(learner.definitions[name], params)
