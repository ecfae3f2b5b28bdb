"""ReBRAC (Tarasov et al., arXiv 2305.09836): TD3 that clones in the actor's loss and in the target,
with LayerNorm in the critics.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.imagination.transitions import Transition
from worldmodel.nn.learner import Metrics
from worldmodel.policies.bc import cloning
from worldmodel.policies.networks import DeterministicActor
from worldmodel.policies.offline import Nets, mean
from worldmodel.policies.td3_bc import TD3BC, smoothed


class ReBRAC(TD3BC):
    def modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        rngs = nnx.Rngs(params=key)
        actor = self.network(DeterministicActor, rngs)
        return {"actor": actor, "critic": self.critics(2, rngs, self.options.layer_norm)}

    def target(self, nets: Nets, rows: Transition, key: jax.Array) -> jax.Array:
        """(N,) r + gamma (1 - d) (min_k Q'_k(s', a') - b_2 |a' - a'_data|^2), the last term where
        the next action is known.
        """
        action = smoothed(nets, rows, key, self.options.target_noise, self.options.target_clip)
        value = nets["slow_critic"](rows.next_features, action).min(0)
        away = jnp.square(action - rows.next_action).sum(-1) * rows.next_known
        value = value - self.options.critic_cloning * away
        return rows.reward + self.options.discount * (1 - rows.ended) * value

    def actor_loss(self, nets: Nets, rows: Transition, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """b_1 |pi(s) - a|^2 - min_k Q_k(s, pi(s)) / mean |min_k Q_k|."""
        action = nets["actor"](rows.features).mode()
        value = nets["critic"](rows.features, action).min(0)
        size = jax.lax.stop_gradient(mean(jnp.abs(value), rows))
        clone = mean(jnp.square(action - rows.action).sum(-1), rows)
        loss = self.options.actor_cloning * clone - mean(value, rows) / size
        return loss, {"loss/actor": loss, "loss/cloning": mean(cloning(action, rows.action), rows)}
