"""A dream: a world model as pure functions `reset` and `step`, to be compiled, mapped and scanned.

Observations and actions are in raw units, those of the dataset. An observation is the mean of the
model's prediction; episode ends are sampled from its termination probabilities. Without `batch`
there is one dream, and `jax.vmap` makes many. A batch in one call computes the same at less cost
where a model shares work within a batch, as an ensemble does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.config.registry import names
from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.dream.initial_states import (
    InitialStates,
    Observation,
    collect_initial_states,
    decode_observation,
)
from worldmodel.dream.options import DreamOptions
from worldmodel.errors import ArgumentError, ConfigError, check_count, require
from worldmodel.imagination.uncertainty import measure_uncertainty
from worldmodel.models.arguments import check_key, describe
from worldmodel.models.interface import State, WorldModel
from worldmodel.nn.learner import Params, split_module


class DreamState(NamedTuple):
    """The state of one dream; in a batch, every array has (B,) in front.

    model: the model's own state
    steps: int32, steps taken so far
    start: int32, index of the initial state
    member: int32, the elite that predicts the whole dream (`member_sampling=episode`)
    """

    model: State
    steps: jax.Array
    start: jax.Array
    member: jax.Array


class DreamStep(NamedTuple):
    """One step of a dream, in the order of Gymnasium; in a batch, every array has (B,) in front.

    state: the state after the step
    observation: name -> (...) in raw units
    reward: float32, less the uncertainty penalty where there is one
    terminated: bool, the model ended the episode
    truncated: bool, at the time limit or where the uncertainty exceeds its threshold
    info: the configured measures of uncertainty by name, `penalty` and `uncertainty_truncated`
    """

    state: DreamState
    observation: Observation
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    info: dict[str, jax.Array]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "initial_states", "penalty_coef", "uncertainty_threshold"],
    meta_fields=[
        "graphdef", "action_spec", "time_limit", "fixed_member", "penalty", "truncation_measure",
    ],
)  # fmt: skip
@dataclass(frozen=True)
class Dream:
    """A world model as the pure functions `reset` and `step`. It is a pytree, so that it can be an
    argument of a compiled function.

    params, graphdef: the model, split
    initial_states: where dreams begin
    penalty_coef: cost of one unit of the uncertainty `penalty`, in reward
    uncertainty_threshold: of `truncation_measure`; a dream is truncated above it
    action_spec: kind and bounds of actions
    time_limit: steps after which a dream is truncated
    fixed_member: whether one elite predicts a whole dream
    penalty, truncation_measure: measures of uncertainty, or None

    Example:
        >>> import jax, worldmodel
        >>> dream = worldmodel.load("runs/smoke-0").dream().dream
        >>> keys = jax.random.split(jax.random.key(0), 8)
        >>> states, observations = jax.jit(jax.vmap(dream.reset))(keys)
        >>> observations["observation"].shape
        (8, 3)
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
        """The model, merged again."""
        return nnx.merge(self.graphdef, self.params)

    def reset(self, key: jax.Array, batch: int | None = None) -> tuple[DreamState, Observation]:
        """Begins one dream, or `batch` of them, at initial states that are drawn uniformly."""
        if batch is not None:
            check_count("dream: batch", batch)
        check_key(key)
        start_key, member_key = jax.random.split(key)
        shape = () if batch is None else (batch,)
        start = jax.random.randint(start_key, shape, 0, self.initial_states.size)
        return self.reset_at(start, member_key)

    def reset_at(
        self, start: jax.Array | np.ndarray, key: jax.Array
    ) -> tuple[DreamState, Observation]:
        """Begins dreams at given initial states: `start` () or (B,) are their indices."""
        size = self.initial_states.size
        start = start if isinstance(start, jax.Array) else np.asarray(start)
        valid = start.ndim < 2 and start.dtype.kind in "iu"
        if isinstance(start, np.ndarray):  # values on a device may not be known yet
            valid = valid and bool(((start >= 0) & (start < size)).all())
        if not valid:
            raise ArgumentError(
                f"dream: start={start}; accepted: indices () or (B,) of initial states, 0 to "
                f"{size - 1}"
            )
        start = jnp.asarray(start, jnp.int32)
        state, observation = jax.tree.map(
            lambda x: x[start], (self.initial_states.state, self.initial_states.observation)
        )
        member = steps = jnp.zeros(start.shape, jnp.int32)
        if self.fixed_member:
            member = jax.random.randint(key, start.shape, 0, self.model.num_elites)
        return DreamState(state, steps, start, member), observation

    def step(
        self, state: DreamState, action: jax.Array | np.ndarray | Mapping | tuple, key: jax.Array
    ) -> DreamStep:
        """Takes one step.

        state: of one dream, or of a batch
        action: (K,) floats or () integers in raw units, with (B,) in front for a batch; those of
            several parts also by name (`ActionSpec.flatten`). Actions outside their bounds are
            clipped; one that is not a number makes its dream NaN until the next reset (the
            Gymnasium environments refuse it).
        key: for the noise of the model and the end of the episode

        Raises ArgumentError for actions of another shape, and for what is no state or key.
        """
        require(isinstance(state, DreamState), "state", describe(state), "a DreamState of a reset")
        check_key(key)
        batch = state.steps.shape
        shape = (*batch, *self.action_spec.shape)
        action = self.action_spec.flatten(action)
        try:
            actions = jnp.asarray(action)
        except (TypeError, ValueError):
            raise ArgumentError(f"dream: action {action!r}; accepted: numbers {shape}") from None
        if actions.shape != shape:
            raise ArgumentError(f"dream: action of shape {actions.shape}; accepted: {shape}")
        if not batch:
            state, actions = jax.tree.map(lambda x: x[None], (state, actions))
            return jax.tree.map(lambda x: x[0], self._step(state, actions, key))
        return self._step(state, actions, key)

    def _step(self, state: DreamState, action: jax.Array, key: jax.Array) -> DreamStep:
        model, (step_key, end_key) = self.model, jax.random.split(key)
        action = self.action_spec.clip(jnp.asarray(self.action_spec.normalize(action)))
        if self.fixed_member:
            reached = model.member_step(state.model, action, step_key, state.member)
        else:
            reached = model.step(state.model, action, step_key)
        reward = model.reward(reached).mean()
        terminated = jax.random.uniform(end_key, reward.shape) < model.terminal(reached).mean()
        steps = state.steps + 1
        truncated = steps >= self.time_limit
        measured = uncertainty_measures(
            model, (self.penalty, self.truncation_measure), state.model, action
        )
        info = dict(measured)
        if self.penalty is not None:
            info["penalty"] = self.penalty_coef * measured[self.penalty]
            reward = reward - info["penalty"]
        if self.truncation_measure is not None:  # NaN exceeds every threshold
            within = measured[self.truncation_measure] <= self.uncertainty_threshold
            info["uncertainty_truncated"] = ~within
            truncated = truncated | ~within
        state = state._replace(model=reached, steps=steps)
        observation = decode_observation(model, reached)
        return DreamStep(state, observation, reward, terminated, truncated, info)


def uncertainty_measures(
    model: WorldModel, names: Iterable[str | None], state: State, action: jax.Array
) -> dict[str, jax.Array]:
    """Measures of uncertainty, name -> (B,), of actions (B, ...) in states (B, ...); None names
    no measure.
    """
    chosen = sorted({name for name in names if name is not None})
    if not chosen:
        return {}
    state, action = jax.tree.map(lambda x: x[:, None], (state, action))  # a horizon of one step
    measured = measure_uncertainty(model, chosen, state, action)
    return {name: x[:, 0] for name, x in measured.items()}


def build_dream(
    model: WorldModel,
    spec: DataSpec,
    dataset: Trajectories,
    episode_ids: np.ndarray,
    options: DreamOptions,
) -> Dream:
    """A dream of `model` that begins in the E episodes of `dataset`.

    model: a model that goes step by step
    spec: the data that the model was trained on
    dataset: E episodes
    episode_ids: (E,) numbers of these episodes, which a reset reports as `start_episode`
    options: with a `context` and a `time_limit`

    Raises ConfigError for a model that does not go step by step, has no reward, or has no members
    for the chosen uncertainty, and ValueError without `context` or `time_limit`.
    """
    if options.context is None or options.time_limit is None:
        raise ValueError("build_dream needs options with a context and a time_limit")
    check_model(model, spec, options)
    initial_states = collect_initial_states(
        model,
        dataset,
        episode_ids,
        context=options.context,
        max_states=options.max_initial_states,
        first_step_only=options.start_from == "first_step",
        key=jax.random.key(0),
    )
    penalty = None if options.penalty == "none" else options.penalty
    quantile = options.truncation_quantile
    truncation_measure = None if quantile is None else options.truncation_measure
    measured = uncertainty_measures(
        model, (penalty, truncation_measure), initial_states.state, initial_states.action
    )
    penalty_coef = uncertainty_threshold = jnp.zeros(())
    if penalty is not None:
        penalty_coef = options.penalty_scale * spec.reward_mean_std[1] / measured[penalty].mean()
    if quantile is not None:
        uncertainty_threshold = jnp.quantile(measured[options.truncation_measure], quantile)
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
    if model.has_dynamics and model.autoregressive:
        return
    accepted = names("model", lambda family: family.has_dynamics and family.autoregressive)
    why = "samples whole trajectories" if model.has_dynamics else "has no dynamics"
    raise ConfigError(
        f"dream: {type(model).__name__} {why}, and an environment goes step by step; accepted: "
        f"model={accepted}"
    )


def check_model(model: WorldModel, spec: DataSpec, options: DreamOptions) -> None:
    """Raises ConfigError if no dream can be made of the model."""
    family = type(model).__name__
    require_step_model(model)
    if not spec.has_reward:
        raise ConfigError(
            f"dream: this {family} was trained on data without rewards, and an environment returns "
            "one at every step; accepted: a run on data with rewards"
        )
    if options.member_sampling == "episode" and model.num_elites == 1:
        raise ConfigError(
            f"dream: member_sampling=episode draws one of several members, and {family} has one; "
            "accepted: member_sampling=step, or an ensemble with several elites"
        )
