"""The real environment of a dataset, created by its id and checked against the dataset."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.errors import UserError, did_you_mean

Observation = dict[str, np.ndarray]
SUCCESS = ("success", "is_success")  # keys in the `info` of environments


class StepResult(NamedTuple):
    """The result of an action. `success`: as the environment reports it, None if it does not."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    success: bool | None


class RealEnvironment:
    """A Gymnasium environment with the named observations and the actions of a dataset.

    A single array gets the name of the dataset's only observation; a Dict has its own names.
    """

    def __init__(self, name: str, spec: DataSpec, rendered: bool = False):
        """Creates the environment, for `render` if `rendered`.

        Raises UserError if it does not exist or does not match the dataset.
        """
        self.environment = _make(name, rendered)
        self.spec, self.name = spec, name
        space = self.environment.observation_space
        self.single = None if isinstance(space, spaces.Dict) else next(iter(spec.observations))
        try:
            self._check_observations(space)
            _check_actions(self.environment.action_space, spec.action, name)
        except UserError:
            self.close()
            raise

    def reset(self, seed: int) -> Observation:
        return self._observe(self.environment.reset(seed=seed)[0])

    def step(self, action: np.ndarray) -> StepResult:
        """Takes an action in the data's own units."""
        taken = _converted(self.environment.action_space, action)
        observation, reward, terminated, truncated, info = self.environment.step(taken)
        success = next((bool(info[name]) for name in SUCCESS if name in info), None)
        observed = self._observe(observation)
        return StepResult(observed, float(reward), bool(terminated), bool(truncated), success)

    def render(self) -> np.ndarray:
        """Returns an image, uint8 (height, width, 3). Raises any exception of the environment."""
        return np.asarray(self.environment.render())

    def close(self) -> None:
        self.environment.close()

    def _observe(self, observation: Any) -> Observation:
        named = observation if self.single is None else {self.single: observation}
        return {
            key: np.asarray(named[key], o.dtype).reshape(o.shape)
            for key, o in self.spec.observations.items()
        }

    def _check_observations(self, space: spaces.Space) -> None:
        logged = self.spec.observations
        named = isinstance(space, spaces.Dict)
        given = dict(space.spaces) if named else {str(self.single): space}
        if not named and len(logged) > 1 or logged.keys() - given.keys():
            found = ", ".join(given) if named else f"a single {space}"
            raise _mismatch(
                self.name, f"its observations are {found}", f"observations {', '.join(logged)}"
            )
        for key, o in logged.items():
            shape = given[key].shape or ()
            same = shape == o.shape if o.is_image else np.prod(shape, dtype=int) == o.shape[0]
            if not same:
                raise _mismatch(self.name, f"its {key!r} has shape {shape}", f"shape {o.shape}")


def episode_limit(name: str) -> int | None:
    """Number of steps after which the environment truncates an episode, None without a limit."""
    limit = gymnasium.spec(name.rpartition(":")[2]).max_episode_steps
    return None if limit is None or limit < 0 else limit


def check_environment(name: str, spec: DataSpec) -> None:
    """Raises UserError if the environment does not exist or does not match the dataset."""
    RealEnvironment(name, spec).close()


def compatibility_error(name: str, spec: DataSpec) -> str | None:
    """Why the environment cannot be created or does not match the dataset; None if it does."""
    try:
        check_environment(name, spec)
    except UserError as error:
        return str(error).partition("\n")[0]
    return None


def _make(name: str, rendered: bool) -> gymnasium.Env:
    # Some environments do not accept the argument at all.
    rendering: dict[str, Any] = {"render_mode": "rgb_array"} if rendered else {}
    try:
        return gymnasium.make(name, disable_env_checker=True, **rendering)
    except (gymnasium.error.Error, ImportError) as error:
        registered = name in gymnasium.registry
        hint = "" if registered else did_you_mean(name, gymnasium.registry)
        raise UserError(
            f"data.environment={name}: cannot be created{hint}.\n  {error}\n"
            "Accepted: the id of an installed Gymnasium environment (`package:id` imports the "
            "package first), or null to evaluate without returns."
        ) from error


def _check_actions(space: spaces.Space, action: ActionSpec, name: str) -> None:
    if isinstance(space, spaces.Discrete):
        same, found = action.discrete and action.size == space.n, f"{space.n} classes"
    elif isinstance(space, spaces.Box):
        size = int(np.prod(space.shape))
        same, found = not action.discrete and action.size == size, f"vectors of size {size}"
    else:
        same, found = False, str(space)
    if not same:
        kind = f"{action.size} classes" if action.discrete else f"vectors of size {action.size}"
        raise _mismatch(name, f"its actions are {found}", kind)


def _converted(space: spaces.Space, action: np.ndarray) -> Any:
    """An action of the dataset as `step` accepts it, clipped to the environment's bounds."""
    if isinstance(space, spaces.Discrete):
        return int(action + space.start)
    if not isinstance(space, spaces.Box):
        raise TypeError(f"unsupported action space {space}")
    return np.clip(action.reshape(space.shape), space.low, space.high).astype(space.dtype)


def _mismatch(name: str, found: str, logged: str) -> UserError:
    return UserError(
        f"data.environment={name} does not match the dataset: {found}, the dataset has {logged}."
    )
