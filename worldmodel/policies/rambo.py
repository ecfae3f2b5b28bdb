"""RAMBO (Rigter et al., NeurIPS 2022): model and policy play against each other. The model keeps to
the logs and otherwise moves to where the policy is worth less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax

from worldmodel.config import Config, option
from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.imagination.transitions import Transition
from worldmodel.models import WorldModel
from worldmodel.nn.learner import Metrics, TrainState
from worldmodel.policies.bc import bc_loss
from worldmodel.policies.offline import Nets, UpdateStep, mean, require_ensemble
from worldmodel.policies.sac_n import SACN, SACOptions


@dataclass
class RAMBOOptions(SACOptions):
    """RAMBO (Rigter et al., 2022): the model learns against the policy."""

    name: str = option("rambo", "policy algorithm")
    adversarial_scale: float = option(3e-4, "weight of the policy's loss in the model's", low=0.0)
    bc_steps: int = option(500, "first updates, in which the actor only clones", low=0)

    def check(self, config: Config) -> Iterator[str]:
        yield from super().check(config)
        yield from self.needs_imagination()
        yield from self.needs_logged_rows(config)


@register("policy", "rambo", RAMBOOptions)
class RAMBO(SACN):
    def __init__(
        self,
        options: RAMBOOptions,
        model: WorldModel,
        spec: DataSpec,
        optimizer: optax.GradientTransformation,
        dtype: jnp.dtype,
    ):
        require_ensemble(model, "policy=rambo")
        super().__init__(options, model, spec, optimizer, dtype)

    def init(self, key: jax.Array) -> TrainState:
        """The model is trained here too: it is no frozen one."""
        state = super().init(key)
        kept = state.opt_state | {"model": self.optimizer.init(state.frozen["model"])}
        return replace(state, params=state.params | state.frozen, frozen={}, opt_state=kept)

    def update_steps(self) -> tuple[UpdateStep, ...]:
        """First the actor only clones: against an untrained one the model would learn nothing."""
        actor, critic = super().update_steps()
        start = self.options.bc_steps
        return (
            UpdateStep(("actor",), self.cloning_loss, end=start),
            UpdateStep(("model",), self.model_loss, begin=start),
            actor._replace(begin=start),
            critic,
        )

    def cloning_loss(
        self, nets: Nets, rows: Transition, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        real = rows._replace(weight=rows.weight * ~rows.imagined)
        loss = mean(bc_loss(nets["actor"](rows.features).mode(), rows.action), real)
        return loss, {"loss/bc": loss}

    def model_loss(self, nets: Nets, rows: Transition, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """-ln p(s', r | s, a) of logged rows, + lambda E[A ln p(s', r | s, a)] of outcomes that the
        elites' mixture p draws for the policy's actions (eq. 9 and 10). A: the advantage of having
        got there, normalised over the batch.
        """
        model, state = nets["model"], nets["model"].state_from_features(rows.features)
        arrived = model.state_from_features(rows.next_features, rows.reward * self.reward_unit)
        outcome = model.targets(state, arrived)
        likely = model.predict_members(state, rows.action).log_prob(outcome).mean(0)
        real = rows._replace(weight=rows.weight * ~rows.imagined)
        fit = -mean(likely, real)

        action_key, outcome_key, next_key = jax.random.split(key, 3)
        action = nets["actor"](rows.features).sample(action_key)
        elites = jax.tree.map(lambda x: x[model.elites()], model.predict_members(state, action))
        outcome = jax.lax.stop_gradient(drawn(elites.sample(outcome_key), outcome_key))
        gained = jax.lax.stop_gradient(self.advantage(nets, rows, action, outcome, next_key))
        gained = gained - mean(gained, rows)
        gained = gained / (jnp.sqrt(mean(jnp.square(gained), rows)) + 1e-6)
        mixture = jax.nn.logsumexp(elites.log_prob(outcome), 0) - math.log(len(elites.location))
        against = mean(gained * mixture, rows)
        loss = fit + self.options.adversarial_scale * against + sum(model.regularization().values())
        return loss, {"loss/model": fit, "loss/adversarial": against}

    def advantage(
        self, nets: Nets, rows: Transition, action: jax.Array, outcome: jax.Array, key: jax.Array
    ) -> jax.Array:
        """(N,) r + gamma (1 - d) min_k Q_k(s', pi(s')) - min_k Q_k(s, a) of an outcome."""
        model = nets["model"]
        after = model.next_state(model.state_from_features(rows.features), outcome)
        ended = model.terminal(after).mean() > 0.5
        features = model.features(after)
        following = nets["critic"](features, nets["actor"](features).sample(key)).min(0)
        reward = after.reward / self.reward_unit
        here = nets["critic"](rows.features, action).min(0)
        return reward + self.options.discount * ~ended * following - here


def drawn(samples: jax.Array, key: jax.Array) -> jax.Array:
    """(N, D) out of samples (E, N, D) of E members, each row's from one of them."""
    member = jax.random.randint(jax.random.fold_in(key, 1), samples.shape[1:2], 0, len(samples))
    return jnp.take_along_axis(samples, member[None, :, None], 0)[0]
