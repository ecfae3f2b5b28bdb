"""Actions that are several arrays, `actions/NAME` each, as the columns of one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from worldmodel.errors import DataError

MAX_SHOWN_CLASSES = 256  # that a message proposes


class JoinedActions:
    """Arrays (N, ...) side by side, in the order of their names: (N, K), sliced as an array is."""

    def __init__(self, arrays: Mapping[str, Any]):
        self.arrays = dict(sorted(arrays.items()))
        rows = {name: len(value) for name, value in self.arrays.items()}
        if len({*rows.values()}) > 1:
            counted = ", ".join(f"{name} has {count}" for name, count in rows.items())
            raise DataError(f"{counted} rows; accepted: as many in each")
        self.widths = {name: math.prod(value.shape[1:]) for name, value in self.arrays.items()}
        self.shape = (next(iter(rows.values())), sum(self.widths.values()))
        self.ndim = 2
        self.dtype = np.result_type(*(value.dtype for value in self.arrays.values()))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        parts = [
            np.asarray(value[rows]).reshape(-1, self.widths[name])
            for name, value in self.arrays.items()
        ]
        return np.concatenate(parts, 1)

    def check_declared(self, classes: list[int] | None) -> None:
        """Raises DataError for integers beside numbers, unless `data.classes` says what they are:
        once joined, they look alike.
        """
        integers = {n: v for n, v in self.arrays.items() if v.dtype.kind in "iub"}
        if classes is not None or len(integers) in (0, len(self.arrays)):
            return
        counts = [
            min(int(np.max(integers[name][:], initial=0)) + 1, MAX_SHOWN_CLASSES)
            if name in integers
            else 0
            for name, width in self.widths.items()
            for _ in range(width)
        ]
        raise DataError(
            f"{', '.join(integers)} hold integers beside numbers, which may be classes or numbers; "
            f"accepted: data.classes, with a count of classes for each column of "
            f"{', '.join(self.arrays)}, and 0 for a number, such as "
            f"data.classes=[{','.join(map(str, counts))}]"
        )
