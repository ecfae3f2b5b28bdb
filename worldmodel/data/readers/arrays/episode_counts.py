"""Short arrays of integers that tell of episodes: how long each is, or where it ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from worldmodel.errors import DataError


def lengths_by_ends(values: np.ndarray, count: int) -> np.ndarray | None:
    """Returns the lengths where `values` are the ends of episodes, as the last row of each or the
    row after it, in `count` rows; None if they are not.

    Example:
        >>> lengths_by_ends(np.array([3, 7]), 7).tolist(), lengths_by_ends(np.array([3, 4]), 7)
        ([3, 4], None)
    """
    if not len(values) or values[-1] not in (count - 1, count):
        return None
    lengths = np.diff(values.astype(np.int64), prepend=int(values[-1]) - count)
    return lengths if (lengths > 0).all() else None


def check_counts(
    shapes: Mapping[str, tuple[int, ...]],
    read: Collection[str],
    opened: Callable[[str], Any],
    last: np.ndarray,
) -> None:
    """Asks about an array that is not read and tells of other episodes than those that are.

    Args:
        shapes: of the arrays of the file
        read: the names of those that are read, or that `data.roles` names
        opened: loads an array by its name; may raise any exception
        last: (episodes,) the last row of each episode as it is read, the final one that of the log

    Raises:
        DataError: the question
    """
    count = int(last[-1]) + 1
    for name, shape in shapes.items():
        if name in read or len(shape) != 1 or not 1 < shape[0] <= count / 2:
            continue
        try:
            values = np.asarray(opened(name))
        except Exception:  # damage in what is not read
            continue
        if values.dtype.kind not in "iu" or (values < 0).any():
            continue
        summed = int(values.sum()) == count and (values > 0).all()
        lengths = values.astype(np.int64) if summed else lengths_by_ends(values, count)
        if lengths is not None and not np.isin(np.cumsum(lengths) - 1, last).all():
            raise DataError(
                f"{name} holds {len(values)} integers that {'sum to' if summed else 'end at'} the "
                f"{count} rows, and is not read: data.roles={{{name}: length}} reads "
                f"{len(values)} episodes, data.roles={{{name}: ignore}} leaves it out"
            )
