"""MOBILE (Sun et al., ICML 2023): on imagined transitions, targets are lowered by how much the
members of the ensemble disagree on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from worldmodel.config import Config, option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.models import EnsembleModel
from worldmodel.policies.offline import Nets
from worldmodel.policies.sac_n import SACN, ModelBasedSACOptions


@dataclass
class MOBILEOptions(ModelBasedSACOptions):
    """MOBILE (Sun et al., 2023): targets less the members' disagreement on them."""

    needs_rollouts: ClassVar[bool] = True

    name: str = option("mobile", "policy algorithm")
    inconsistency_scale: float = option(2.0, "weight of the disagreement", low=0.0)
    num_samples: int = option(10, "outcomes sampled from each member", low=1)
    nonnegative_targets: bool = option(False, "clip targets at 0 from below")

    def errors(self, config: Config) -> Iterator[str]:
        yield from super().errors(config)
        if config.model.ensemble_size is not None and (elites := config.model.ensemble_size[1]) < 2:
            yield (
                f"model.num_elites={elites}: policy=mobile measures the disagreement of elites; "
                "accepted: 2 or more"
            )


@register("policy", "mobile", MOBILEOptions)
class MOBILE(SACN[MOBILEOptions]):
    requires_ensemble: ClassVar[bool] = True

    def target(self, nets: Nets, batch: Transition, key: jax.Array) -> jax.Array:
        """(N,) SAC's target - beta U (eq. 8)."""
        key, sample_key = jax.random.split(key)
        uncertainty = inconsistency(nets, batch, self.options.num_samples, sample_key)
        penalty = self.options.inconsistency_scale * uncertainty * batch.imagined
        target = super().target(nets, batch, key) - penalty
        return jnp.maximum(target, 0.0) if self.options.nonnegative_targets else target


def inconsistency(nets: Nets, batch: Transition, num_samples: int, key: jax.Array) -> jax.Array:
    """(N,) U: the standard deviation over elites of the mean over `num_samples` outcomes of each of
    min_k Q'_k(s', a') (eq. 6).
    """
    model: EnsembleModel = nets["model"]
    state = model.state_from_features(batch.features)
    members = model.predict_members(state, batch.action)
    elites = jax.tree.map(lambda x: x[model.elites()], members)

    def value(key: jax.Array) -> jax.Array:
        outcome_key, action_key = jax.random.split(key)
        features = model.features(model.next_state(state, elites.sample(outcome_key)))
        action = nets["actor"](features).sample(action_key)
        return nets["target_critic"](features, action).min(0)

    return jax.vmap(value)(jax.random.split(key, num_samples)).mean(0).std(0)
