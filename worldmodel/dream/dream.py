"""A dream: a world model as pure functions `reset` and `step`, to be compiled, mapped and scanned.

Outside are raw units: observations and actions are those of the logs. What is observed is always
what the model says of its state, its mean; ends are drawn from the model's probabilities. Without
`batch` there is one dream, and `jax.vmap` makes many. A batch in one call does the same at less
cost where a model shares work among rows, as an ensemble does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.dream.initial_states import (
    InitialStates,
    Observation,
    collect_initial_states,
    decode_observation,
)
from worldmodel.dream.options import DreamOptions
from worldmodel.errors import ConfigError
from worldmodel.imagination.uncertainty import measure_uncertainty
from worldmodel.models.interface import State, WorldModel
from worldmodel.nn.learner import Params, split_module


class DreamState(NamedTuple):
    """What a step begins from; (B,) more in front of everything in a batch.

    model: the state of the model
    steps: int32, taken so far
    start: int32, the place in the bank where it began
    member: int32, the elite that dreams it, where one is drawn once a dream
    """

    model: State
    steps: jax.Array
    start: jax.Array
    member: jax.Array


# State, observation, reward, terminated, truncated and info, as an environment's step gives them.
Step = tuple[DreamState, Observation, jax.Array, jax.Array, jax.Array, dict[str, jax.Array]]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "initial_states", "penalty_coef", "uncertainty_threshold"],
    meta_fields=[
        "graphdef",
        "action_spec",
        "time_limit",
        "fixed_member",
        "penalty",
        "truncation_measure",
    ],
)
@dataclass(frozen=True)
class Dream:
    """params, graphdef: the model, taken apart
    initial_states: where dreams begin
    penalty_coef: what a unit of the uncertainty `penalty` costs, if that is not None
    uncertainty_threshold: of the uncertainty `truncation_measure`, if that is not None
    action_spec: kind and bounds
    time_limit: steps after which a dream is truncated
    fixed_member: whether one elite dreams a whole dream
    """

    params: Params
    initial_states: InitialStates
    penalty_coef: jax.Array
    uncertainty_threshold: jax.Array
    graphdef: nnx.GraphDef
    action_spec: ActionSpec
    time_limit: int
    fixed_member: bool
    penalty: str | None
    truncation_measure: str | None

    @property
    def model(self) -> WorldModel:
        return nnx.merge(self.graphdef, self.params)

    def reset(self, key: jax.Array, batch: int | None = None) -> tuple[DreamState, Observation]:
        """A dream, or a batch of them, from starts that are drawn from the initial_states."""
        start_key, member_key = jax.random.split(key)
        shape = () if batch is None else (batch,)
        return self.reset_at(
            jax.random.randint(start_key, shape, 0, self.initial_states.size), member_key
        )

    def reset_at(self, start: jax.Array, key: jax.Array) -> tuple[DreamState, Observation]:
        """Dreams from given places in the initial_states, () or (B,) whole numbers."""
        state, observation = jax.tree.map(
            lambda x: x[start], (self.initial_states.state, self.initial_states.observation)
        )
        member = jnp.zeros(start.shape, jnp.int32)
        if self.fixed_member:
            member = jax.random.randint(key, start.shape, 0, self.model.num_elites)
        steps = jnp.zeros(start.shape, jnp.int32)
        return DreamState(state, steps, start.astype(jnp.int32), member), observation

    def step(self, state: DreamState, action: jax.Array, key: jax.Array) -> Step:
        """What follows `action`, (A,) or () in raw units, and the same with (B,) in front. Actions
        beyond their bounds are taken as the bounds.

        `terminated` where the model ended the episode; `truncated` at the limit of time, and where
        the model does not know enough: there no episode ends. `info` has the measures of
        uncertainty that were asked for, the `penalty`, and whether the dream was `uncertainty_truncated`.
        """
        if state.steps.ndim == 0:
            alone = jax.tree.map(lambda x: x[None], (state, jnp.asarray(action)))
            return jax.tree.map(lambda x: x[0], self._step(*alone, key))
        return self._step(state, action, key)

    def _step(self, state: DreamState, action: jax.Array, key: jax.Array) -> Step:
        model, (step_key, end_key) = self.model, jax.random.split(key)
        action = self._as_models_see(action)
        reached = (
            model.member_step(state.model, action, step_key, state.member)
            if self.fixed_member
            else model.step(state.model, action, step_key)
        )
        reward = model.reward(reached).mean()
        terminated = jax.random.uniform(end_key, reward.shape) < model.terminal(reached).mean()
        steps = state.steps + 1
        truncated = steps >= self.time_limit
        doubts = uncertainty_measures(
            model, {self.penalty, self.truncation_measure} - {None}, state.model, action
        )
        info = dict(doubts)
        if self.penalty is not None:
            info["penalty"] = self.penalty_coef * doubts[self.penalty]
            reward = reward - info["penalty"]
        if self.truncation_measure is not None:
            info["uncertainty_truncated"] = ~(
                doubts[self.truncation_measure] <= self.uncertainty_threshold
            )  # what is no number, too
            truncated = truncated | info["uncertainty_truncated"]
        state = state._replace(model=reached, steps=steps)
        return state, decode_observation(model, reached), reward, terminated, truncated, info

    def _as_models_see(self, action: jax.Array) -> jax.Array:
        action = self.action_spec.normalize(jnp.asarray(action))
        return action if self.action_spec.discrete else jnp.clip(action, -1.0, 1.0)


def uncertainty_measures(
    model: WorldModel, names: set[str], state: State, action: jax.Array
) -> dict[str, jax.Array]:
    """Measures of uncertainty, name -> (B,), of actions (B, ...) in states (B, ...)."""
    if not names:
        return {}
    state, action = jax.tree.map(lambda x: x[:, None], (state, action))  # a horizon of one step
    return {
        name: x[:, 0]
        for name, x in measure_uncertainty(model, sorted(names), state, action).items()
    }


def build_dream(
    model: WorldModel,
    spec: DataSpec,
    logs: Trajectories,
    numbers: np.ndarray,
    options: DreamOptions,
) -> Dream:
    """A dream of `model` that begins in the episodes `logs`, whose numbers are `numbers`. `options`
    leave neither `context` nor `time_limit` open.

    Raises ConfigError for a model that does not step, tells no reward or has no members to ask.
    """
    check_model(model, spec, options)
    initial_states = collect_initial_states(model, logs, numbers, options, jax.random.key(0))
    penalty = None if options.penalty == "none" else options.penalty
    truncation_measure = None if options.truncation_quantile is None else options.truncation_measure
    doubts = uncertainty_measures(
        model, {penalty, truncation_measure} - {None}, initial_states.state, initial_states.action
    )
    penalty_coef = uncertainty_threshold = jnp.zeros(())
    if penalty is not None:
        penalty_coef = options.penalty_scale * spec.reward_mean_std[1] / doubts[penalty].mean()
    if truncation_measure is not None:
        uncertainty_threshold = jnp.quantile(
            doubts[truncation_measure], options.truncation_quantile
        )
    graphdef, params = split_module(model)
    return Dream(
        params=params,
        initial_states=initial_states,
        penalty_coef=penalty_coef,
        uncertainty_threshold=uncertainty_threshold,
        graphdef=graphdef,
        action_spec=spec.action,
        time_limit=options.time_limit,
        fixed_member=options.member_sampling == "episode",
        penalty=penalty,
        truncation_measure=truncation_measure,
    )


def require_step_model(model: WorldModel) -> None:
    """Raises ConfigError for a model that does not go step by step."""
    if not (model.has_dynamics and model.autoregressive):
        why = "makes trajectories as a whole" if model.has_dynamics else "has no dynamics"
        raise ConfigError(
            f"dream: {type(model).__name__} {why}, and an environment goes step by step; accepted: "
            "the other families, such as model=rssm, koopman, gru, mlp, ensemble, diffusion"
        )


def check_model(model: WorldModel, spec: DataSpec, options: DreamOptions) -> None:
    """Raises ConfigError for what cannot be dreamed."""
    family = type(model).__name__
    require_step_model(model)
    if not spec.has_reward:
        raise ConfigError(
            f"dream: this {family} was trained on logs without reward, and a step of an "
            "environment has one; accepted: a run on logs with reward"
        )
    if options.member_sampling == "episode" and model.num_elites == 1:
        raise ConfigError(
            f"dream: member_sampling=episode draws one of several members, and {family} has one; "
            "accepted: member_sampling=step, or an ensemble with several elites"
        )
