"""The actions of a dataset: numbers between bounds, classes, or parts of both kinds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from worldmodel.errors import ArgumentError, DataError, did_you_mean, require

LARGEST = 1e38  # of float32 numbers whose differences, too, are finite


@dataclass(frozen=True, repr=False)
class ActionSpec:
    """The actions of a dataset: `size` classes, or vectors (size,) between `low` and `high`.

    An action of several parts, such as a throttle and a gear, is one vector (size,): each number of
    a continuous part has a column, and each choice among classes has one, which holds the class.
    `ActionSpec.of_parts` makes such a spec.

    Attributes:
        discrete: whether an action is one of `size` classes
        size: number of classes, or of columns K
        low: (K,) lower bounds in the data's own units; empty if discrete. An infinite one is open:
            the data give it
        high: (K,) upper bounds, likewise
        parts: (name, spec) of each part, in the order of the columns; '/' joins nested names.
            Empty: an action is one vector, or one class

    Raises:
        DataError: a size below 1, bounds that are not numbers with low < high, or parts that are
            not those of the columns

    Example:
        >>> import numpy as np
        >>> from worldmodel.data import ActionSpec
        >>> torque = ActionSpec(discrete=False, size=1, low=(-2.0,), high=(2.0,))
        >>> torque.normalize(np.array([[1.0]])).tolist()
        [[0.5]]
        >>> torque.denormalize(np.array([[3.0]])).tolist()
        [[2.0]]
    """

    discrete: bool
    size: int
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    parts: tuple[tuple[str, ActionSpec], ...] = ()

    def __post_init__(self):
        if not positive_integers((self.size,)):
            raise DataError(f"action size is {self.size}; accepted: at least 1")
        accepted = 0 if self.discrete else self.size
        if not np.shape(self.low) == np.shape(self.high) == (accepted,):
            raise DataError(
                f"action has {np.size(self.low)} low, {np.size(self.high)} high bounds; "
                f"accepted: {accepted}"
            )
        for dimension, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            with np.errstate(over="ignore", invalid="ignore"):  # in float32, as they are normalized
                width = np.float64(np.float32(high)) - np.float32(low)
            is_open = math.isinf(low) or math.isinf(high)
            if not (low < high if is_open else 0 < width <= 2 * LARGEST):
                raise DataError(
                    f"action {dimension} has low {low} and high {high}; "
                    "accepted: finite, low < high"
                )
        columns = sum(part.num_columns for _, part in self.parts)
        nested = any(part.parts for _, part in self.parts)
        if self.parts and (self.discrete or nested or columns != self.size):
            raise DataError(
                f"action has {len(self.parts)} parts of {columns} columns; accepted: {self.size} "
                "columns, and parts without parts"
            )
        if len({name for name, _ in self.parts}) < len(self.parts):
            raise DataError("action has two parts of one name; accepted: a name for each")

    def __repr__(self) -> str:
        fields = f"discrete={self.discrete!r}, size={self.size!r}, low={self.low!r}"
        parts = f", parts={self.parts!r}" if self.parts else ""  # datasets are recognized by it
        return f"ActionSpec({fields}, high={self.high!r}{parts})"

    @classmethod
    def of_parts(cls, parts: Mapping[str, ActionSpec]) -> ActionSpec:
        """Returns the spec of an action of named parts: vectors and choices among classes.

        Example:
            >>> from worldmodel.data import ActionSpec
            >>> steering = ActionSpec(discrete=False, size=1, low=(-1.0,), high=(1.0,))
            >>> car = ActionSpec.of_parts({"gear": ActionSpec(True, 5), "steering": steering})
            >>> car.size, car.vector_size, car.kind
            (2, 6, 'mixed')
        """
        bounds = [pair for part in parts.values() for pair in _column_bounds(part)]
        low, high = (tuple(side) for side in zip(*bounds, strict=True))
        return cls(False, len(low), low, high, tuple(parts.items()))

    @classmethod
    def of_columns(cls, classes: Sequence[int], low: Any, high: Any) -> ActionSpec:
        """Returns the spec of columns that are choices among so many classes each, or, where
        `classes` is 0, numbers between `low` and `high`, (K,) each; their names are '0', '1', ...
        """
        return cls.of_parts(
            {
                str(k): cls(True, n) if n else cls(False, 1, (float(low[k]),), (float(high[k]),))
                for k, n in enumerate(classes)
            }
        )

    # ----------------------------------------------------------------------------- shapes and kinds

    @property
    def kind(self) -> str:
        """`discrete` (one class), `continuous` (numbers alone), or `mixed`: choices among classes,
        several or beside numbers.
        """
        if self.discrete:
            return "discrete"
        return "mixed" if any(self.classes) else "continuous"

    @property
    def num_columns(self) -> int:
        return 1 if self.discrete else self.size

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an action in arrays: () of a class, else (K,)."""
        return () if self.discrete else (self.size,)

    @property
    def dtype(self) -> type[np.generic]:
        """The type of actions in arrays: int32 of classes, else float32."""
        return np.int32 if self.discrete else np.float32

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """(K,) number of classes of each column, 0 of numbers."""
        if self.discrete:
            return (self.size,)
        each = [p.classes for _, p in self.parts] if self.parts else [(0,) * self.size]
        return tuple(n for part in each for n in part)

    @property
    def vector_size(self) -> int:
        """The size A of actions as vectors: numbers in [-1, 1], and classes one-hot."""
        return sum(n or 1 for n in self.classes)

    @property
    def is_open(self) -> bool:
        """Whether the data have to give bounds."""
        return not all(map(math.isfinite, (*self.low, *self.high)))

    def column_names(self) -> list[str]:
        """(K,) a name of each column: 'gear', 'force 0', 'force 1'; of a vector without parts its
        number.
        """
        if not self.parts:
            return [str(k) for k in range(self.num_columns)]
        return [
            name if part.num_columns == 1 else f"{name} {k}"
            for name, part in self.parts
            for k in range(part.num_columns)
        ]

    def describe(self) -> str:
        """In words, such as '5 classes' or 'gear (5 classes), force (2 numbers)'."""
        if self.discrete:
            return f"{self.size} classes"
        if not self.parts:
            return f"vectors of size {self.size}"
        words = {name: "classes" if part.discrete else "numbers" for name, part in self.parts}
        return ", ".join(f"{name} ({part.size} {words[name]})" for name, part in self.parts)

    # ----------------------------------------------------------------------------------- conversion

    def normalize(self, action: Any) -> Any:
        """Maps actions (..., K) from the data's own units to [-1, 1], as models and policies see
        them; classes (...) become int32, and those in columns stay as they are.

        Takes and returns a NumPy or a JAX array.
        """
        xp = np if not hasattr(action, "__array_namespace__") else action.__array_namespace__()
        if self.discrete:
            return xp.asarray(action, dtype=np.int32)
        shape = np.shape(action)
        require(shape[-1:] == (self.size,), "action", f"shape {shape}", f"(..., {self.size})")
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        action = xp.asarray(action, dtype=np.float32)
        scaled = ((action - low) / (high - low) * 2 - 1).astype(np.float32)
        return xp.where(self._choices, action, scaled) if any(self.classes) else scaled

    def denormalize(self, action: Any) -> np.ndarray:
        """The inverse of `normalize`, clipped to the bounds; classes in columns are rounded."""
        if self.discrete:
            return np.asarray(action)
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        action = np.asarray(action, np.float32)
        raw = low + (np.clip(action, -1, 1) + 1) / 2 * (high - low)
        return np.where(self._choices, self.clip(action), raw) if any(self.classes) else raw

    def clip(self, action: Any) -> Any:
        """Normalized actions as an environment receives them: numbers clipped to [-1, 1], classes
        in columns rounded to one that exists.

        Takes and returns a NumPy or a JAX array.
        """
        if self.discrete:
            return action
        if not any(self.classes):
            return action.clip(-1, 1)
        last = np.maximum(np.asarray(self.classes, np.float32) - 1, 0)
        whole = action.round().clip(0, last)
        return action.__array_namespace__().where(self._choices, whole, action.clip(-1, 1))

    def from_unit(self, values: Any) -> Any:
        """Normalized actions (..., K) for numbers (..., K) in [-1, 1]: a column of classes takes
        the class at that place of the range, so that uniform numbers give uniform classes.

        Takes and returns a NumPy or a JAX array.
        """
        classes = np.asarray(self.classes, np.float32)
        chosen = self.clip(((values + 1) / 2 * classes - 0.5).astype(np.float32))
        return values.__array_namespace__().where(self._choices, chosen, values)

    def no_classes(self, action: np.ndarray) -> np.ndarray:
        """Where raw actions (..., K) are none of their column's classes, bool (..., K)."""
        classes = np.asarray(self.classes)
        within = (action >= 0) & (action < classes) & (action == np.round(action))
        return self._choices & ~within

    def flatten(self, action: Any) -> Any:
        """Returns actions given by the names of their parts, or as a tuple in their order, as one
        array (..., K); an array is returned as it is.

        Each part is (..., size) of numbers, or (...) of classes. Nested dicts stand for names with
        '/', and one array (..., n) for n parts that are numbered.

        Raises:
            ArgumentError: names or shapes that are not those of the parts

        Example:
            >>> from worldmodel.data import ActionSpec
            >>> steering = ActionSpec(discrete=False, size=1, low=(-1.0,), high=(1.0,))
            >>> car = ActionSpec.of_parts({"gear": ActionSpec(True, 5), "steering": steering})
            >>> car.flatten({"gear": 3, "steering": [0.5]}).tolist()
            [3.0, 0.5]
        """
        if not isinstance(action, Mapping | tuple):
            return action
        if not self.parts:
            raise ArgumentError(
                f"action: a {type(action).__name__}; accepted: an array, since the actions of this "
                "dataset have no parts"
            )
        return join_parts(action, self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> ActionSpec:
        """Restores what `dataclasses.asdict` made."""
        parts = tuple((name, cls.from_json(part)) for name, part in raw.get("parts", ()))
        return cls(raw["discrete"], raw["size"], tuple(raw["low"]), tuple(raw["high"]), parts)

    # ---------------------------------------------------------------------------------------- parts

    @property
    def _choices(self) -> np.ndarray:
        """(K,) bool, the columns of classes."""
        return np.asarray(self.classes) > 0


def _column_bounds(part: ActionSpec) -> list[tuple[float, float]]:
    """The bounds of the columns of a part; a single class has a width, too."""
    if part.discrete:
        return [(0.0, float(max(part.size - 1, 1)))]
    return list(zip(part.low, part.high, strict=True))


def positive_integers(values: tuple[Any, ...]) -> bool:
    """Whether all are positive integers."""
    return all(isinstance(v, int | np.integer) and v > 0 for v in values)


# ------------------------------------------------------------------------ actions by names of parts


def join_parts(action: Mapping[str, Any] | tuple[Any, ...], spec: ActionSpec) -> Any:
    """The array (..., K) of an action given by parts. Raises ArgumentError."""
    parts = dict(spec.parts)
    if isinstance(action, tuple):
        names = list(dict.fromkeys(name.partition("/")[0] for name in parts))
        found = f"a tuple of {len(action)}"
        require(len(action) == len(names), "action", found, f"{len(names)}: {', '.join(names)}")
        action = dict(zip(names, action, strict=True))
    given = dict(_leaves(action))
    columns, covered = {}, []
    for path, value in given.items():
        below = [name for name in parts if name == path or name.startswith(f"{path}/")]
        require(bool(below), "action", f"{path!r}{did_you_mean(path, parts)}", ", ".join(parts))
        covered += below
        own, single = [parts[name] for name in below], below == [path] and parts[path].discrete
        columns[list(parts).index(below[0])] = _as_columns(path, value, own, single)
    if missing := [name for name in parts if covered.count(name) != 1]:
        problem = "is missing" if missing[0] not in covered else "is given twice"
        raise ArgumentError(f"action: {missing[0]!r} {problem}; accepted: {', '.join(parts)}")
    arrays = [columns[place] for place in sorted(columns)]
    shapes = {x.shape[:-1] for x in arrays}
    require(len(shapes) == 1, "action", f"parts of shapes {sorted(shapes)}", "one shape for all")
    xp = next((x.__array_namespace__() for x in arrays if not isinstance(x, np.ndarray)), np)
    return xp.concatenate(arrays, -1)


def _leaves(action: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(action, Mapping | tuple):
        yield path, action
        return
    inner = action.items() if isinstance(action, Mapping) else enumerate(action)
    for key, value in inner:
        yield from _leaves(value, f"{path}/{key}" if path else str(key))


def _as_columns(name: str, value: Any, parts: list[ActionSpec], single: bool) -> Any:
    """(..., n) float32, the columns of these parts, from (...) of a single class."""
    value = value if hasattr(value, "__array_namespace__") else np.asarray(value)
    count = sum(part.num_columns for part in parts)
    kinds, accepted = "iuf", f"numbers (..., {count})"
    if all(part.discrete for part in parts):
        kinds, accepted = "iub", "integers (...)" if single else f"integers (..., {count})"
    columns = value[..., None] if single else value
    fits = np.dtype(value.dtype).kind in kinds and columns.shape[-1:] == (count,)
    require(fits, f"action {name!r}", f"{value.dtype} {value.shape}", accepted)
    return columns.astype(np.float32)
