"""ReBRAC (Tarasov et al., arXiv 2305.09836): TD3 with a behavior cloning penalty in the actor's
loss and in the target, and LayerNorm in the critics.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.policies.bc import bc_loss
from worldmodel.policies.networks import DeterministicActor
from worldmodel.policies.offline import Loss, Nets, mean
from worldmodel.policies.td3_bc import TD3, TD3Options


@dataclass
class ReBRACOptions(TD3Options):
    """ReBRAC (Tarasov et al., 2023): cloning in the actor's loss and in the target."""

    name: str = option("rebrac", "policy algorithm")
    layers: int = option(3, "hidden layers of actor and critics", low=1)
    layer_norm: bool = option(True, "LayerNorm in the critics")
    # As published for medium-replay HalfCheetah, with batches of 1,024 and a learning rate of 1e-3.
    actor_bc_coef: float = option(0.01, "weight of cloning in the actor's loss", low=0.0)
    critic_bc_coef: float = option(0.001, "weight of cloning in the target", low=0.0)


@register("policy", "rebrac", ReBRACOptions)
class ReBRAC(TD3[ReBRACOptions]):
    def modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        rngs = nnx.Rngs(params=key)
        actor = self.network(DeterministicActor, rngs)
        return {"actor": actor, "critic": self.critics(2, rngs, self.options.layer_norm)}

    def target(self, nets: Nets, batch: Transition, key: jax.Array) -> jax.Array:
        """(N,) r + gamma (1 - d) (min_k Q'_k(s', a') - b_2 |a' - a'_data|^2), the last term where
        the dataset has a next action.
        """
        action = self.target_action(nets, batch, key)
        value = nets["target_critic"](batch.next_features, action).min(0)
        distance = jnp.square(action - batch.next_action).sum(-1) * batch.next_action_valid
        value = value - self.options.critic_bc_coef * distance
        return batch.reward + self.options.discount * (1 - batch.terminal) * value

    def actor_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        """b_1 |pi(s) - a|^2 - min_k Q_k(s, pi(s)) / mean |min_k Q_k|."""
        action = nets["actor"](batch.features).mode()
        value = nets["critic"](batch.features, action).min(0)
        scale = jax.lax.stop_gradient(mean(jnp.abs(value), batch))
        distance = mean(jnp.square(action - batch.action).sum(-1), batch)
        loss = self.options.actor_bc_coef * distance - mean(value, batch) / scale
        return loss, {"loss/actor": loss, "loss/bc": mean(bc_loss(action, batch.action), batch)}
