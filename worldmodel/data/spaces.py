"""Gymnasium spaces as named observations and actions of a dataset.

The one conversion of readers, of collected episodes and of environments that agents act in: what an
environment shows has the names and numbers that its logs have.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from worldmodel.data.action_inference import MAX_CLASSES
from worldmodel.data.observations import ObservationChoice
from worldmodel.data.readers.sizes import check_memory
from worldmodel.errors import DataError

logger = logging.getLogger(__name__)

Keys = tuple[str | int, ...]  # path of a leaf in nested dicts and tuples
Convert = Callable[[Any], np.ndarray]  # from logged values to an array with one entry per step
ACCEPTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of those"


class Part(NamedTuple):
    """A named part of the observation: its path, its space, and how to convert it to numbers."""

    name: str
    path: Keys
    space: spaces.Space
    convert: Convert

    def of(self, observations: Any) -> np.ndarray:
        """(T+1, ...) this part of the logged `observations`."""
        return self.convert(self._value(observations))

    def of_step(self, observation: Any) -> np.ndarray:
        """(...) a copy of this part of one `observation`, as an environment returns it.

        Raises DataError for a value of another shape or type than its space.
        """
        try:
            value = np.asarray(self._value(observation))
        except (KeyError, IndexError, TypeError, ValueError):
            raise DataError(f"observation {self.name!r} is missing") from None
        declared = self.space.shape or ()
        if without_ones(value.shape) != without_ones(declared):
            raise DataError(
                f"observation {self.name!r} has shape {value.shape}; its space has {declared}"
            )
        numbers = "iub" if np.issubdtype(self.space.dtype, np.integer) else "fiub"
        if value.dtype.kind not in numbers:
            raise DataError(
                f"observation {self.name!r} is {value.dtype}; its space has {self.space.dtype}"
            )
        return np.array(self.convert(value.reshape(1, *declared))[0])

    def _value(self, observations: Any) -> Any:
        for key in self.path:
            observations = observations[key]
        return observations


def observation_parts(
    space: spaces.Space, source: str, choice: ObservationChoice | None = None
) -> dict[str, Part]:
    """Returns name -> part of the observation, of those chosen; '/' joins nested names.

    Accepts Box, Discrete and MultiDiscrete (as one-hot vectors), MultiBinary, and Dict and Tuple of
    these. Text is left out with a warning. Raises DataError for other spaces.
    """
    parts, found = {}, leaves(space)
    for name in (choice or ObservationChoice()).among(found):
        path, leaf = found[name]
        if isinstance(leaf, spaces.Text):
            logger.warning("%s: observation %r is text and is left out", source, name)
        else:
            parts[name] = part_of(name, path, leaf, source)
    if not parts:
        raise DataError(f"{source}: no numeric observations; accepted: vectors, uint8 images")
    return parts


def leaves(space: spaces.Space) -> dict[str, tuple[Keys, spaces.Space]]:
    """Returns name -> path and space of what is no Dict or Tuple; '/' joins nested names."""
    return {
        "/".join(map(str, path)) or ("image" if is_image(leaf) else "observation"): (path, leaf)
        for path, leaf in walk(space)
    }


def walk(space: spaces.Space, path: Keys = ()) -> Iterator[tuple[Keys, spaces.Space]]:
    """Yields path and space of what is no Dict or Tuple."""
    if isinstance(space, spaces.Dict):
        inner = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        inner = list(enumerate(space.spaces))
    else:
        yield path, space
        return
    for key, leaf in inner:
        yield from walk(leaf, (*path, key))


def is_image(space: spaces.Space) -> bool:
    """Whether a space holds uint8 images, (height, width) or (height, width, channels)."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def part_of(name: str, path: Keys, space: spaces.Space, source: str) -> Part:
    """The part of an observation at `path`. Raises DataError for a space that is not accepted."""
    return Part(name, path, space, _converter(space, name, source))


def _converter(space: spaces.Space, name: str, source: str) -> Convert:
    if isinstance(space, spaces.Box) and is_image(space):  # (height, width), or with channels
        shape = (*space.shape, 1)[:3]
        return lambda values: np.asarray(values).reshape(-1, *shape)
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return np.asarray
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        choices = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec)
        starts = np.broadcast_to(space.start, choices.shape).reshape(-1)
        choices = choices.reshape(-1)
        if (total := int(choices.sum())) > MAX_CLASSES:
            raise DataError(
                f"{source}: observation {name!r} has {total:,} classes; accepted: at most "
                f"{MAX_CLASSES:,}"
            )
        return lambda values: _one_hot(np.asarray(values), choices, starts, name)
    raise DataError(f"{source}: observation {name!r} is {space}; accepted: {ACCEPTED}")


def _one_hot(classes: np.ndarray, choices: np.ndarray, starts: np.ndarray, name: str) -> np.ndarray:
    """(T+1, K) choices among as many classes as `choices` (K,) says to (T+1, sum) float32."""
    check_memory(5 * len(classes) * int(choices.sum()), f"observation {name!r} as one-hot vectors")
    columns = classes.reshape(len(classes), len(choices))
    hot = []
    for column, count, start in zip(columns.T, choices, starts, strict=True):
        accepted = np.arange(start, start + count)
        hot.append(column[:, None] == accepted)
        wrong = np.flatnonzero(~hot[-1].any(axis=1))
        if len(wrong):
            raise DataError(
                f"observation {name!r} is {column[wrong[0]]} at step {wrong[0]}; "
                f"accepted: {accepted[0]} to {accepted[-1]}"
            )
    return np.concatenate(hot, axis=1).astype(np.float32)


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes of size 1."""
    return tuple(size for size in shape if size != 1)
