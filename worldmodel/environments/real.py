"""The real environment of a dataset, created by its id and checked against the dataset."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.config.environment_ids import EnvironmentId
from worldmodel.data.action_spaces import action_mismatch, action_of_step
from worldmodel.data.behaviours import uniform
from worldmodel.data.environment import GuardedEnvironment
from worldmodel.data.spaces import Part, leaves, part_of
from worldmodel.data.spec import DataSpec
from worldmodel.environments.observed import MismatchError, fit_observation
from worldmodel.errors import DataError, UserError

logger = logging.getLogger(__name__)

Observation = dict[str, np.ndarray]
SUCCESS = ("success", "is_success")  # keys in the `info` of environments
FAR = 3.0  # ranges of the dataset: values farther away may have another unit


class StepResult(NamedTuple):
    """The result of an action. `success`: as the environment reports it, None if it does not."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    success: bool | None


class RealEnvironment:
    """A Gymnasium environment with the named observations and the actions of a dataset.

    A single array gets the name of the dataset's only observation; those of a Dict or Tuple have
    the names that readers give them. Values are converted as readers convert them. Every fault of
    the environment raises UserError.
    """

    def __init__(self, identity: str | EnvironmentId, spec: DataSpec, rendered: bool = False):
        """Creates the environment, for `render` if `rendered`.

        Raises UserError if it does not exist or does not match the dataset.
        """
        self.guarded = GuardedEnvironment(identity, rendered)
        self.environment, self.spec = self.guarded.environment, spec
        self.actions = self.environment.action_space
        try:
            self.parts = self._parts(self.environment.observation_space)
            self.fits = {
                key: fit_observation(self.parts[key], logged)
                for key, logged in spec.observations.items()
            }
            if found := action_mismatch(self.actions, spec.action):
                raise MismatchError(f"its actions are {found}", spec.action.describe())
        except (MismatchError, DataError) as error:
            self.close()
            label = self.guarded.label
            if isinstance(error, DataError):
                raise UserError(str(error)) from None
            raise UserError(f"{label} does not match the dataset: {error}.") from None

    def reset(self, seed: int) -> Observation:
        return self._observe(self.guarded.reset(seed))

    def step(self, action: np.ndarray) -> StepResult:
        """Takes an action in the data's own units."""
        outcome = self.guarded.step(action_of_step(self.actions, action))
        info = outcome.info
        success = next((bool(np.all(info[name])) for name in SUCCESS if name in info), None)
        observation = self._observe(outcome.observation)
        return StepResult(observation, *outcome[1:4], success)

    def render(self) -> np.ndarray:
        """Returns an image, uint8 (height, width, 3)."""
        return self.guarded.render()

    def close(self) -> None:
        self.guarded.close()

    def _observe(self, observation: object) -> Observation:
        named = self.guarded.named(observation, self.parts)
        return {key: fit(named[key]) for key, fit in self.fits.items()}

    def _parts(self, space: spaces.Space) -> dict[str, Part]:
        """The parts of the environment's observation that are those of the dataset."""
        logged, found = list(self.spec.observations), leaves(space)
        if len(found) == len(logged) == 1:
            found = dict(zip(logged, found.values(), strict=True))
        if set(logged) - set(found):
            named = isinstance(space, spaces.Dict | spaces.Tuple)
            given = ", ".join(found) if named else f"a single {space}"
            raise MismatchError(
                f"its observations are {given}", f"observations {', '.join(logged)}"
            )
        return {key: part_of(key, *found[key], self.guarded.label) for key in logged}


def episode_limit(environment: str | EnvironmentId) -> int | None:
    """Number of steps after which the environment truncates an episode, None without a limit."""
    identity = EnvironmentId.of(environment)
    limit = gymnasium.spec(identity.name.rpartition(":")[2]).max_episode_steps
    limit = identity.options.get("max_episode_steps", limit)
    return None if limit is None or limit < 0 else limit


def check_environment(environment: str | EnvironmentId, spec: DataSpec) -> None:
    """Takes one step in the environment, and warns of values unlike those of the dataset.

    Raises UserError if the environment does not exist, does not match the dataset, or fails.
    """
    real = RealEnvironment(environment, spec)
    try:
        observation = real.reset(seed=0)
        action = next(uniform(spec.action, np.random.default_rng(0)))
        outcome = real.step(np.asarray(action))
        if not np.isfinite(outcome.reward):
            raise real.guarded.fault(
                f"step(action) returns reward {outcome.reward}; accepted: a finite number"
            )
        for key, value in outcome.observation.items():
            if not np.isfinite(value).all():
                raise real.guarded.fault(
                    f"step(action) returns observation {key!r} with numbers that are not finite; "
                    "accepted: finite numbers"
                )
        for difference in _differences(real, [observation, outcome.observation]):
            _warn(f"{real.guarded.label}: {difference}")
    finally:
        real.close()


def compatibility_error(environment: str | EnvironmentId, spec: DataSpec) -> str | None:
    """Why the environment cannot be created or does not match the dataset; None if it does."""
    try:
        check_environment(environment, spec)
    except UserError as error:
        return str(error).partition("\n")[0]
    return None


@cache
def _warn(message: str) -> None:
    """Warns once in a process, however often the environment is checked."""
    logger.warning("%s", message)


def _differences(real: RealEnvironment, seen: list[Observation]) -> Iterator[str]:
    """Values unlike those of the dataset, which may be in other units."""
    for key, logged in real.spec.observations.items():
        if not logged.low:
            continue
        low, high = np.asarray(logged.low), np.asarray(logged.high)
        values = np.stack([observation[key] for observation in seen])
        beyond = np.maximum(low - values, values - high).max(0)
        for d in np.flatnonzero((beyond > FAR * (high - low)) & (high > low))[:1]:
            farthest = values[np.abs(values[:, d]).argmax(), d]
            yield (
                f"observation {key!r} has {farthest:.4g} in dimension {d}, and from {low[d]:.4g} "
                f"to {high[d]:.4g} in the dataset: are these the same units?"
            )
    action, space = real.spec.action, real.actions
    if not action.discrete and isinstance(space, spaces.Box):
        reach = np.maximum(np.asarray(action.high), -np.asarray(action.low))
        most = np.maximum(np.abs(space.low), np.abs(space.high)).reshape(-1)
        for d in np.flatnonzero(reach > FAR * most)[:1]:
            yield (
                f"actions of the dataset reach {reach[d]:.4g} in dimension {d}, and the "
                f"environment's {most[d]:.4g}: are these the same units?"
            )
