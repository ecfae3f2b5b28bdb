"""TD3+BC (Fujimoto and Gu, arXiv 2106.06860): TD3 whose actor also clones what was logged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.nn.learner import Metrics
from worldmodel.policies.bc import bc_loss
from worldmodel.policies.networks import DeterministicActor
from worldmodel.policies.offline import Nets, OfflineLearner, UpdateStep, critic_loss, mean
from worldmodel.policies.offline_options import OfflineOptions


@dataclass
class TD3BCOptions(OfflineOptions):
    """TD3+BC (Fujimoto and Gu, 2021)."""

    name: str = option("td3_bc", "policy algorithm")
    alpha: float = option(
        2.5, "weight of the value, in units of its mean size, against cloning", low=0.0
    )
    policy_noise: float = option(0.2, "noise of the action that targets look at", low=0.0)
    noise_clip: float = option(0.5, "most of that noise", low=0.0)
    policy_delay: int = option(2, "updates of the critic between those of the actor", low=1)


@register("policy", "td3_bc", TD3BCOptions)
class TD3BC(OfflineLearner):
    targets: ClassVar[tuple[str, ...]] = ("critic", "actor")

    def modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        rngs = nnx.Rngs(params=key)
        actor = self.network(DeterministicActor, rngs)
        return {"actor": actor, "critic": self.critics(2, rngs)}

    def update_steps(self) -> tuple[UpdateStep, ...]:
        every = self.options.policy_delay
        return UpdateStep(("critic",), self.critic_loss), UpdateStep(
            ("actor",), self.actor_loss, every
        )

    def critic_loss(
        self, nets: Nets, rows: Transition, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        target = jax.lax.stop_gradient(self.target(nets, rows, key))
        return critic_loss(nets["critic"](rows.features, rows.action), target, rows)

    def target(self, nets: Nets, rows: Transition, key: jax.Array) -> jax.Array:
        """(N,) r + gamma (1 - d) min_k Q'_k(s', a'), a' the slow actor's action with cut noise."""
        action = smooth_target_action(
            nets, rows, key, self.options.policy_noise, self.options.noise_clip
        )
        value = nets["target_critic"](rows.next_features, action).min(0)
        return rows.reward + self.options.discount * (1 - rows.terminal) * value

    def actor_loss(self, nets: Nets, rows: Transition, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """-lambda Q_1(s, pi(s)) + |pi(s) - a|^2 with lambda = alpha / mean |Q_1|."""
        action = nets["actor"](rows.features).mode()
        value = nets["critic"].first(rows.features, action)
        size = jax.lax.stop_gradient(mean(jnp.abs(value), rows))
        clone = mean(bc_loss(action, rows.action), rows)
        loss = clone - self.options.alpha * mean(value, rows) / size
        return loss, {"loss/actor": loss, "loss/bc": clone}


def smooth_target_action(
    nets: Nets, rows: Transition, key: jax.Array, noise: float, most: float
) -> jax.Array:
    """(N, A) what the slow actor does next, with noise of deviation `noise`, at most `most`."""
    action = nets["target_actor"](rows.next_features).mode()
    shift = jnp.clip(noise * jax.random.normal(key, action.shape), -most, most)
    return jnp.clip(action + shift, -1.0, 1.0)
