"""The real environment behind a set of logs: made by its Gymnasium id, and checked against them."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.errors import UserError, did_you_mean

Observation = dict[str, np.ndarray]
SUCCESS = ("success", "is_success")  # names under which environments' `info` tells it


class StepResult(NamedTuple):
    """What an action led to. `success`: as the environment tells it, None where it does not."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    success: bool | None


class RealEnvironment:
    """One Gymnasium environment that speaks as the logs do: named observations, raw actions.

    A single array is observed under the logs' only name; a Dict under its own names.
    """

    def __init__(self, name: str, spec: DataSpec, rendered: bool = False):
        """`rendered`: `render` will be asked for. Raises UserError where there is no such environment,
        or where it does not fit the logs.
        """
        self.environment = _make(name, rendered)
        self.spec, self.name = spec, name
        space = self.environment.observation_space
        self.only = None if isinstance(space, spaces.Dict) else next(iter(spec.observations))
        try:
            self._check_observations(space)
            _check_actions(self.environment.action_space, spec.action, name)
        except UserError:
            self.close()
            raise

    def reset(self, seed: int) -> Observation:
        return self._observe(self.environment.reset(seed=seed)[0])

    def step(self, action: np.ndarray) -> StepResult:
        """Takes a raw action."""
        taken = _acted(self.environment.action_space, action)
        observation, reward, terminated, truncated, info = self.environment.step(taken)
        success = next((bool(info[name]) for name in SUCCESS if name in info), None)
        seen = self._observe(observation)
        return StepResult(seen, float(reward), bool(terminated), bool(truncated), success)

    def render(self) -> np.ndarray:
        """(height, width, 3) uint8, what a camera sees. Whatever the environment's own library
        raises where it cannot draw here, is raised.
        """
        return np.asarray(self.environment.render())

    def close(self) -> None:
        self.environment.close()

    def _observe(self, observation: Any) -> Observation:
        named = observation if self.only is None else {self.only: observation}
        return {
            key: np.asarray(named[key], o.dtype).reshape(o.shape)
            for key, o in self.spec.observations.items()
        }

    def _check_observations(self, space: spaces.Space) -> None:
        logged = self.spec.observations
        given = dict(space.items()) if self.only is None else {self.only: space}
        if self.only is not None and len(logged) > 1 or logged.keys() - given.keys():
            there = ", ".join(given) if self.only is None else f"a single {space}"
            raise _mismatch(self.name, f"it gives {there}", f"observations {', '.join(logged)}")
        for key, o in logged.items():
            shape = given[key].shape or ()
            same = shape == o.shape if o.is_image else np.prod(shape, dtype=int) == o.shape[0]
            if not same:
                raise _mismatch(self.name, f"its {key!r} is of shape {shape}", f"shape {o.shape}")


def episode_limit(name: str) -> int | None:
    """Steps after which an episode of the environment is cut off, None without a limit."""
    limit = gymnasium.spec(name.rpartition(":")[2]).max_episode_steps
    return None if limit is None or limit < 0 else limit


def check_environment(name: str, spec: DataSpec) -> None:
    """Raises UserError if there is no such environment, or if it does not fit the logs."""
    RealEnvironment(name, spec).close()


def compatibility_error(name: str, spec: DataSpec) -> str | None:
    """Why the environment cannot be made or does not fit the logs, in a line; None if it does."""
    try:
        check_environment(name, spec)
    except UserError as error:
        return str(error).partition("\n")[0]
    return None


def _make(name: str, rendered: bool) -> gymnasium.Env:
    rendering = (
        {"render_mode": "rgb_array"} if rendered else {}
    )  # some environments take no word of it
    try:
        return gymnasium.make(name, disable_env_checker=True, **rendering)
    except (gymnasium.error.Error, ImportError) as error:
        known = name in gymnasium.registry
        hint = "" if known else did_you_mean(name, gymnasium.registry)
        raise UserError(
            f"data.environment={name}: cannot be made{hint}.\n  {error}\n"
            "Accepted: the id of an installed Gymnasium environment (`package:id` imports the "
            "package first), or null to go without returns."
        ) from error


def _check_actions(space: spaces.Space, action: ActionSpec, name: str) -> None:
    if isinstance(space, spaces.Discrete):
        same, there = action.discrete and action.size == space.n, f"{space.n} classes"
    elif isinstance(space, spaces.Box):
        size = int(np.prod(space.shape))
        same, there = not action.discrete and action.size == size, f"vectors of size {size}"
    else:
        same, there = False, str(space)
    if not same:
        kind = f"{action.size} classes" if action.discrete else f"vectors of size {action.size}"
        raise _mismatch(name, f"its actions are {there}", kind)


def _acted(space: spaces.Space, action: np.ndarray) -> Any:
    """A raw action of the logs as `step` takes it; clipped to the environment's bounds."""
    if isinstance(space, spaces.Discrete):
        return int(action + space.start)
    return np.clip(action.reshape(space.shape), space.low, space.high).astype(space.dtype)


def _mismatch(name: str, there: str, logged: str) -> UserError:
    return UserError(
        f"data.environment={name} does not fit the logs: {there}, the logs have {logged}."
    )
