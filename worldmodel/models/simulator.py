"""Gymnasium's MuJoCo environments as functions of an observation and an action.

Their state is positions and velocities, of which an observation omits only the first positions: the
robot's location, on which nothing depends. So the state can be set from an observation. Hopper and
Walker2d observe velocities clipped to [-10, 10]; the step then starts from the clipped state. Ant
reads its speed from bodies, which in a real step lag one substep behind the positions; here they
do not.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import gymnasium
import numpy as np

from worldmodel.environments.states import set_state, unobserved_positions
from worldmodel.errors import ConfigError, did_you_mean

ACCEPTED = (
    "accepted: Pendulum-v1, or a MuJoCo environment of Gymnasium that observes its velocities and "
    "all but its first positions (HalfCheetah, Hopper, Walker2d, Swimmer, InvertedPendulum)"
)


class Simulator:
    """One environment that can be set to any state; several threads may share it."""

    def __init__(self, name: str):
        """Raises ConfigError for an unknown environment, or one whose state cannot be set."""
        try:
            environment: Any = gymnasium.make(name, disable_env_checker=True)
        except (gymnasium.error.Error, ImportError) as error:
            hint = "" if name in gymnasium.registry else did_you_mean(name, gymnasium.registry)
            raise ConfigError(
                f"model.environment={name}: cannot be created{hint}.\n  {error}\n{ACCEPTED}"
            ) from error
        # Without wrappers: a time limit is not part of the dynamics.
        self.environment: Any = environment.unwrapped
        self.lock = threading.Lock()
        self.observation, self.action = environment.observation_space, environment.action_space
        hidden = unobserved_positions(environment)
        if hidden is None:
            environment.close()
            raise ConfigError(
                f"model.environment={name}: its state cannot be set from an observation; {ACCEPTED}"
            )
        self.unobserved = np.zeros(hidden)

    @property
    def sizes(self) -> tuple[int, int]:
        """Dimensions of an observation and of an action."""
        return self.observation.shape[0], self.action.shape[0]

    def step(
        self, observations: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations (N, D) and actions (N, A) in raw units -> next observations (N, D), rewards
        (N,) and ends (N,), 1 where the episode has ended; all float32.
        """
        actions = np.clip(actions, self.action.low, self.action.high)
        following = np.empty_like(observations, np.float32)
        rewards, ended = np.empty((2, len(observations)), np.float32)
        with self.lock:
            for i, (observation, action) in enumerate(zip(observations, actions, strict=True)):
                set_state(self.environment, observation, self.unobserved)
                following[i], rewards[i], ended[i], *_ = self.environment.step(action)
        return following, rewards, ended


@cache
def get_simulator(name: str) -> Simulator:
    """The simulator of this process, created on first use."""
    return Simulator(name)
