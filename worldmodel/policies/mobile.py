"""MOBILE (Sun et al., ICML 2023): on imagined rows the target is lowered by how much the members of
the ensemble disagree on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from worldmodel.config import Config, option
from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.imagination.transitions import Transition
from worldmodel.models import WorldModel
from worldmodel.models.ensemble import EnsembleOptions
from worldmodel.policies.offline import Nets, require_ensemble
from worldmodel.policies.sac_n import SACN, SACOptions


@dataclass
class MOBILEOptions(SACOptions):
    """MOBILE (Sun et al., 2023): disagreement on the target is taken off it."""

    name: str = option("mobile", "policy algorithm")
    inconsistency_scale: float = option(0.5, "weight of that disagreement", low=0.0)
    num_samples: int = option(10, "outcomes drawn from each member", low=1)
    nonnegative_targets: bool = option(False, "targets below 0 are 0")

    def check(self, config: Config) -> Iterator[str]:
        yield from super().check(config)
        yield from self.needs_imagination()
        if isinstance(config.model, EnsembleOptions) and (elites := config.model.sizes()[1]) < 2:
            yield (
                f"model.num_elites={elites}: policy=mobile looks at how far elites disagree; accepted: "
                "2 or more"
            )


@register("policy", "mobile", MOBILEOptions)
class MOBILE(SACN):
    def __init__(
        self,
        options: MOBILEOptions,
        model: WorldModel,
        spec: DataSpec,
        optimizer: optax.GradientTransformation,
        dtype: jnp.dtype,
    ):
        require_ensemble(model, "policy=mobile")
        super().__init__(options, model, spec, optimizer, dtype)

    def target(self, nets: Nets, rows: Transition, key: jax.Array) -> jax.Array:
        """(N,) SAC's target - beta U, at least 0 where returns are known to be positive (eq. 8)."""
        key, draw_key = jax.random.split(key)
        doubt = inconsistency(nets, rows, self.options.num_samples, draw_key)
        lowered = self.options.inconsistency_scale * doubt * rows.imagined
        target = super().target(nets, rows, key) - lowered
        return jnp.maximum(target, 0.0) if self.options.nonnegative_targets else target


def inconsistency(nets: Nets, rows: Transition, draws: int, key: jax.Array) -> jax.Array:
    """(N,) U: the standard deviation over elites of the mean over outcomes drawn from each of
    min_k Q'_k(s', a') (eq. 6).
    """
    model = nets["model"]
    state = model.state_from_features(rows.features)
    members = jax.tree.map(lambda x: x[model.elites()], model.predict_members(state, rows.action))

    def value(key: jax.Array) -> jax.Array:
        outcome_key, action_key = jax.random.split(key)
        after = model.features(model.next_state(state, members.sample(outcome_key)))
        action = nets["actor"](after).sample(action_key)
        return nets["target_critic"](after, action).min(0)

    return jax.vmap(value)(jax.random.split(key, draws)).mean(0).std(0)
