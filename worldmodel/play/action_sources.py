"""Sources of actions: the run's policy, random or zero actions, or the keyboard. Each is an
`ActFunction` in raw units.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
from flax import nnx

from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.environments.real import Observation
from worldmodel.errors import ConfigError, printable
from worldmodel.evaluation.returns import ActFunction, FeaturePolicy, model_policy, random_policy
from worldmodel.loading import LoadedRun


class UserQuit(Exception):
    """The user at the keyboard has quit."""


def make_action_source(kind: str, run: LoadedRun) -> ActFunction:
    """The source `kind`: policy, random, keyboard or zero. Raises ConfigError for the policy of a
    run that has none.
    """
    if kind == "policy":
        return model_policy(run.model, FeaturePolicy(require_policy(run)), run.spec)
    if kind == "random":
        return random_policy(run.spec)
    if kind == "keyboard":
        if sys.stdin is None:
            raise ConfigError("actions=keyboard: there is no standard input; accepted: others")
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")  # bytes that are no text are no action
        return keyboard_policy(run.spec, sys.stdin)
    return zero_policy(run.spec)


def require_policy(run: LoadedRun) -> nnx.Module:
    """The run's policy. Raises ConfigError if it has none."""
    if run.policy is None:
        raise ConfigError(
            f"actions=policy: {run.directory.path} has no policy; accepted: the other choices"
        )
    return run.policy


def zero_action(action: ActionSpec) -> np.ndarray:
    """Zeros, clipped to the bounds, or the first class, also in columns."""
    if action.discrete:
        return np.zeros((), np.int32)
    return np.clip(np.zeros(action.size, np.float32), action.low, action.high).astype(np.float32)


def zero_policy(spec: DataSpec) -> ActFunction:
    """Takes the zero action."""
    zero = zero_action(spec.action)

    def act(
        memory: Any, observation: Observation, seeds: np.ndarray, step: int
    ) -> tuple[Any, np.ndarray]:
        return memory, np.stack([zero] * len(seeds))

    return act


def keyboard_policy(spec: DataSpec, source: TextIO) -> ActFunction:
    """Reads an action from each line of `source`: its numbers or its class. An empty line repeats
    the last action. Raises UserQuit at `q`, at Ctrl-C and at the end of `source`.
    """
    actions = _read(spec.action, source)

    def act(
        memory: Any, observation: Observation, seeds: np.ndarray, step: int
    ) -> tuple[Any, np.ndarray]:
        return memory, next(actions)[None]

    return act


def _read(action: ActionSpec, source: TextIO) -> Iterator[np.ndarray]:
    last, accepted = zero_action(action), action_format(action)
    while True:
        if source.isatty():
            print(f"{accepted} (empty: repeat, q: quit) > ", end="", file=sys.stderr, flush=True)
        try:
            line = source.readline()
        except KeyboardInterrupt:
            raise UserQuit from None
        if not line or line.strip().lower() == "q":
            raise UserQuit
        parsed = parse_action(line, action, last)
        if parsed is None:
            print(f"{printable(line.strip())}: accepted: {accepted}", file=sys.stderr)
            continue
        last = parsed
        yield last


def parse_action(line: str, action: ActionSpec, last: np.ndarray) -> np.ndarray | None:
    """The action of a line, `last` if it is empty, or None if it is invalid. Numbers outside the
    bounds are clipped.
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
        if any(action.classes) and action.no_classes(numbers).any():
            return None
        return np.clip(numbers, action.low, action.high).astype(np.float32)
    is_class = numbers[0] in range(action.size)
    return numbers[0].astype(np.int32) if is_class else None


def action_format(action: ActionSpec) -> str:
    """A description of the accepted input."""
    if action.discrete:
        return f"a class from 0 to {action.size - 1}"
    if action.kind == "mixed":
        return f"{action.size} numbers: {action.describe()}"
    bounds = {*zip(action.low, action.high, strict=True)}
    within = f" in [{action.low[0]:g}, {action.high[0]:g}]" if len(bounds) == 1 else ""
    return f"{action.size} number{'s' if action.size > 1 else ''}{within}"
