"""Policy algorithms, one file each, every one a `Learner` (worldmodel/nn/learner.py).

An algorithm is a class that registers with its options:

    @register("policy", "bc", BCOptions)
    class BehaviorCloning(OfflineLearner[BCOptions]): ...

It is called with (options, model, spec, optimizer, dtype) and trains on a frozen model. Its
`graphdefs` include `model`, the world model it acts on, and `actor`, a module from features to a
distribution over actions; where they include `critic`, `build_value(options, spec, modules)`
returns the value function. `needs_reward` is False for algorithms that ignore the dataset's
rewards, `supports_discrete_actions` True for those that allow them. An algorithm that can train
jointly with the model registers a second class as `joint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from worldmodel.config import NoPolicy, PolicyOptions
from worldmodel.config.registry import entries, entry_of, register
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.models import ModelBuilder, WorldModel
from worldmodel.nn.learner import Learner
from worldmodel.planning import Value

__all__ = ["build", "build_joint", "build_value", "needs_reward"]

register("policy", "none", NoPolicy)(None)


def build(
    options: PolicyOptions,
    model: WorldModel,
    spec: DataSpec,
    optimizer: optax.GradientTransformation,
    dtype: jnp.dtype,
) -> Learner:
    """Builds the learner that trains a policy on a frozen model."""
    return entry_of("policy", options).target(options, model, spec, optimizer, dtype)


def build_joint(
    options: PolicyOptions,
    build_model: ModelBuilder,
    spec: DataSpec,
    optimizer: optax.GradientTransformation,
    dtype: jnp.dtype,
) -> Learner:
    """Builds the learner that trains model and policy together.

    Raises ConfigError for an algorithm that has none.
    """
    learner = entry_of("policy", options).details.get("joint")
    if learner is None:
        accepted = [name for name, entry in entries("policy").items() if "joint" in entry.details]
        raise ConfigError(
            f"training.joint=true: policy={options.name} cannot be trained jointly with the model; "
            f"accepted: policy={', '.join(accepted)}"
        )
    return learner(options, build_model, spec, optimizer, dtype)


def build_value(options: PolicyOptions, spec: DataSpec, modules: Mapping[str, Any]) -> Value | None:
    """The value function of the policy by the critic among a learner's modules, from features
    (..., F) to expected returns (...); None without a critic.
    """
    if "critic" not in modules:
        return None
    return entry_of("policy", options).target.build_value(options, spec, modules)


def needs_reward(options: PolicyOptions) -> bool:
    """Whether the policy learns from rewards: False for behavior cloning of the dataset alone."""
    learner = entry_of("policy", options).target
    return learner.needs_reward or options.imagined_horizon is not None
