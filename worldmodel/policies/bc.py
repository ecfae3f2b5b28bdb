"""Behavior cloning: regression of the dataset's actions, by squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.policies.networks import DeterministicActor
from worldmodel.policies.offline import Loss, Nets, OfflineLearner, UpdateStep, mean
from worldmodel.policies.offline_options import OfflineOptions


@dataclass
class BCOptions(OfflineOptions):
    """Behavior cloning: squared error to the dataset's actions."""

    name: str = option("bc", "policy algorithm")


@register("policy", "bc", BCOptions)
class BehaviorCloning(OfflineLearner[BCOptions]):
    needs_reward = False
    targets: ClassVar[tuple[str, ...]] = ()

    def modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        return {"actor": self.network(DeterministicActor, nnx.Rngs(params=key))}

    def update_steps(self) -> tuple[UpdateStep, ...]:
        return (UpdateStep(("actor",), self.actor_loss),)

    def actor_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        loss = mean(bc_loss(nets["actor"](batch.features).mode(), batch.action), batch)
        return loss, {"loss/actor": loss}


def bc_loss(action: jax.Array, target: jax.Array) -> jax.Array:
    """(N,) squared error of actions (N, A), averaged over their dimensions."""
    return jnp.square(action - target).mean(-1)
