"""COMBO (Yu et al., arXiv 2102.08363): SAC on dataset and imagined transitions with a conservative
critic: values are pushed down at the policy's actions and up at the dataset's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.policies.offline import Loss, Nets, dataset_only, mean
from worldmodel.policies.sac_n import SACN, ModelBasedSACOptions


@dataclass
class COMBOOptions(ModelBasedSACOptions):
    """COMBO (Yu et al., 2021): conservative values on imagined transitions."""

    needs_dataset: ClassVar[bool] = True

    name: str = option("combo", "policy algorithm")
    layers: int = option(3, "hidden layers of actor and critics", low=1)
    # As in the code of CQL.
    backup_entropy: bool = option(False, "include the entropy of the next action in targets")
    cql_weight: float = option(0.5, "weight of the conservative loss", low=0.0)
    cql_n_actions: int = option(10, "actions of each kind sampled for the conservative loss", low=1)


@register("policy", "combo", COMBOOptions)
class COMBO(SACN[COMBOOptions]):
    def critic_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        """... + beta sum_k (E log sum_a exp Q_k(s, a) - E_data Q_k(s, a)) (eq. 2, the form of
        CQL(H) in Kumar et al., arXiv 2006.04779).
        """
        key, push_key = jax.random.split(key)
        loss, metrics = super().critic_loss(nets, batch, key)
        upper = mean(self.logsumexp_values(nets, batch, push_key), batch)
        logged = mean(nets["critic"](batch.features, batch.action), dataset_only(batch))
        gap = upper - logged
        metrics["policy/conservative_gap"] = gap
        return loss + self.options.cql_weight * self.options.num_critics * gap, metrics

    def logsumexp_values(self, nets: Nets, batch: Transition, key: jax.Array) -> jax.Array:
        """(K, N) log of the mean over actions of exp Q / density, for uniform actions and for
        actions of the policy at the state and at the next state.
        """
        count = self.options.cql_n_actions
        uniform_key, here_key, next_key = jax.random.split(key, 3)
        shape = (count, *batch.action.shape)
        uniform = jax.random.uniform(uniform_key, shape, minval=-1.0, maxval=1.0)
        density = jnp.full(shape[:-1], -shape[-1] * math.log(2.0))
        samples = [(uniform, density)]
        policy = (batch.features, here_key), (batch.next_features, next_key)
        for features, policy_key in policy:
            draw = nets["actor"](features).sample_and_log_prob
            keys = jax.random.split(policy_key, count)
            samples.append(jax.lax.stop_gradient(jax.vmap(draw)(keys)))
        actions, log_density = (jnp.concatenate(x) for x in zip(*samples, strict=True))
        features = jnp.broadcast_to(batch.features, (3 * count, *batch.features.shape))
        values = nets["critic"](features, actions) - log_density
        return jax.nn.logsumexp(values, 1) - math.log(3 * count)
