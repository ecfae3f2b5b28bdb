"""Gymnasium spaces as named observations and actions of a dataset."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from worldmodel.data.episodes import MAX_CLASSES
from worldmodel.data.readers.sizes import check_memory
from worldmodel.data.spec import ActionSpec
from worldmodel.errors import DataError

logger = logging.getLogger(__name__)

Keys = tuple[str | int, ...]  # path of a leaf in nested dicts and tuples
Convert = Callable[[Any], np.ndarray]  # from logged values to an array with one entry per step


class Part(NamedTuple):
    """A named part of the observation: its path, and how to convert it to numbers."""

    path: Keys
    convert: Convert

    def of(self, observations: Any) -> np.ndarray:
        """(T+1, ...) this part of the logged `observations`."""
        for key in self.path:
            observations = observations[key]
        return self.convert(observations)


def observation_parts(space: spaces.Space, source: str) -> dict[str, Part]:
    """Returns name -> part of the observation; '/' joins nested names.

    Accepts Box, Discrete (as one-hot vectors), MultiBinary, and Dict and Tuple of these. Text is
    left out with a warning. Raises DataError for other spaces.
    """
    parts = {}
    for path, leaf in _leaves(space):
        name = "/".join(map(str, path)) or ("image" if _is_image(leaf) else "observation")
        if isinstance(leaf, spaces.Text):
            logger.warning("%s: observation %r is text and is left out", source, name)
        else:
            parts[name] = Part(path, _converter(leaf, name, source))
    if not parts:
        raise DataError(f"{source}: no numeric observations; accepted: vectors, uint8 images")
    return parts


def _leaves(space: spaces.Space, path: Keys = ()) -> Iterator[tuple[Keys, spaces.Space]]:
    if isinstance(space, spaces.Dict):
        inner = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        inner = list(enumerate(space.spaces))
    else:
        yield path, space
        return
    for key, leaf in inner:
        yield from _leaves(leaf, (*path, key))


def _is_image(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def _converter(space: spaces.Space, name: str, source: str) -> Convert:
    if isinstance(space, spaces.Box) and _is_image(space):  # (height, width), or with channels
        shape = (*space.shape, 1)[:3]
        return lambda values: np.asarray(values).reshape(-1, *shape)
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return np.asarray
    if isinstance(space, spaces.Discrete):
        if space.n > MAX_CLASSES:
            raise DataError(
                f"{source}: observation {name!r} has {space.n:,} classes; accepted: at most "
                f"{MAX_CLASSES:,}"
            )
        return lambda values: _one_hot(np.asarray(values), space, name)
    raise DataError(
        f"{source}: observation {name!r} is {space}; "
        "accepted: Box, Discrete, MultiBinary, and Dict or Tuple of those"
    )


def _one_hot(classes: np.ndarray, space: spaces.Discrete, name: str) -> np.ndarray:
    """(T+1,) classes to (T+1, n) float32."""
    check_memory(5 * len(classes) * int(space.n), f"observation {name!r} as one-hot vectors")
    accepted = np.arange(space.start, space.start + space.n)
    hot = classes.reshape(-1, 1) == accepted
    wrong = np.flatnonzero(~hot.any(axis=1))
    if len(wrong):
        raise DataError(
            f"observation {name!r} is {classes[wrong[0]]} at step {wrong[0]}; "
            f"accepted: {accepted[0]} to {accepted[-1]}"
        )
    return hot.astype(np.float32)


def action_converter(space: spaces.Space, source: str) -> tuple[ActionSpec | None, Convert]:
    """Returns the declared spec (None without finite bounds), and how to convert logged actions.

    Raises DataError for spaces other than Box and Discrete.
    """
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return ActionSpec(True, int(space.n)), lambda actions: np.asarray(actions) - start
    if not isinstance(space, spaces.Box):
        raise DataError(f"{source}: action is {space}; accepted: Box or Discrete")
    low, high = (bound.astype(np.float32).reshape(-1) for bound in (space.low, space.high))
    with np.errstate(over="ignore"):  # bounds as wide as float32 count as none
        bounded = bool(np.all(np.isfinite(high - low) & (low < high)))
    bounds = tuple(low.tolist()), tuple(high.tolist())
    spec = ActionSpec(False, len(low), *bounds) if bounded else None
    return spec, lambda actions: _vectors(actions, len(low))


def _vectors(actions: Any, size: int) -> np.ndarray:
    return np.asarray(actions, np.float32).reshape(-1, size)
