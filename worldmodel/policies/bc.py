"""Behavior cloning: regression of the dataset's actions, numbers by squared error and classes by
their cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.nn.actions import Mixed, split_columns
from worldmodel.nn.distributions import Categorical
from worldmodel.policies.networks import ClassActor, DeterministicActor
from worldmodel.policies.offline import Loss, Nets, OfflineLearner, UpdateStep, mean
from worldmodel.policies.offline_options import OfflineOptions


@dataclass
class BCOptions(OfflineOptions):
    """Behavior cloning: squared error to the dataset's actions, cross-entropy of classes."""

    name: str = option("bc", "policy algorithm")


@register("policy", "bc", BCOptions)
class BehaviorCloning(OfflineLearner[BCOptions]):
    needs_reward = False
    supports_discrete_actions = True
    targets: ClassVar[tuple[str, ...]] = ()

    def modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        rngs, action, options = nnx.Rngs(params=key), self.spec.action, self.options
        if action.kind == "continuous":
            return {"actor": self.network(DeterministicActor, rngs)}
        sizes = (options.units, options.layers)
        inputs = self.model.feature_size
        return {"actor": ClassActor(inputs, action, *sizes, rngs=rngs, dtype=self.dtype)}

    def update_steps(self) -> tuple[UpdateStep, ...]:
        return (UpdateStep(("actor",), self.actor_loss),)

    def actor_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        policy = nets["actor"](batch.features)
        if isinstance(policy, Categorical):
            losses = policy.loss(batch.action)
        elif isinstance(policy, Mixed):
            losses = mixed_loss(policy, batch.action)
        else:
            losses = bc_loss(policy.mode(), batch.action)
        loss = mean(losses, batch)
        return loss, {"loss/actor": loss}


def bc_loss(action: jax.Array, target: jax.Array) -> jax.Array:
    """(N,) squared error of actions (N, A), averaged over their dimensions."""
    return jnp.square(action - target).mean(-1)


def mixed_loss(policy: Mixed, target: jax.Array) -> jax.Array:
    """(N,) of actions (N, K), averaged over their columns: squared error of the numbers and
    cross-entropy of the classes.
    """
    numbers, classes = split_columns(target, policy.spec)
    square = jnp.square(policy.numbers.mode() - numbers).sum(-1)
    return (square + policy.classes.loss(classes).sum(-1)) / target.shape[-1]
