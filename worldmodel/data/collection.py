"""Collects episodes in a Gymnasium environment with behavior policies."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.data.behaviours import Action, behaviour
from worldmodel.data.episodes import Episode, stack_episodes
from worldmodel.data.progress import progress_bar
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import DataError, did_you_mean

LONGEST_EPISODE_STEPS = 10_000  # truncates episodes of environments without a time limit

Observe = Callable[[Any], dict[str, np.ndarray]]
ActFunction = Callable[[Any], Any]


def collect_episodes(
    name: str, behaviours: Sequence[str], episodes: int, seed: int
) -> Trajectories:
    """Collects episodes; episode j has seed `seed` + j and behavior policy j % n.

    The last step of an episode is the true final observation. Raises DataError for an environment
    that does not exist or whose spaces are not supported.
    """
    if not behaviours:
        raise DataError("data.behaviour_policies is empty; accepted: at least one behavior policy")
    policies = [behaviour(policy) for policy in behaviours]
    source = f"{name}, {episodes} episodes of {', '.join(behaviours)}"
    with contextlib.closing(_make(name)) as environment:
        observe = _observer(environment.observation_space, name)
        spec, act = _actor(environment.action_space, name)

        def collect(j: int) -> Episode:
            actions = policies[j % len(policies)](spec, np.random.default_rng([seed, j]))
            return _episode(environment, seed + j, actions, observe, act)

        print(f"collecting {source}", file=sys.stderr, flush=True)
        collected = map(collect, progress_bar(range(episodes), episodes, "collecting"))
        trajectories = stack_episodes(collected, source, spec)
        print(f"collected {episodes} episodes", file=sys.stderr, flush=True)
        return trajectories


def _episode(
    environment: gymnasium.Env,
    seed: int,
    actions: Iterator[Action],
    observe: Observe,
    act: ActFunction,
) -> Episode:
    """One episode, from a reset until it is terminated or truncated."""
    observation, _ = environment.reset(seed=seed)
    observations, taken, rewards = [observe(observation)], [], []
    terminated = truncated = False
    for action in actions:
        observation, reward, terminated, truncated, _ = environment.step(act(action))
        observations.append(observe(observation))
        taken.append(action)
        rewards.append(reward)
        if terminated or truncated or len(taken) == LONGEST_EPISODE_STEPS:
            break
    return Episode(
        observations={key: np.stack([o[key] for o in observations]) for key in observations[0]},
        actions=np.array(taken),
        rewards=np.array(rewards, np.float32),
        terminated=bool(terminated),
    )


def _make(name: str) -> gymnasium.Env:
    try:
        return gymnasium.make(name, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:
        raise DataError(
            f"data.environment={name}: cannot be created"
            f"{did_you_mean(name, gymnasium.registry)}: {error}"
        ) from error


def _observer(space: spaces.Space, name: str) -> Observe:
    """How an observation becomes named arrays: float32 vectors (D,) and uint8 images."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            _check_observation(inner, f"{name}: observation {key!r}")
        return lambda observation: {key: _copy(observation[key]) for key in space.spaces}
    _check_observation(space, f"{name}: observation")
    key = "image" if space.dtype == np.uint8 else "observation"
    return lambda observation: {key: _copy(observation)}


def _check_observation(space: spaces.Space, where: str) -> None:
    vector = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
    image = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3
    if not (vector or image):
        raise DataError(
            f"{where} is {space}; accepted: Box of floats, Box of uint8 images "
            "(height, width, channels), or a Dict of those"
        )


def _copy(value: Any) -> np.ndarray:
    """A copy, since environments may reuse the array for the next observation."""
    if np.asarray(value).dtype == np.uint8:
        return np.array(value)
    return np.array(value, np.float32).reshape(-1)


def _actor(space: spaces.Space, name: str) -> tuple[ActionSpec, ActFunction]:
    """The spec of the actions as logged, and how to convert one for `step`."""
    if isinstance(space, spaces.Discrete):
        return ActionSpec(True, int(space.n)), lambda action: int(action + space.start)
    if not (isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)):
        raise DataError(f"{name}: action is {space}; accepted: Box of floats, or Discrete")
    low, high = space.low.astype(np.float32).reshape(-1), space.high.astype(np.float32).reshape(-1)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise DataError(
            f"{name}: action is {space}, without finite bounds; accepted: Box with finite bounds"
        )
    spec = ActionSpec(False, len(low), tuple(low.tolist()), tuple(high.tolist()))
    return spec, lambda action: action.reshape(space.shape).astype(space.dtype)
