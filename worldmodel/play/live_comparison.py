"""A model's dream and the real environment under the same actions, moment by moment.

The model is filtered through the first rows, then goes on alone, while the real environment goes
on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.dream import Dream, DreamState, build_dream
from worldmodel.dream.dream import check_model
from worldmodel.dream.options import DreamOptions
from worldmodel.environments.real import Observation, RealEnvironment
from worldmodel.errors import ConfigError
from worldmodel.evaluation.returns import ActFunction
from worldmodel.loading import LoadedRun
from worldmodel.play import observation_values
from worldmodel.play.action_sources import UserQuit


class DreamStep(NamedTuple):
    """What the dream says of a step. `error`: how far its observation is from the real one."""

    observation: Observation
    reward: float
    ended: bool
    error: float


class ComparedStep(NamedTuple):
    """A step: what was done, what followed, and what the dream says, which begins after the rows
    that the model is shown.
    """

    step: int  # the first is 1
    action: np.ndarray  # in raw units
    observation: Observation
    reward: float
    ended: bool
    dreamed: DreamStep | None

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
    """The moments of episode `seed`: at most `steps`, until the real episode or the dream ends, or
    whoever acts leaves. The first `context - 1` are shown to the model.

    Raises ConfigError for a model that cannot be dreamed, and where `steps` leave nothing to dream.
    """
    check_model(run.model, run.spec, DreamOptions())
    if steps < context:
        raise ConfigError(
            f"steps={steps}: the model is shown context={context} rows first; accepted: steps of "
            f"{context} or more"
        )
    rows, done = [environment.reset(seed)], []
    key, memory, dream, state = jax.random.key(seed), None, None, None
    for step in range(1, steps + 1):
        seen = {name: value[None] for name, value in rows[-1].items()}
        try:
            memory, (action,) = act(memory, seen, np.array([seed]), step - 1)
        except UserQuit:
            return
        outcome = environment.step(action)
        rows.append(outcome.observation)
        done.append((action, outcome.reward))
        if step == context:
            dream, state = _begun(run, _logged(run.spec, rows, done), context)
        dreamed = None
        if dream is not None:
            state, said = _step(dream, state, action, jax.random.fold_in(key, step))
            dreamed = _imagined(said, outcome.observation, run.spec)
        ended = outcome.terminated or outcome.truncated
        moment = ComparedStep(step, action, outcome.observation, outcome.reward, ended, dreamed)
        yield moment
        if moment.done:
            return


def _logged(spec: DataSpec, rows: list[Observation], done: list) -> Trajectories:
    """What happened so far, as logs of one episode."""
    actions, rewards = zip(*done, strict=True)
    return Trajectories(
        observations={name: np.stack([row[name] for row in rows]) for name in spec.observations},
        actions=np.stack([*actions, np.zeros_like(actions[-1])]),
        rewards=np.array([*rewards, 0.0], np.float32),
        lengths=np.array([len(rows)]),
        terminated=np.array([False]),
        action_spec=spec.action,
        source="the real environment",
    )


def _begun(run: LoadedRun, logs: Trajectories, context: int) -> tuple[Dream, DreamState]:
    """A dream that begins in the row before the last, after all rows up to it were seen."""
    options = DreamOptions(start_from="first_step", context=context, time_limit=2**31 - 1)
    dream = build_dream(run.model, run.spec, logs, np.zeros(1, int), options)
    return dream, dream.reset_at(np.int32(0), jax.random.key(0))[0]


@jax.jit
def _step(
    dream: Dream, state: DreamState, action: jax.Array, key: jax.Array
) -> tuple[DreamState, tuple[dict[str, jax.Array], jax.Array, jax.Array]]:
    state, observation, reward, ended, _, _ = dream.step(state, action, key)
    return state, (observation, reward, ended)


def _imagined(said: tuple, real: Observation, spec: DataSpec) -> DreamStep:
    observation, reward, ended = jax.device_get(said)
    error = observation_values.normalized_rmse(observation, real, spec)
    return DreamStep(observation, float(reward), bool(ended), error)
