"""ReBRAC (Tarasov et al., arXiv 2305.09836): TD3 that clones in the actor's loss and in the target,
with LayerNorm in the critics.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.nn.learner import Metrics
from worldmodel.policies.bc import bc_loss
from worldmodel.policies.networks import DeterministicActor
from worldmodel.policies.offline import Nets, mean
from worldmodel.policies.offline_options import OfflineOptions
from worldmodel.policies.td3_bc import TD3BC, smooth_target_action


@dataclass
class ReBRACOptions(OfflineOptions):
    """ReBRAC (Tarasov et al., 2023): cloning in the actor's loss and in the target."""

    name: str = option("rebrac", "policy algorithm")
    layers: int = option(3, "hidden layers of actor and critics", low=1)
    layer_norm: bool = option(True, "LayerNorm in the critics")
    actor_bc_coef: float = option(0.01, "weight of cloning in the actor's loss", low=0.0)
    critic_bc_coef: float = option(0.01, "weight of cloning in the target", low=0.0)
    policy_noise: float = option(0.2, "noise of the action that targets look at", low=0.0)
    noise_clip: float = option(0.5, "most of that noise", low=0.0)
    policy_delay: int = option(2, "updates of the critic between those of the actor", low=1)


@register("policy", "rebrac", ReBRACOptions)
class ReBRAC(TD3BC):
    def modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        rngs = nnx.Rngs(params=key)
        actor = self.network(DeterministicActor, rngs)
        return {"actor": actor, "critic": self.critics(2, rngs, self.options.layer_norm)}

    def target(self, nets: Nets, rows: Transition, key: jax.Array) -> jax.Array:
        """(N,) r + gamma (1 - d) (min_k Q'_k(s', a') - b_2 |a' - a'_data|^2), the last term where
        the next action is known.
        """
        action = smooth_target_action(
            nets, rows, key, self.options.policy_noise, self.options.noise_clip
        )
        value = nets["target_critic"](rows.next_features, action).min(0)
        away = jnp.square(action - rows.next_action).sum(-1) * rows.next_action_valid
        value = value - self.options.critic_bc_coef * away
        return rows.reward + self.options.discount * (1 - rows.terminal) * value

    def actor_loss(self, nets: Nets, rows: Transition, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """b_1 |pi(s) - a|^2 - min_k Q_k(s, pi(s)) / mean |min_k Q_k|."""
        action = nets["actor"](rows.features).mode()
        value = nets["critic"](rows.features, action).min(0)
        size = jax.lax.stop_gradient(mean(jnp.abs(value), rows))
        clone = mean(jnp.square(action - rows.action).sum(-1), rows)
        loss = self.options.actor_bc_coef * clone - mean(value, rows) / size
        return loss, {"loss/actor": loss, "loss/bc": mean(bc_loss(action, rows.action), rows)}
