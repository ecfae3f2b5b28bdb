"""Implicit Q-learning (Kostrikov et al., arXiv 2110.06169): critics are evaluated at the dataset's
actions only.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.policies.networks import NormalActor, ReLUNetwork
from worldmodel.policies.offline import (
    Loss,
    Nets,
    OfflineLearner,
    UpdateStep,
    critic_loss,
    known_targets,
    mean,
)
from worldmodel.policies.offline_options import OfflineOptions


@dataclass
class IQLOptions(OfflineOptions):
    """Implicit Q-learning (Kostrikov et al., 2022), as published for locomotion."""

    name: str = option("iql", "policy algorithm")
    expectile: float = option(0.7, "expectile of the value", low=0.5, high=0.999)
    inverse_temperature: float = option(3.0, "inverse temperature of the weights", low=0.0)
    max_weight: float = option(100.0, "largest advantage weight of cloning", low=1.0)


@register("policy", "iql", IQLOptions)
class IQL(OfflineLearner[IQLOptions]):
    def modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        rngs = nnx.Rngs(params=key)
        return {
            "actor": self.network(NormalActor, rngs),
            "critic": self.critics(2, rngs),
            "value": self.network(ReLUNetwork, rngs, outputs=1),
        }

    def update_steps(self) -> tuple[UpdateStep, ...]:
        return (
            UpdateStep(("value",), self.value_loss),
            UpdateStep(("critic",), self.critic_loss),
            UpdateStep(("actor",), self.actor_loss),
        )

    def advantage(self, nets: Nets, batch: Transition) -> jax.Array:
        """(N,) min_k Q'_k(s, a) - V(s) (eq. 5)."""
        value = nets["target_critic"](batch.features, batch.action).min(0)
        return value - nets["value"](batch.features)[..., 0]

    def value_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        """L(u) = |tau - 1(u < 0)| u^2 of the advantage (eq. 5)."""
        advantage = self.advantage(nets, batch)
        weight = jnp.where(advantage < 0, 1 - self.options.expectile, self.options.expectile)
        loss = mean(weight * jnp.square(advantage), known_targets(batch))
        return loss, {"loss/value": loss, "policy/advantage": mean(advantage, batch)}

    def critic_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        """Squared error to r + gamma (1 - d) V(s') (eq. 6)."""
        value = nets["value"](batch.next_features)[..., 0]
        target = batch.reward + self.options.discount * (1 - batch.terminal) * value
        return critic_loss(nets["critic"](batch.features, batch.action), target, batch)

    def actor_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        """-min(exp(beta A), max_weight) log pi(a | s) (eq. 7)."""
        scaled = self.options.inverse_temperature * self.advantage(nets, batch)
        weight = jnp.minimum(jnp.exp(scaled), self.options.max_weight)
        loss = -mean(weight * nets["actor"](batch.features).log_prob(batch.action), batch)
        return loss, {"loss/actor": loss, "policy/weight": mean(weight, batch)}
