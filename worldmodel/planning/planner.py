"""The search of a planner: sample sequences of actions around a plan, imagine their returns, refit
the plan to the best, and repeat (TD-MPC2, arXiv 2310.16828, sec. 3.2).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import PlannerOptions
from worldmodel.errors import check_count, require
from worldmodel.imagination import Actor, imagine, time_major
from worldmodel.models.arguments import (
    check_actor,
    check_key,
    check_model,
    check_states,
)
from worldmodel.models.interface import State, WorldModel
from worldmodel.nn.layers import describe
from worldmodel.planning.weights import Weigh, replace_nonfinite

Around = tuple[jax.Array, jax.Array]  # mean and standard deviation of the next samples
DEFAULT_DISCOUNT = 1 - 1 / 333  # if neither the options nor a value have one


class Value(Protocol):
    """features (..., F) -> expected return (...), with a discount per step."""

    discount: float

    def __call__(self, features: jax.Array) -> jax.Array: ...


class Agent(NamedTuple):
    """A model, a policy over its features and the value of its critic, of one training seed."""

    model: WorldModel
    policy: nnx.Module | None
    value: Value | None


class Planner(nnx.Module):
    """Plans at every step, starting from the rest of its last plan (model-predictive control).

    options: of the search, steps and discount per step included
    weigh: from returns (B, N) and options to weights (B, N) with sum 1
    action_size: A
    actor: proposes candidates, from features (B, F) to a distribution over actions
    value: of the states at the horizon
    """

    def __init__(
        self,
        options: PlannerOptions,
        weigh: Weigh,
        action_size: int,
        actor: Actor | None = None,
        value: Value | None = None,
    ):
        self.options, self.weigh, self.action_size = options, weigh, action_size
        self.actor, self.value = actor, value
        discount = DEFAULT_DISCOUNT if value is None else getattr(value, "discount", None)
        discount = discount if options.discount is None else options.discount
        accepted = "a value with a `discount`, or options with one"
        require(discount is not None, "value", "no discount", accepted)
        self.discount: Any = discount

    def init_carry(self, batch: int) -> jax.Array:
        """The plan (B, H, A) before the first step: all zero, the middle of the action range."""
        check_count("batch", batch)
        return jnp.zeros((batch, self.options.horizon, self.action_size))

    def __call__(
        self, model: WorldModel, state: State, plan: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the new plan (B, H, A) and the action (B, A) in `state` (B, ...), given the plan
        of the previous step. Raises ArgumentError for arguments of other types or shapes.
        """
        self._check(model, state, plan, key)
        rest = jnp.concatenate([plan[:, 1:], jnp.zeros_like(plan[:, :1])], 1)
        plan = self._search(model, state, rest, key)
        return plan, plan[:, 0]

    def plan(self, model: WorldModel, state: State, plan: jax.Array, key: jax.Array) -> jax.Array:
        """Searches a plan (B, H, A) for `state` (B, ...) around an initial one; actions are in
        [-1, 1]. Raises ArgumentError for arguments of other types or shapes.
        """
        self._check(model, state, plan, key)
        return self._search(model, state, plan, key)

    def _search(
        self, model: WorldModel, state: State, plan: jax.Array, key: jax.Array
    ) -> jax.Array:
        options = self.options
        propose_key, key = jax.random.split(key)
        proposals = self._proposals(model, state, plan, propose_key)

        def refine(around: Around, key: jax.Array) -> tuple[Around, None]:
            mean, std = around
            sample_key, imagine_key = jax.random.split(key)
            shape = (mean.shape[0], options.num_samples, *mean.shape[1:])
            samples = mean[:, None] + std[:, None] * jax.random.normal(sample_key, shape)
            candidates = jnp.concatenate([proposals, jnp.clip(samples, -1, 1)], 1)
            returns = self.returns(model, state, candidates, imagine_key)
            weights = self.weigh(replace_nonfinite(returns), options)[..., None, None]
            fitted = (weights * candidates).sum(1)
            spread = jnp.sqrt((weights * jnp.square(candidates - fitted[:, None])).sum(1))
            return (fitted, jnp.maximum(spread, options.min_std)), None

        std = jnp.full_like(plan, options.initial_std)
        keys = jax.random.split(key, options.iterations)
        return jax.lax.scan(refine, (plan, std), keys)[0][0]

    def returns(
        self, model: WorldModel, state: State, candidates: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Imagined returns (B, N) of candidates (B, N, H, A) from `state` (B, ...): the discounted
        sum of rewards and of the value at the horizon, each times the probability of reaching it.
        """
        accepted = f"candidates (B, N, H, {self.action_size})"
        fits = getattr(candidates, "ndim", None) == 4 and candidates.size > 0
        require(fits, "candidates", describe(candidates), accepted)
        batch, count, horizon = candidates.shape[:3]
        actions = candidates.reshape(batch * count, *candidates.shape[2:])
        rollout = time_major(imagine(model, _repeat(state, count), actions, horizon, key))
        reach = jnp.cumprod(self.discount * rollout.continues, 0)
        before = jnp.concatenate([jnp.ones_like(reach[:1]), reach[:-1]])
        total = (before * rollout.rewards).sum(0)
        if self.value is not None:
            value = self.value(rollout.features[-1])
            require(value.shape == total.shape, "value", describe(value), f"{total.shape}")
            total += reach[-1] * value
        return total.reshape(batch, count)

    def _check(self, model: WorldModel, state: State, plan: jax.Array, key: jax.Array) -> None:
        check_model(model)
        check_key(key)
        batch = check_states("state", state, model)
        shape = (batch, self.options.horizon, self.action_size)
        fits = getattr(plan, "shape", None) == shape and jnp.issubdtype(plan.dtype, jnp.floating)
        require(fits, "plan", describe(plan), f"float32 {shape}, as `init_carry` returns")
        if self.actor is not None:
            check_actor("actor", self.actor, model, state)

    def _proposals(
        self, model: WorldModel, state: State, plan: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Actions (B, num_policy_samples, H, A) of rollouts of the actor, none without one."""
        if self.actor is None:
            return plan[:, None][:, :0]
        count = self.options.num_policy_samples
        _, actions = model.rollout_policy(_repeat(state, count), self.actor, plan.shape[1], key)
        return jnp.clip(actions, -1, 1).reshape(plan.shape[0], count, *plan.shape[1:])


def _repeat(state: State, count: int) -> State:
    """(B, ...) -> (B x count, ...)."""
    return jax.tree.map(lambda x: jnp.repeat(x, count, 0), state)
