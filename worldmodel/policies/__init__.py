"""Policy algorithms: one file each, every one a Learner.

A learner's definitions hold `model`, the world model it acts on, and `actor`, a module from
features to a distribution over actions. `critic`, where there is one, says what will be earned.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from worldmodel.config import BCOptions, OfflineOptions, PolicyOptions
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.models import ModelBuilder, WorldModel
from worldmodel.nn.learner import Learner

__all__ = ["ALGORITHMS", "JOINT_ALGORITHMS", "build", "build_joint", "needs_reward", "value"]

# Name of the algorithm -> its learner as FILE.CLASS. Where several share one, they differ by their
# options alone: configs/policy/ says how.
ALGORITHMS = {
    "actor_critic": "actor_critic.ActorCriticLearner",
    "bc": "bc.BehaviourCloning",
    "td3_bc": "td3_bc.TD3BC",
    "rebrac": "rebrac.ReBRAC",
    "iql": "iql.IQL",
    "sac_n": "sac_n.SACN",
    "edac": "sac_n.SACN",
    "mopo": "sac_n.SACN",
    "ravl": "sac_n.SACN",
    "combo": "combo.COMBO",
    "rambo": "rambo.RAMBO",
    "mobile": "mobile.MOBILE",
}
JOINT_ALGORITHMS = {"actor_critic": "actor_critic.JointLearner"}


def build(
    options: PolicyOptions,
    model: WorldModel,
    spec: DataSpec,
    optimizer: optax.GradientTransformation,
    dtype: jnp.dtype,
) -> Learner:
    """A learner that trains a policy on a frozen model."""
    return _find(ALGORITHMS[options.name])(options, model, spec, optimizer, dtype)


def build_joint(
    options: PolicyOptions,
    build_model: ModelBuilder,
    spec: DataSpec,
    optimizer: optax.GradientTransformation,
    dtype: jnp.dtype,
) -> Learner:
    """A learner that trains model and policy together."""
    if options.name not in JOINT_ALGORITHMS:
        raise ConfigError(
            f"policy={options.name} cannot be trained jointly with the model; "
            f"with training.joint=true accepted are: {', '.join(JOINT_ALGORITHMS)}"
        )
    return _find(JOINT_ALGORITHMS[options.name])(options, build_model, spec, optimizer, dtype)


def needs_reward(options: PolicyOptions) -> bool:
    """False for what clones logged actions alone; rollouts have rewards."""
    return not (isinstance(options, BCOptions) and options.real_share == 1)


def _find(place: str) -> type:
    file, _, name = place.partition(".")
    return getattr(importlib.import_module(f"{__name__}.{file}"), name)


class _Expected(nnx.Module):
    """features (..., F) -> the mean (...) of a critic's distribution."""

    def __init__(self, critic: nnx.Module, discount: float):
        self.critic, self.discount = critic, discount

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.critic(features).mean()


class _OfActions(nnx.Module):
    """features (..., F) -> the least value (...) of what the actor does there, in raw units."""

    def __init__(self, critic: nnx.Module, actor: nnx.Module, unit: float, discount: float):
        self.critic, self.actor, self.unit, self.discount = critic, actor, unit, discount

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.unit * self.critic(features, self.actor(features).mode()).min(0)


def value(
    options: PolicyOptions, spec: DataSpec, modules: Mapping[str, nnx.Module]
) -> nnx.Module | None:
    """From features (..., F) to what the policy will earn from there on (...), by the critic among
    a learner's modules; None without one.
    """
    if "critic" not in modules:
        return None
    if isinstance(options, OfflineOptions):
        unit = spec.reward[1] if options.normalize_reward else 1.0
        return _OfActions(modules["critic"], modules["actor"], unit, options.discount)
    return _Expected(modules["critic"], options.discount)
