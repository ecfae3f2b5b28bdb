"""Collects episodes in a Gymnasium environment with behavior policies."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from worldmodel.config.environment_ids import EnvironmentId
from worldmodel.data.action_spaces import action_converter, action_of_step
from worldmodel.data.behaviours import Action, behaviour
from worldmodel.data.environment import GuardedEnvironment
from worldmodel.data.episodes import Episode, stack_episodes
from worldmodel.data.progress import progress_bar
from worldmodel.data.spaces import Part, observation_parts
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import DataError

LONGEST_EPISODE_STEPS = 10_000  # truncates episodes of environments without a time limit


def collect_episodes(
    environment: str | EnvironmentId, behaviours: Sequence[str], episodes: int, seed: int
) -> Trajectories:
    """Collects episodes; episode j has seed `seed` + j and behavior policy j % n.

    The last step of an episode is the true final observation. Raises UserError for an environment
    that does not exist or fails, and DataError for one whose spaces are not supported.
    """
    if not behaviours:
        raise DataError("data.behaviour_policies is empty; accepted: at least one behavior policy")
    policies = [behaviour(policy) for policy in behaviours]
    identity = EnvironmentId.of(environment)
    source = f"{identity}, {episodes} episodes of {', '.join(behaviours)}"
    with contextlib.closing(GuardedEnvironment(identity)) as guarded:
        space = guarded.environment.action_space
        parts = observation_parts(guarded.environment.observation_space, identity.name)
        spec, _ = action_converter(space, identity.name)
        if spec.is_open:
            raise DataError(
                f"{identity}: action is {space}, without finite bounds; accepted: finite bounds"
            )

        def collect(j: int) -> Episode:
            actions = policies[j % len(policies)](spec, np.random.default_rng([seed, j]))
            return _episode(guarded, seed + j, actions, parts)

        print(f"collecting {source}", file=sys.stderr, flush=True)
        collected = map(collect, progress_bar(range(episodes), episodes, "collecting"))
        trajectories = stack_episodes(collected, source, spec)
        print(f"collected {episodes} episodes", file=sys.stderr, flush=True)
        return trajectories


def _episode(
    environment: GuardedEnvironment, seed: int, actions: Iterator[Action], parts: dict[str, Part]
) -> Episode:
    """One episode, from a reset until it is terminated or truncated."""
    rows, taken, rewards = [environment.named(environment.reset(seed), parts)], [], []
    space, terminated = environment.environment.action_space, False
    for action in actions:
        outcome = environment.step(action_of_step(space, action))
        rows.append(environment.named(outcome.observation, parts))
        taken.append(action)
        rewards.append(outcome.reward)
        terminated = outcome.terminated
        if terminated or outcome.truncated or len(taken) == LONGEST_EPISODE_STEPS:
            break
    return Episode(
        observations={key: np.stack([row[key] for row in rows]) for key in parts},
        actions=np.array(taken),
        rewards=np.array(rewards, np.float32),
        terminated=terminated,
    )
