"""Policy algorithms: one file each, every one a Learner.

A learner's definitions hold `model`, the world model it acts on, and `actor`, a module from
features to a distribution over actions. `critic`, where there is one, says what will be earned.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from worldmodel.config import PolicyOptions
from worldmodel.data.spec import ActionSpec
from worldmodel.errors import ConfigError
from worldmodel.learner import Learner
from worldmodel.models import ModelBuilder, WorldModel

__all__ = ["ALGORITHMS", "JOINT_ALGORITHMS", "build", "build_joint", "value"]

# Name of the algorithm -> its learner, in the file of that name.
ALGORITHMS = {"actor_critic": "ActorCriticLearner"}
JOINT_ALGORITHMS = {"actor_critic": "JointLearner"}


def build(
    options: PolicyOptions,
    model: WorldModel,
    action: ActionSpec,
    optimizer: optax.GradientTransformation,
    dtype: jnp.dtype,
) -> Learner:
    """A learner that trains a policy on a frozen model."""
    learner = getattr(_module(options.name), ALGORITHMS[options.name])
    return learner(options, model, action, optimizer, dtype)


def build_joint(
    options: PolicyOptions,
    build_model: ModelBuilder,
    action: ActionSpec,
    optimizer: optax.GradientTransformation,
    dtype: jnp.dtype,
) -> Learner:
    """A learner that trains model and policy together."""
    if options.name not in JOINT_ALGORITHMS:
        raise ConfigError(
            f"policy={options.name} cannot be trained jointly with the model; "
            f"with training.joint=true accepted are: {', '.join(JOINT_ALGORITHMS)}"
        )
    learner = getattr(_module(options.name), JOINT_ALGORITHMS[options.name])
    return learner(options, build_model, action, optimizer, dtype)


class _Expected(nnx.Module):
    """features (..., F) -> the mean (...) of a critic's distribution."""

    def __init__(self, critic: nnx.Module):
        self.critic = critic

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.critic(features).mean()


def value(modules: Mapping[str, nnx.Module]) -> nnx.Module | None:
    """From features (..., F) to what the policy will earn from there on (...), by the critic among
    a learner's modules; None without one.
    """
    critic = modules.get("critic")
    return None if critic is None else _Expected(critic)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
