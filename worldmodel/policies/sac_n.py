"""SAC with the minimum of N critics (An et al., arXiv 2110.01548).

On imagined transitions with a penalty it is MOPO (Yu et al., arXiv 2005.13239); with diversified
gradients of the critics it is EDAC, and EDAC on imagined transitions is RAVL (Sims et al., NeurIPS
2024). Their settings are in configs/policy/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import Config, option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.policies.networks import Critics, SquashedActor, Temperature
from worldmodel.policies.offline import Loss, Nets, OfflineLearner, UpdateStep, critic_loss, mean
from worldmodel.policies.offline_options import OfflineOptions


@dataclass
class SACOptions(OfflineOptions):
    """SAC with N critics; with `eta`, EDAC; on imagined transitions, MOPO and RAVL."""

    name: str = option("sac_n", "policy algorithm")
    num_critics: int = option(2, "critics, whose minimum is the value", low=1)
    layer_norm: bool = option(False, "LayerNorm in the critics")
    backup_entropy: bool = option(True, "include the entropy of the next action in targets")
    eta: float = option(0.0, "weight of the similarity of action gradients (EDAC)", low=0.0)

    def errors(self, config: Config) -> Iterator[str]:
        yield from super().errors(config)
        if self.eta and self.num_critics < 2:
            yield (
                f"policy.eta={self.eta:g}: diversifies the gradients of several critics, and "
                "policy.num_critics=1; accepted: 2 critics or more, or policy.eta=0"
            )


@dataclass
class ModelBasedSACOptions(SACOptions):
    """SAC on dataset and imagined transitions in equal parts."""

    compose_with: ClassVar = ("shared/imagined",)

    real_ratio: float = option(
        0.5, "share of dataset transitions in a batch; the rest are imagined", low=0.0, high=1.0
    )


Options = TypeVar("Options", bound=SACOptions)


@register("policy", "sac_n", SACOptions)
class SACN(OfflineLearner[Options]):
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

    def actor_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        """alpha log pi - min_k Q_k, plus the loss of alpha for a target entropy of -A."""
        action, log_prob = nets["actor"](batch.features).sample_and_log_prob(key)
        alpha = nets["temperature"]()
        value = nets["critic"](batch.features, action).min(0)
        loss = mean(jax.lax.stop_gradient(alpha) * log_prob - value, batch)
        excess = jax.lax.stop_gradient(-mean(log_prob, batch) + self.spec.action.size)
        metrics = {
            "loss/actor": loss,
            "policy/entropy": -mean(log_prob, batch),
            "policy/temperature": alpha,
        }
        return loss + alpha * excess, metrics

    def critic_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        target_key, key = jax.random.split(key)
        target = jax.lax.stop_gradient(self.target(nets, batch, target_key))
        loss, metrics = critic_loss(nets["critic"](batch.features, batch.action), target, batch)
        if self.options.eta:
            similarity = mean(gradient_similarity(nets["critic"], batch), batch)
            loss = loss + self.options.eta * similarity
            metrics["policy/gradient_similarity"] = similarity
        return loss, metrics

    def target(self, nets: Nets, batch: Transition, key: jax.Array) -> jax.Array:
        """(N,) r + gamma (1 - d) (min_k Q'_k(s', a') - alpha log pi(a' | s'))."""
        action, log_prob = nets["actor"](batch.next_features).sample_and_log_prob(key)
        value = nets["target_critic"](batch.next_features, action).min(0)
        if self.options.backup_entropy:
            value = value - nets["temperature"]() * log_prob
        return batch.reward + self.options.discount * (1 - batch.terminal) * value


def gradient_similarity(critic: Critics, batch: Transition) -> jax.Array:
    """(N,) sum over i != j of cos(grad_a Q_i, grad_a Q_j), over K - 1 (An et al., eq. 6)."""
    gradient = critic.action_gradients(batch.features, batch.action)
    # A critic may be flat: the square root of 0 has no gradient.
    norm = jax.lax.rsqrt(jnp.square(gradient).sum(-1, keepdims=True) + 1e-12)
    direction = gradient * norm
    total = jnp.square(direction.sum(0)).sum(-1) - jnp.square(direction).sum((0, -1))
    return total / (critic.count - 1)
