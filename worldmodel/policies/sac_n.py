"""SAC with the least of N critics (An et al., arXiv 2110.01548).

On imagined rows with a penalty it is MOPO (Yu et al., arXiv 2005.13239), with the critics' slopes
kept apart EDAC, and that on imagined rows RAVL (Sims et al., NeurIPS 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import Config, option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.nn.learner import Metrics
from worldmodel.policies.networks import Critics, SquashedActor, Temperature
from worldmodel.policies.offline import Nets, OfflineLearner, UpdateStep, critic_loss, mean
from worldmodel.policies.offline_options import OfflineOptions


@dataclass
class SACOptions(OfflineOptions):
    """SAC with N critics; with `eta`, EDAC; on imagined rows, MOPO and RAVL."""

    name: str = option("sac_n", "policy algorithm")
    num_critics: int = option(2, "critics, of which the least counts", low=1)
    layer_norm: bool = option(False, "LayerNorm in the critics")
    backup_entropy: bool = option(True, "targets count the entropy of what follows")
    eta: float = option(
        0.0, "weight of the likeness of the critics' slopes in the action (EDAC)", low=0.0
    )

    def check(self, config: Config) -> Iterator[str]:
        yield from super().check(config)
        if self.eta and self.num_critics < 2:
            yield (
                f"policy.eta={self.eta:g}: keeps the slopes of critics apart, and "
                "policy.num_critics=1; accepted: 2 critics or more, or policy.eta=0"
            )


@register("policy", "sac_n", SACOptions)
class SACN(OfflineLearner):
    def modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        rngs = nnx.Rngs(params=key)
        return {
            "actor": self.network(SquashedActor, rngs),
            "critic": self.critics(self.options.num_critics, rngs, self.options.layer_norm),
            "temperature": Temperature(),
        }

    def update_steps(self) -> tuple[UpdateStep, ...]:
        actor = UpdateStep(("actor", "temperature"), self.actor_loss)
        return actor, UpdateStep(("critic",), self.critic_loss)

    def actor_loss(self, nets: Nets, rows: Transition, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """alpha log pi - min_k Q_k, and alpha towards an entropy of -1 an action's dimension."""
        action, log_prob = nets["actor"](rows.features).sample_and_log_prob(key)
        alpha = nets["temperature"]()
        value = nets["critic"](rows.features, action).min(0)
        loss = mean(jax.lax.stop_gradient(alpha) * log_prob - value, rows)
        lack = jax.lax.stop_gradient(-mean(log_prob, rows) + self.spec.action.size)
        metrics = {
            "loss/actor": loss,
            "policy/entropy": -mean(log_prob, rows),
            "policy/temperature": alpha,
        }
        return loss + alpha * lack, metrics

    def critic_loss(
        self, nets: Nets, rows: Transition, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        target_key, key = jax.random.split(key)
        target = jax.lax.stop_gradient(self.target(nets, rows, target_key))
        loss, metrics = critic_loss(nets["critic"](rows.features, rows.action), target, rows)
        if self.options.eta:
            alike = mean(gradient_similarity(nets["critic"], rows), rows)
            loss, metrics["policy/gradient_similarity"] = loss + self.options.eta * alike, alike
        return loss, metrics

    def target(self, nets: Nets, rows: Transition, key: jax.Array) -> jax.Array:
        """(N,) r + gamma (1 - d) (min_k Q'_k(s', a') - alpha log pi(a' | s'))."""
        action, log_prob = nets["actor"](rows.next_features).sample_and_log_prob(key)
        value = nets["target_critic"](rows.next_features, action).min(0)
        if self.options.backup_entropy:
            value = value - nets["temperature"]() * log_prob
        return rows.reward + self.options.discount * (1 - rows.terminal) * value


def gradient_similarity(critic: Critics, rows: Transition) -> jax.Array:
    """(N,) sum over i != j of cos(grad_a Q_i, grad_a Q_j), over K - 1 (An et al., eq. 6)."""
    slope = critic.action_gradients(rows.features, rows.action)
    # A critic may be flat somewhere: the root of 0 would have no gradient.
    direction = slope * jax.lax.rsqrt(jnp.square(slope).sum(-1, keepdims=True) + 1e-12)
    total = jnp.square(direction.sum(0)).sum(-1) - jnp.square(direction).sum((0, -1))
    return total / (critic.count - 1)
