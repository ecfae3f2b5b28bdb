"""Gymnasium's action spaces as actions of a dataset, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from worldmodel.data.action_spec import LARGEST, ActionSpec
from worldmodel.data.spaces import ACCEPTED, Convert, Keys, walk
from worldmodel.errors import DataError


class Leaf(NamedTuple):
    """A part of an action space: where it is, its specs by name, and the first class of each of its
    columns (0 of numbers).
    """

    path: Keys
    space: spaces.Space
    parts: dict[str, ActionSpec]
    start: np.ndarray


def action_converter(space: spaces.Space, source: str) -> tuple[ActionSpec, Convert]:
    """Returns the spec of a space, and how to convert logged actions to arrays (T, K), or classes
    (T,). Infinite bounds stay open: the data give them.

    Raises DataError for spaces other than `ACCEPTED`.
    """
    leaves = _leaves(space, source)
    spec = _spec(space, leaves)

    def convert(actions: Any) -> np.ndarray:
        if spec.discrete:
            return np.asarray(actions) - leaves[0].start
        columns = []
        for leaf in leaves:
            values = actions
            for key in leaf.path:
                values = values[key]
            rows = np.asarray(values).reshape(-1, len(leaf.start))
            columns.append((rows - leaf.start if leaf.start.any() else rows).astype(np.float32))
        return columns[0] if len(columns) == 1 else np.concatenate(columns, 1)

    return spec, convert


def logged_actions(space: spaces.Space) -> ActionSpec | None:
    """The spec of actions that were logged as the space has them; None where its classes begin at
    another number than 0, or where it is not accepted.
    """
    try:
        leaves = _leaves(space, "action")
        return None if any(leaf.start.any() for leaf in leaves) else _spec(space, leaves)
    except DataError:
        return None


def action_of_step(space: spaces.Space, action: Any) -> Any:
    """The inverse for one action (K,) of a dataset: as `step` of an environment accepts it, within
    the bounds of its space.
    """
    if isinstance(space, spaces.Discrete):
        return int(action + space.start)
    columns, values = np.asarray(action).reshape(-1), {}
    for leaf in _leaves(space, "action"):
        own, columns = np.split(columns, [len(leaf.start)])
        values[leaf.path] = _value(leaf, own)
    return _nested(space, (), values)


def action_mismatch(space: spaces.Space, action: ActionSpec) -> str | None:
    """What a space accepts in place of the actions of a dataset, in words; None if it fits."""
    try:
        spec = _spec(space, _leaves(space, "action"))
    except DataError:
        return str(space)
    same = spec.discrete == action.discrete and spec.classes == action.classes
    return None if same else spec.describe()


def _leaves(space: spaces.Space, source: str) -> list[Leaf]:
    return [_leaf(leaf, path, source) for path, leaf in walk(space)]


def _leaf(space: spaces.Space, path: Keys, source: str) -> Leaf:
    name = "/".join(map(str, path))
    if isinstance(space, spaces.Box):
        numbers = _numbers(space)
        return Leaf(path, space, {name: numbers}, np.zeros(numbers.size, int))
    if isinstance(space, spaces.Discrete):
        counts, start = {name: int(space.n)}, np.array([space.start])
    elif isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        choices = space.nvec if isinstance(space, spaces.MultiDiscrete) else np.full(space.n, 2)
        prefix = f"{name}/" if name else ""
        counts = {f"{prefix}{k}": int(n) for k, n in enumerate(np.reshape(choices, -1))}
        start = np.broadcast_to(getattr(space, "start", 0), np.shape(choices)).reshape(-1)
    else:
        raise DataError(f"{source}: action is {space}; accepted: {ACCEPTED}")
    return Leaf(path, space, {key: ActionSpec(True, n) for key, n in counts.items()}, start)


def _numbers(space: spaces.Box) -> ActionSpec:
    """The bounds of a Box; those as wide as float32 count as infinite, and those of no width."""
    with np.errstate(over="ignore"):
        low, high = (np.float32(bound).reshape(-1) for bound in (space.low, space.high))
    low, high = np.where(low < -LARGEST, -np.inf, low), np.where(high > LARGEST, np.inf, high)
    empty = low >= high
    low, high = np.where(empty, -np.inf, low), np.where(empty, np.inf, high)
    return ActionSpec(False, len(low), tuple(low.tolist()), tuple(high.tolist()))


def _spec(space: spaces.Space, leaves: list[Leaf]) -> ActionSpec:
    """One vector or one class where the space is one, else its parts."""
    parts = [item for leaf in leaves for item in leaf.parts.items()]
    if isinstance(space, spaces.Box | spaces.Discrete):
        return parts[0][1]
    if len(dict(parts)) < len(parts) or not parts:
        raise DataError(f"action is {space}; accepted: {ACCEPTED}, with parts of different names")
    return ActionSpec.of_parts(dict(parts))


def _value(leaf: Leaf, columns: np.ndarray) -> Any:
    """The columns of a leaf in its own shape and type."""
    space = leaf.space
    if isinstance(space, spaces.Discrete):
        return int(np.rint(columns[0]) + leaf.start[0])
    if isinstance(space, spaces.Box):
        values = np.clip(columns.reshape(space.shape), space.low, space.high)
        whole = np.issubdtype(space.dtype, np.integer)
        return (np.rint(values) if whole else values).astype(space.dtype)
    return (np.rint(columns) + leaf.start).reshape(space.shape).astype(space.dtype)


def _nested(space: spaces.Space, path: Keys, values: dict[Keys, Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _nested(leaf, (*path, key), values) for key, leaf in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nested(leaf, (*path, k), values) for k, leaf in enumerate(space))
    return values[path]
