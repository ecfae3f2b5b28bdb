"""Gymnasium's MuJoCo environments as functions: what follows an observation and an action.

Their state is positions and velocities, and an observation tells them all but the first positions:
how far the robot has come, which nothing depends on. So a state can be set from an observation.
Hopper and Walker2d observe velocities clipped to [-10, 10]; where one was clipped, what follows is
that of the clipped state. Ant reads its speed from bodies, which a real step leaves one sub-step
behind the positions; here they are where the positions say.
"""

from __future__ import annotations

import threading
from functools import cache

import gymnasium
import numpy as np

from worldmodel.errors import ConfigError, did_you_mean

ACCEPTED = (
    "accepted: Pendulum-v1, or a MuJoCo environment of Gymnasium that observes its positions, but "
    "for the first, and its velocities (HalfCheetah, Hopper, Walker2d, Swimmer, InvertedPendulum)"
)


class Simulator:
    """One environment that is set to any state; several threads may share it."""

    def __init__(self, name: str):
        """Raises ConfigError where there is no such environment, or its state cannot be set."""
        try:
            made = gymnasium.make(name, disable_env_checker=True)
        except (gymnasium.error.Error, ImportError) as error:
            hint = "" if name in gymnasium.registry else did_you_mean(name, gymnasium.registry)
            raise ConfigError(
                f"model.environment={name}: cannot be made{hint}.\n  {error}\n{ACCEPTED}"
            ) from error
        # Without wrappers: a limit of time is no part of the dynamics.
        self.environment, self.lock = made.unwrapped, threading.Lock()
        self.observation, self.action = made.observation_space, made.action_space
        hidden = unobserved_positions(made)
        if hidden is None:
            made.close()
            raise ConfigError(
                f"model.environment={name}: its state cannot be set from an observation; {ACCEPTED}"
            )
        self.unobserved = np.zeros(hidden)

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of an observation and of an action."""
        return self.observation.shape[0], self.action.shape[0]

    def step(
        self, observations: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, D) observations and (N, A) raw actions -> next observations (N, D), rewards (N,) and
        1 where the episode ended (N,), all float32.
        """
        actions = np.clip(actions, self.action.low, self.action.high)
        arrivals = np.empty_like(observations, np.float32)
        rewards, ended = np.empty((2, len(observations)), np.float32)
        with self.lock:
            for i, (observation, action) in enumerate(zip(observations, actions, strict=True)):
                set_state(self.environment, observation, self.unobserved)
                arrivals[i], rewards[i], ended[i], *_ = self.environment.step(action)
        return arrivals, rewards, ended


def unobserved_positions(environment: gymnasium.Env) -> int | None:
    """How many first positions the observations of a MuJoCo environment leave out, where they tell
    all others and the velocities; None for any other environment.
    """
    space, environment = environment.observation_space, environment.unwrapped
    if not (hasattr(environment, "set_state") and isinstance(space, gymnasium.spaces.Box)):
        return None
    model, data = environment.model, environment.data
    hidden = model.nq + model.nv - space.shape[0]
    if hidden < 0 or len(space.shape) > 1:
        return None
    observed, _ = environment.reset(seed=0)
    told = np.concatenate([data.qpos[hidden:], data.qvel])
    return hidden if np.allclose(observed, told) else None


def set_state(environment: gymnasium.Env, observation: np.ndarray, unobserved: np.ndarray) -> None:
    """Sets such an environment, without its wrappers, to where `observation` (D,) and the
    `unobserved` positions (those left out,) say.
    """
    import mujoco

    model, data = environment.model, environment.data
    # The solver starts from its last solution: the last bits would depend on earlier calls.
    mujoco.mj_resetData(model, data)
    told = model.nq - len(unobserved)
    environment.set_state(np.concatenate([unobserved, observation[:told]]), observation[told:])


@cache
def get_simulator(name: str) -> Simulator:
    """The one of this process, made when first asked for."""
    return Simulator(name)
