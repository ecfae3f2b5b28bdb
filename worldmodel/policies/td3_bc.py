"""TD3+BC (Fujimoto and Gu, arXiv 2106.06860): TD3 with behavior cloning in the actor's loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.policies.bc import bc_loss
from worldmodel.policies.networks import Critics, DeterministicActor
from worldmodel.policies.offline import Loss, Nets, OfflineLearner, UpdateStep, critic_loss, mean
from worldmodel.policies.offline_options import OfflineOptions


@dataclass
class TD3Options(OfflineOptions):
    """Target policy smoothing and delayed policy updates (TD3)."""

    policy_noise: float = option(0.2, "standard deviation of target actions' noise", low=0.0)
    noise_clip: float = option(0.5, "bound of that noise", low=0.0)
    policy_delay: int = option(2, "updates of the critics per update of the actor", low=1)


Options = TypeVar("Options", bound=TD3Options)


class TD3(OfflineLearner[Options]):
    """TD3 (Fujimoto et al., arXiv 1802.09477) without the loss of the actor."""

    targets: ClassVar[tuple[str, ...]] = ("critic", "actor")

    def modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        rngs = nnx.Rngs(params=key)
        actor = self.network(DeterministicActor, rngs)
        return {"actor": actor, "critic": self.critics(2, rngs)}

    def update_steps(self) -> tuple[UpdateStep, ...]:
        return (
            UpdateStep(("critic",), self.critic_loss),
            UpdateStep(("actor",), self.actor_loss, every=self.options.policy_delay),
        )

    def actor_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        raise NotImplementedError(f"{type(self).__name__} does not implement `actor_loss`")

    def critic_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        target = jax.lax.stop_gradient(self.target(nets, batch, key))
        return critic_loss(nets["critic"](batch.features, batch.action), target, batch)

    def target(self, nets: Nets, batch: Transition, key: jax.Array) -> jax.Array:
        """(N,) r + gamma (1 - d) min_k Q'_k(s', a') with a smoothed target action a'."""
        action = self.target_action(nets, batch, key)
        value = nets["target_critic"](batch.next_features, action).min(0)
        return batch.reward + self.options.discount * (1 - batch.terminal) * value

    def target_action(self, nets: Nets, batch: Transition, key: jax.Array) -> jax.Array:
        """(N, A) pi'(s') + clip(noise) (target policy smoothing, eq. 14)."""
        action = nets["target_actor"](batch.next_features).mode()
        noise = self.options.policy_noise * jax.random.normal(key, action.shape)
        noise = jnp.clip(noise, -self.options.noise_clip, self.options.noise_clip)
        return jnp.clip(action + noise, -1.0, 1.0)


@dataclass
class TD3BCOptions(TD3Options):
    """TD3+BC (Fujimoto and Gu, 2021), as published."""

    name: str = option("td3_bc", "policy algorithm")
    alpha: float = option(2.5, "weight of the normalized value against cloning", low=0.0)


@register("policy", "td3_bc", TD3BCOptions)
class TD3BC(TD3[TD3BCOptions]):
    def actor_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        """-lambda Q_1(s, pi(s)) + |pi(s) - a|^2 with lambda = alpha / mean |Q_1|."""
        critic: Critics = nets["critic"]
        action = nets["actor"](batch.features).mode()
        value = critic.first(batch.features, action)
        scale = jax.lax.stop_gradient(mean(jnp.abs(value), batch))
        cloning = mean(bc_loss(action, batch.action), batch)
        loss = cloning - self.options.alpha * mean(value, batch) / scale
        return loss, {"loss/actor": loss, "loss/bc": cloning}
