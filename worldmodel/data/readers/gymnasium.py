"""Logs of a Gymnasium environment: collected on first use, kept as TFDS, later read from there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from rich.console import Console
from rich.progress import track

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.behaviours import Action, behaviour
from worldmodel.data.episodes import Episode, EpisodeStream, stack_episodes
from worldmodel.data.readers import tfds
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.validation import validate
from worldmodel.errors import DataError, did_you_mean

FORMAT = 1  # of what is collected: raise it and cached logs are collected anew
LONGEST_EPISODE_STEPS = (
    10_000  # for environments that set no limit of their own; then it is a time-out
)

Observe = Callable[[Any], dict[str, np.ndarray]]
ActFunction = Callable[[Action], Any]


@dataclass
class GymnasiumData(DataOptions):
    """Logs of a Gymnasium environment, collected on first use, kept in `cache_dir`."""

    name: str = option("gymnasium", "data source")
    environment: str | None = option(
        None, "Gymnasium id of the environment to log and to judge policies in"
    )
    behaviour_policies: list[str] = option(
        ["uniform", "sticky", "ornstein_uhlenbeck"], "behaviour policies, in turn by episode"
    )
    episodes: int = option(200, "episodes to log", low=1)
    collection_seed: int = option(
        0, "seed of the collection (apart from `seed`: all runs share the logs)", low=0
    )

    def errors(self) -> Iterator[str]:
        if not self.environment:
            yield "data.environment needs a Gymnasium id, such as data.environment=Pendulum-v1"
        yield from super().errors()


@register("data", "gymnasium", GymnasiumData, source="environment")
def read(options: GymnasiumData) -> EpisodeStream:
    """The logs that `options` describe, from `cache_dir`; if they are not there, collects them.

    Two processes may do so at once: both collect the same logs, and the first to finish keeps its
    copy.
    """
    folder = cache_folder(options)
    if not (folder / "dataset_info.json").exists():
        trajectories = collect(options)
        validate(trajectories)
        with contextlib.suppress(FileExistsError):
            tfds.write_rlds(trajectories, folder, str(options.environment), _recipe(options))
    return tfds.read(
        TFDSData(path=str(folder), environment=options.environment, holdout=options.holdout)
    )


def collect(options: GymnasiumData) -> Trajectories:
    """Logs `options.episodes` episodes; episode j has seed collection_seed + j and behaviour j % n.

    The true final observation is the last row of its episode; `terminated` is what the environment
    said. Raises DataError for an environment that does not exist or whose spaces cannot be logged.
    """
    if not options.behaviour_policies:
        raise DataError("data.behaviour_policies is empty; accepted: at least one behaviour policy")
    behaviours = [behaviour(name) for name in options.behaviour_policies]
    source = f"{options.environment}, {options.episodes} episodes of {', '.join(options.behaviour_policies)}"
    with contextlib.closing(_make(options.environment)) as environment:
        observe = _observer(environment.observation_space, options.environment)
        spec, act = _actor(environment.action_space, options.environment)

        def log(j: int) -> Episode:
            generator = np.random.default_rng([options.collection_seed, j])
            actions = behaviours[j % len(behaviours)](spec, generator)
            return _episode(environment, options.collection_seed + j, actions, observe, act)

        episodes = map(log, _progress(options.episodes, f"collecting {source}"))
        return stack_episodes(episodes, source, spec)


def cache_folder(options: GymnasiumData) -> Path:
    """Where these logs are kept: a readable name, and a digest of all that shapes them."""
    recipe = json.dumps(_recipe(options), sort_keys=True)
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    environment = re.sub(r"[^\w.-]+", "-", str(options.environment))
    return (
        Path(options.cache_dir).expanduser() / f"{environment}-{options.episodes}-episodes-{digest}"
    )


def _recipe(options: GymnasiumData) -> dict[str, Any]:
    return {
        "environment": options.environment,
        "behaviours": list(options.behaviour_policies),
        "episodes": options.episodes,
        "collection_seed": options.collection_seed,
        "format": FORMAT,
    }


def _episode(
    environment: gymnasium.Env,
    seed: int,
    actions: Iterator[Action],
    observe: Observe,
    act: ActFunction,
) -> Episode:
    """One episode, from a reset to the environment's own end."""
    observation, _ = environment.reset(seed=seed)
    rows, taken, rewards = [observe(observation)], [], []
    terminated = truncated = False
    for action in actions:
        observation, reward, terminated, truncated, _ = environment.step(act(action))
        rows.append(observe(observation))
        taken.append(action)
        rewards.append(reward)
        if terminated or truncated or len(taken) == LONGEST_EPISODE_STEPS:
            break
    return Episode(
        observations={key: np.stack([row[key] for row in rows]) for key in rows[0]},
        actions=np.array(taken),
        rewards=np.array(rewards, np.float32),
        terminated=bool(terminated),
    )


def _make(name: str | None) -> gymnasium.Env:
    if not name:
        raise DataError(
            "data.environment is not set; accepted: a Gymnasium id, such as Pendulum-v1"
        )
    try:
        return gymnasium.make(name, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:
        raise DataError(
            f"cannot make environment {name!r}{did_you_mean(name, gymnasium.registry)}: {error}"
        ) from error


def _observer(space: spaces.Space, name: str) -> Observe:
    """How an observation becomes named arrays: (D,) float32 vectors and uint8 images."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.items():
            _check_observation(inner, f"{name}: observation {key!r}")
        return lambda observation: {key: _copy(observation[key]) for key in space}
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
    """A copy, since environments may write the next observation into the same array."""
    return (
        np.array(value)
        if np.asarray(value).dtype == np.uint8
        else np.array(value, np.float32).reshape(-1)
    )


def _actor(space: spaces.Space, name: str) -> tuple[ActionSpec, ActFunction]:
    """The actions as logged, and how one becomes what `step` takes."""
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


def _progress(episodes: int, task: str) -> Iterator[int]:
    """0 to episodes - 1, with a bar on a terminal, else a line at the start and one at the end."""
    if sys.stderr.isatty():
        yield from track(range(episodes), task, console=Console(stderr=True))
        return
    print(task, file=sys.stderr, flush=True)
    yield from range(episodes)
    print(f"collected {episodes} episodes", file=sys.stderr, flush=True)
