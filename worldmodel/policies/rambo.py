"""RAMBO (Rigter et al., NeurIPS 2022): a two-player game. The model fits the dataset and otherwise
moves to where the policy is worth less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.imagination.transitions import Transition
from worldmodel.models import EnsembleModel
from worldmodel.nn.learner import TrainState
from worldmodel.policies.bc import bc_loss
from worldmodel.policies.offline import Loss, Nets, UpdateStep, dataset_only, mean
from worldmodel.policies.sac_n import SACN, ModelBasedSACOptions


@dataclass
class RAMBOOptions(ModelBasedSACOptions):
    """RAMBO (Rigter et al., 2022): the model is trained against the policy."""

    needs_dataset: ClassVar[bool] = True
    needs_rollouts: ClassVar[bool] = True

    name: str = option("rambo", "policy algorithm")
    adversarial_scale: float = option(3e-4, "weight of the adversarial loss of the model", low=0.0)
    bc_steps: int = option(500, "first updates, in which the actor is only cloned", low=0)


@register("policy", "rambo", RAMBOOptions)
class RAMBO(SACN[RAMBOOptions]):
    requires_ensemble: ClassVar[bool] = True

    def init(self, key: jax.Array) -> TrainState:
        """The model is among the trained parameters, not frozen."""
        state = super().init(key)
        opt_state = state.opt_state | {"model": self.optimizer.init(state.frozen["model"])}
        return replace(state, params=state.params | state.frozen, frozen={}, opt_state=opt_state)

    def update_steps(self) -> tuple[UpdateStep, ...]:
        """The actor is first cloned: against a random one the model would learn nothing useful."""
        actor, critic = super().update_steps()
        start = self.options.bc_steps
        return (
            UpdateStep(("actor",), self.cloning_loss, end=start),
            UpdateStep(("model",), self.model_loss, begin=start),
            actor._replace(begin=start),
            critic,
        )

    def cloning_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        loss = mean(
            bc_loss(nets["actor"](batch.features).mode(), batch.action), dataset_only(batch)
        )
        return loss, {"loss/bc": loss}

    def model_loss(self, nets: Nets, batch: Transition, key: jax.Array) -> Loss:
        """-ln p(s', r | s, a) of dataset transitions, + lambda E[A ln p(s', r | s, a)] of outcomes
        that the elites' mixture p samples for the policy's actions (eq. 9 and 10). A: the advantage
        of the outcome, normalized over the batch.
        """
        model: EnsembleModel = nets["model"]
        state = model.state_from_features(batch.features)
        after = model.state_from_features(batch.next_features, batch.reward * self.reward_unit)
        outcome = model.targets(state, after)
        log_prob = model.predict_members(state, batch.action).log_prob(outcome).mean(0)
        logged = dataset_only(batch)
        if logged.next_observed is not None:
            logged = logged._replace(weight=logged.weight * logged.next_observed)
        fit = -mean(log_prob, logged)

        action_key, outcome_key, next_key = jax.random.split(key, 3)
        action = nets["actor"](batch.features).sample(action_key)
        members = model.predict_members(state, action)
        elites = jax.tree.map(lambda x: x[model.elites()], members)
        outcome = sample_mixture(elites.sample(outcome_key), outcome_key)
        outcome = jax.lax.stop_gradient(outcome)
        advantage = self.advantage(nets, batch, action, outcome, next_key)
        advantage = jax.lax.stop_gradient(advantage)
        advantage = advantage - mean(advantage, batch)
        advantage = advantage / (jnp.sqrt(mean(jnp.square(advantage), batch)) + 1e-6)
        mixture = jax.nn.logsumexp(elites.log_prob(outcome), 0) - math.log(len(elites.location))
        adversarial = mean(advantage * mixture, batch)
        scale, regularization = self.options.adversarial_scale, model.regularization()
        loss = fit + scale * adversarial + sum(regularization.values())
        return loss, {"loss/model": fit, "loss/adversarial": adversarial}

    def advantage(
        self, nets: Nets, batch: Transition, action: jax.Array, outcome: jax.Array, key: jax.Array
    ) -> jax.Array:
        """(N,) r + gamma (1 - d) min_k Q_k(s', pi(s')) - min_k Q_k(s, a) of an outcome."""
        model: EnsembleModel = nets["model"]
        after = model.next_state(model.state_from_features(batch.features), outcome)
        terminal = model.terminal(after).mean() > 0.5
        features = model.features(after)
        next_value = nets["critic"](features, nets["actor"](features).sample(key)).min(0)
        reward = after.reward / self.reward_unit
        value = nets["critic"](batch.features, action).min(0)
        return reward + self.options.discount * ~terminal * next_value - value


def sample_mixture(samples: jax.Array, key: jax.Array) -> jax.Array:
    """(N, D) from samples (E, N, D) of E members, each from a member drawn at random."""
    member = jax.random.randint(jax.random.fold_in(key, 1), samples.shape[1:2], 0, len(samples))
    return jnp.take_along_axis(samples, member[None, :, None], 0)[0]
