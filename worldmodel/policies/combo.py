"""COMBO (Yu et al., arXiv 2102.08363): SAC on logged and imagined rows whose critics are pushed
down where the policy would go, and up on what was logged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from worldmodel.config import Config, option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.nn.learner import Metrics
from worldmodel.policies.offline import Nets, mean
from worldmodel.policies.sac_n import SACN, SACOptions


@dataclass
class COMBOOptions(SACOptions):
    """COMBO (Yu et al., 2021): values of actions not logged are pushed down."""

    name: str = option("combo", "policy algorithm")
    cql_weight: float = option(0.5, "weight of pushing values down", low=0.0)
    cql_n_actions: int = option(10, "actions of each kind that the push looks at", low=1)

    def check(self, config: Config) -> Iterator[str]:
        yield from super().check(config)
        yield from self.needs_logged_rows(config)


@register("policy", "combo", COMBOOptions)
class COMBO(SACN):
    def critic_loss(
        self, nets: Nets, rows: Transition, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """... + beta sum_k (E log sum_a exp Q_k(s, a) - E_logged Q_k(s, a)) (eq. 2, the form of
        CQL(H) in Kumar et al., arXiv 2006.04779).
        """
        key, push_key = jax.random.split(key)
        loss, metrics = super().critic_loss(nets, rows, key)
        above = mean(self.logsumexp_values(nets, rows, push_key), rows)
        real = rows._replace(weight=rows.weight * ~rows.imagined)
        gap = above - mean(nets["critic"](rows.features, rows.action), real)
        metrics["policy/conservative_gap"] = gap
        return loss + self.options.cql_weight * self.options.num_critics * gap, metrics

    def logsumexp_values(self, nets: Nets, rows: Transition, key: jax.Array) -> jax.Array:
        """(K, N) log of the mean over actions of exp Q / density: uniform ones, and those of the
        policy here and one step on.
        """
        count = self.options.cql_n_actions
        uniform_key, here_key, next_key = jax.random.split(key, 3)
        shape = (count, *rows.action.shape)
        uniform = jax.random.uniform(uniform_key, shape, minval=-1.0, maxval=1.0)
        density = jnp.full(shape[:-1], -shape[-1] * math.log(2.0))
        kinds = [(uniform, density)]
        for seen, own_key in ((rows.features, here_key), (rows.next_features, next_key)):
            draw = nets["actor"](seen).sample_and_log_prob
            kinds.append(jax.lax.stop_gradient(jax.vmap(draw)(jax.random.split(own_key, count))))
        actions, log_density = (jnp.concatenate(x) for x in zip(*kinds, strict=True))
        features = jnp.broadcast_to(rows.features, (3 * count, *rows.features.shape))
        values = nets["critic"](features, actions) - log_density
        return jax.nn.logsumexp(values, 1) - math.log(3 * count)
