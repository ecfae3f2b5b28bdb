"""Who acts: the run's policy, chance, nobody, or whoever types. All are `ActFunction`s, in raw units."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.environments.real import Observation
from worldmodel.errors import ConfigError
from worldmodel.evaluation.returns import ActFunction, FeaturePolicy, model_policy, random_policy
from worldmodel.loading import LoadedRun


class UserQuit(Exception):
    """Whoever types has left."""


def make_action_source(kind: str, run: LoadedRun) -> ActFunction:
    """The one called `kind`. Raises ConfigError where a run has no policy."""
    if kind == "policy":
        require_policy(run)
        return model_policy(run.model, FeaturePolicy(run.policy), run.spec)
    if kind == "random":
        return random_policy(run.spec)
    if kind == "keyboard":
        return keyboard_policy(run.spec, sys.stdin)
    return zero_policy(run.spec)


def require_policy(run: LoadedRun) -> None:
    if run.policy is None:
        raise ConfigError(
            f"actions=policy: {run.directory.path} has no policy; accepted: the other choices"
        )


def zero_action(action: ActionSpec) -> np.ndarray:
    """The action nearest to nothing: zeros within the bounds, or the first class."""
    if action.discrete:
        return np.zeros((), np.int32)
    return np.clip(np.zeros(action.size, np.float32), action.low, action.high).astype(np.float32)


def zero_policy(spec: DataSpec) -> ActFunction:
    """Takes the zero action."""
    nothing = zero_action(spec.action)

    def act(
        memory: Any, observation: Observation, seeds: np.ndarray, step: int
    ) -> tuple[Any, np.ndarray]:
        return memory, np.stack([nothing] * len(seeds))

    return act


def keyboard_policy(spec: DataSpec, source: TextIO) -> ActFunction:
    """Takes what is typed, a line a step: the action's numbers or the class. An empty line repeats
    the last action. Raises UserQuit at `q`, at Ctrl-C and where the lines end.
    """
    actions = _read(spec.action, source)

    def act(
        memory: Any, observation: Observation, seeds: np.ndarray, step: int
    ) -> tuple[Any, np.ndarray]:
        return memory, next(actions)[None]

    return act


def _read(action: ActionSpec, source: TextIO) -> Iterator[np.ndarray]:
    last, prompt = zero_action(action), f"{action_format(action)}, empty: as before, q: leave > "
    while True:
        if source.isatty():
            print(prompt, end="", file=sys.stderr, flush=True)
        try:
            line = source.readline()
        except KeyboardInterrupt:
            raise UserQuit from None
        if not line or line.strip().lower() == "q":
            raise UserQuit
        taken = parse_action(line, action, last)
        if taken is None:
            print(f"{line.strip()}: accepted: {action_format(action)}", file=sys.stderr)
            continue
        last = taken
        yield last


def parse_action(line: str, action: ActionSpec, last: np.ndarray) -> np.ndarray | None:
    """The action that a line says, `last` where it is empty; None where it says none. Numbers
    beyond the bounds are taken as the bounds.
    """
    words = line.replace(",", " ").split()
    if not words:
        return last
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        return None
    if not np.isfinite(numbers).all() or len(numbers) != (1 if action.discrete else action.size):
        return None
    if not action.discrete:
        return np.clip(numbers, action.low, action.high).astype(np.float32)
    is_class = numbers[0] in range(action.size)
    return numbers[0].astype(np.int32) if is_class else None


def action_format(action: ActionSpec) -> str:
    """In words, what may be typed."""
    if action.discrete:
        return f"a class from 0 to {action.size - 1}"
    bounds = {*zip(action.low, action.high, strict=True)}
    within = f" in [{action.low[0]:g}, {action.high[0]:g}]" if len(bounds) == 1 else ""
    return f"{action.size} number{'s' if action.size > 1 else ''}{within}"
