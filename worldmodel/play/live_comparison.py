"""A model's dream and the real environment under the same actions, step by step.

The model filters the first observations and then predicts open loop, while the real environment
continues.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.dream import Dream, DreamOptions, DreamState, DreamStep, build_dream
from worldmodel.dream.dream import check_model
from worldmodel.environments.real import Observation, RealEnvironment
from worldmodel.errors import ConfigError
from worldmodel.evaluation.returns import ActFunction
from worldmodel.loading import LoadedRun
from worldmodel.play.action_sources import UserQuit
from worldmodel.play.observation_values import normalized_rmse


class Prediction(NamedTuple):
    """A step of the dream. `error`: normalized RMSE of its observation."""

    observation: Mapping[str, np.ndarray]
    reward: float
    ended: bool
    error: float


class ComparedStep(NamedTuple):
    """A step of the real environment, and of the dream once it has begun."""

    step: int  # the first is 1
    action: np.ndarray  # in raw units
    observation: Observation
    reward: float
    ended: bool
    dreamed: Prediction | None

    @property
    def done(self) -> bool:
        return self.ended or (self.dreamed is not None and self.dreamed.ended)


def compare_live(
    run: LoadedRun,
    environment: RealEnvironment,
    act: ActFunction,
    context: int,
    steps: int,
    seed: int,
) -> Iterator[ComparedStep]:
    """The steps of episode `seed`: at most `steps`, until the real episode or the dream ends, or
    the user quits. The dream begins at step `context`.

    Raises ConfigError for a model that cannot be dreamed, and if `steps` is less than `context`.
    """
    check_model(run.model, run.spec, DreamOptions())
    if steps < context:
        raise ConfigError(
            f"steps={steps}: the model filters context={context} steps first; accepted: steps of "
            f"{context} or more"
        )
    observations, actions, rewards = [environment.reset(seed)], [], []
    key, memory, dream = jax.random.key(seed), None, None
    for step in range(1, steps + 1):
        batch = {name: value[None] for name, value in observations[-1].items()}
        try:
            memory, (action,) = act(memory, batch, np.array([seed]), step - 1)
        except UserQuit:
            return
        outcome = environment.step(action)
        observations.append(outcome.observation)
        actions.append(action)
        rewards.append(outcome.reward)
        if step == context:
            episode = _as_dataset(run.spec, observations, actions, rewards)
            dream = _begin_dream(run, episode, context)
        prediction = None
        if dream is not None:
            functions, state = dream
            taken = _step(functions, state, action, jax.random.fold_in(key, step))
            dream = functions, taken.state
            prediction = _predict(taken, outcome.observation, run.spec)
        ended = outcome.terminated or outcome.truncated
        compared = ComparedStep(
            step, action, outcome.observation, outcome.reward, ended, prediction
        )
        yield compared
        if compared.done:
            return


def _as_dataset(
    spec: DataSpec, observations: list[Observation], actions: list[np.ndarray], rewards: list[float]
) -> Trajectories:
    """The steps so far, as a dataset of one episode."""
    return Trajectories(
        observations={
            name: np.stack([o[name] for o in observations]) for name in spec.observations
        },
        actions=np.stack([*actions, np.zeros_like(actions[-1])]),
        rewards=np.array([*rewards, 0.0], np.float32),
        lengths=np.array([len(observations)]),
        terminated=np.array([False]),
        action_spec=spec.action,
        source="the real environment",
    )


def _begin_dream(run: LoadedRun, episode: Trajectories, context: int) -> tuple[Dream, DreamState]:
    """A dream that begins at the step before the last, filtered from all steps up to it."""
    options = DreamOptions(start_from="first_step", context=context, time_limit=2**31 - 1)
    dream = build_dream(run.model, run.spec, episode, np.zeros(1, int), options)
    return dream, dream.reset_at(np.zeros((), np.int32), jax.random.key(0))[0]


@jax.jit
def _step(dream: Dream, state: DreamState, action: jax.Array, key: jax.Array) -> DreamStep:
    return dream.step(state, action, key)


def _predict(taken: DreamStep, real: Observation, spec: DataSpec) -> Prediction:
    observation, reward, ended = jax.device_get((taken.observation, taken.reward, taken.terminated))
    error = normalized_rmse(observation, real, spec)
    return Prediction(observation, float(reward), bool(ended), error)
