"""Policy algorithms: one file each, every one a Learner.

A learner's definitions hold `model`, the world model it acts on, and `actor`, a module from
features to a distribution over actions. `critic`, where there is one, says what will be earned.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from worldmodel.config import NoPolicy, PolicyOptions
from worldmodel.config.registry import entries, entry_of, register
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.models import ModelBuilder, WorldModel
from worldmodel.nn.learner import Learner
from worldmodel.policies.value import build_value

__all__ = ["build", "build_joint", "needs_reward", "build_value"]

register("policy", "none", NoPolicy)(None)


def build(
    options: PolicyOptions,
    model: WorldModel,
    spec: DataSpec,
    optimizer: optax.GradientTransformation,
    dtype: jnp.dtype,
) -> Learner:
    """A learner that trains a policy on a frozen model."""
    return entry_of("policy", options).target(options, model, spec, optimizer, dtype)


def build_joint(
    options: PolicyOptions,
    build_model: ModelBuilder,
    spec: DataSpec,
    optimizer: optax.GradientTransformation,
    dtype: jnp.dtype,
) -> Learner:
    """A learner that trains model and policy together."""
    learners = {entry.options: entry.target for entry in entries("joint").values()}
    if type(options) not in learners:
        raise ConfigError(
            f"policy={options.name} cannot be trained jointly with the model; "
            f"with training.joint=true accepted are: {', '.join(entries('joint'))}"
        )
    return learners[type(options)](options, build_model, spec, optimizer, dtype)


def needs_reward(options: PolicyOptions) -> bool:
    """False for what clones logged actions alone; rollouts have rewards."""
    learner = entry_of("policy", options).target
    return learner.needs_reward or options.imagined_horizon is not None
