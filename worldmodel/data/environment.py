"""A Gymnasium environment of which every fault is a message: what was called, what it did, and what
is accepted.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.config.environment_ids import EnvironmentId, working_folder_last
from worldmodel.config.option import format_value
from worldmodel.data.spaces import Part
from worldmodel.errors import DataError, UserError, did_you_mean, first_line

API = (
    "accepted: Gymnasium's interface, in which reset(seed=..., options=...) returns (observation, "
    "info), and step(action) returns (observation, reward, terminated, truncated, info)"
)
IMAGE = "accepted: render_mode='rgb_array', with which it returns uint8 (height, width, 3)"
ID = (
    "Accepted: the id of an installed Gymnasium environment (`package:id` imports the package or a "
    "module of the working folder first), or null to evaluate without returns."
)


class Outcome(NamedTuple):
    """What a step returned. The observation is the environment's own."""

    observation: Any
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


class GuardedEnvironment:
    """A Gymnasium environment that raises nothing but UserError.

    Args:
        identity: id, with the arguments of its constructor
        rendered: whether `render` is to return images
        option: what messages call the id
    """

    def __init__(
        self,
        identity: str | EnvironmentId,
        rendered: bool = False,
        option: str = "data.environment",
    ):
        self.identity = EnvironmentId.of(identity)
        self.label = f"{option}={self.identity}"
        self.environment = self._make(rendered)
        for name in ("observation_space", "action_space"):
            with self._guarded(name):
                space = getattr(self.environment, name)
            if not isinstance(space, spaces.Space):
                kind = f"{type(space).__module__}.{type(space).__name__}"
                raise self.fault(f"its {name} is a {kind}; accepted: a gymnasium.spaces.Space")

    def reset(self, seed: int) -> Any:
        """Begins the episode of a seed, and returns its first observation."""
        with self._guarded(f"reset(seed={seed})"):
            result = self.environment.reset(seed=seed)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            raise self.fault(f"reset(seed={seed}) returns {_described(result)}; {API}")
        return result[0]

    def step(self, action: Any) -> Outcome:
        """Takes an action of the action space."""
        with self._guarded("step(action)"):
            result = self.environment.step(action)
        if not (isinstance(result, tuple) and len(result) == 5):
            raise self.fault(f"step(action) returns {_described(result)}; {API}")
        observation, reward, terminated, truncated, info = result
        if not isinstance(info, Mapping):
            raise self.fault(f"step(action) returns info of type {type(info).__name__}; {API}")
        return Outcome(
            observation,
            self._number(reward, "reward"),
            bool(self._number(terminated, "terminated")),
            bool(self._number(truncated, "truncated")),
            info,
        )

    def named(self, observation: Any, parts: Mapping[str, Part]) -> dict[str, np.ndarray]:
        """Copies of the parts of an observation, by name."""
        try:
            return {key: part.of_step(observation) for key, part in parts.items()}
        except DataError as error:
            raise self.fault(f"{error}; accepted: what its observation_space declares") from None

    def render(self) -> np.ndarray:
        """Returns an image, uint8 (height, width, 3)."""
        with self._guarded("render()", IMAGE):
            image = np.asarray(self.environment.render())
        if image.ndim != 3 or image.dtype != np.uint8:
            raise self.fault(f"render() returns no image; {IMAGE}")
        return image

    def close(self) -> None:
        with self._guarded("close()"):
            self.environment.close()

    def fault(self, what: str) -> UserError:
        return UserError(f"{self.label}: {what}")

    def _make(self, rendered: bool) -> gymnasium.Env:
        name, options = self.identity.name, dict(self.identity.options)
        if rendered:  # some environments do not accept the argument at all
            options["render_mode"] = "rgb_array"
        try:
            with working_folder_last(name):
                return gymnasium.make(name, disable_env_checker=True, **options)
        except (gymnasium.error.Error, ImportError) as error:
            hint = "" if name in gymnasium.registry else did_you_mean(name, gymnasium.registry)
            raise self.fault(f"cannot be created{hint}.\n  {error}\n{ID}") from error
        except Exception as error:  # of its constructor
            given = f" with {format_value(dict(self.identity.options))}" if options else ""
            raise self.fault(
                f"its constructor raises {_raised(error)}{given}; the arguments of the "
                "constructor are data.environment_options={NAME: VALUE, ...}"
            ) from error

    def _number(self, value: Any, name: str) -> float:
        try:
            number = np.asarray(value)
        except ValueError:  # a ragged list
            number = np.asarray(None)
        if number.size != 1 or number.dtype.kind not in "fiub":
            raise self.fault(f"step(action) returns {name} {value!r}; accepted: one number")
        return float(number.reshape(()))

    @contextmanager
    def _guarded(self, call: str, accepted: str = API) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # anything that the environment's own code raises
            raise self.fault(f"{call} raises {_raised(error)}; {accepted}") from error


def _described(result: Any) -> str:
    if isinstance(result, tuple):
        return f"{len(result)} values ({', '.join(type(value).__name__ for value in result)})"
    return f"a {type(result).__name__}"


def _raised(error: Exception) -> str:
    """Type and message of an exception, and the last line outside of Gymnasium that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames[1:] if "/gymnasium/" not in frame.filename]
    where = f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"
