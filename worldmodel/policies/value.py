"""What a policy will earn, by its critic."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from flax import nnx

from worldmodel.config import PolicyOptions
from worldmodel.data.spec import DataSpec
from worldmodel.planning.planner import Value
from worldmodel.policies.offline_options import OfflineOptions


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


def build_value(
    options: PolicyOptions, spec: DataSpec, modules: Mapping[str, nnx.Module]
) -> Value | None:
    """From features (..., F) to what the policy will earn from there on (...), by the critic among
    a learner's modules; None without one.
    """
    if "critic" not in modules:
        return None
    if isinstance(options, OfflineOptions):
        unit = spec.reward_mean_std[1] if options.normalize_reward else 1.0
        return _OfActions(modules["critic"], modules["actor"], unit, options.discount)
    return _Expected(modules["critic"], options.discount)
