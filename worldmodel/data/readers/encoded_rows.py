"""Rows of different lengths that lie end to end in one array of bytes, with their offsets: encoded
images, as `jpeg` (bytes,) with `offsets` (N + 1,).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from worldmodel.errors import DataError

NAMES = ("jpeg", "jpg", "png", "image", "images", "frames", "observations", "obs", "observation")
OFFSETS = "offsets"


def offsets_of(names: Iterable[str]) -> dict[str, str]:
    """Returns the name of bytes -> that of their offsets: `NAME_offsets`, or `offsets` for the only
    one of `NAMES` that is there.
    """
    names = list(names)
    found = {name: f"{name}_{OFFSETS}" for name in names if f"{name}_{OFFSETS}" in names}
    usual = [name for name in names if name in NAMES and name not in found]
    if OFFSETS in names and len(usual) == 1:
        found[usual[0]] = OFFSETS
    return found


def observation_name(name: str) -> str:
    """The name of the observation that bytes become, as `arrays.py` takes it."""
    return (
        "observations/image" if name in NAMES else f"observations/{name.partition('/')[2] or name}"
    )


def joined(arrays: Mapping[str, Any], offsets: Mapping[str, str]) -> dict[str, Any]:
    """The arrays with rows of bytes in place of flat ones.

    Raises DataError for offsets that do not fit.
    """
    rows = {}
    for name, value in arrays.items():
        if name in offsets:
            rows[observation_name(name)] = EncodedRows(
                value, arrays[offsets[name]], name, offsets[name]
            )
        elif name not in offsets.values():
            rows[name] = value
    return rows


class EncodedRows:
    """An array (N,) of bytes, of which slices are read.

    values: (bytes,) uint8, in memory or on disk
    offsets: (N + 1,) where each row begins, and where the last one ends
    name, offsets_name: of them, for messages
    """

    dtype, ndim = np.dtype(object), 1

    def __init__(self, values: Any, offsets: Any, name: str, offsets_name: str):
        offsets = np.asarray(offsets[:])
        if values.dtype != np.uint8 or values.ndim != 1:
            raise DataError(
                f"{name} is {values.dtype} of shape {values.shape}; accepted: bytes, uint8 (n,), "
                f"that {offsets_name} divides into rows"
            )
        integers = offsets.dtype.kind in "iu" and offsets.ndim == 1 and len(offsets) > 1
        if not integers or not _rise(offsets, len(values)):
            raise DataError(
                f"{offsets_name} is {offsets.dtype} of shape {offsets.shape}; accepted: integers "
                f"(rows + 1,) that rise from 0 to {len(values)}, the length of {name}"
            )
        self.values, self.offsets = values, offsets.astype(np.int64)
        self.shape = (len(offsets) - 1,)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        begin, end, _ = rows.indices(len(self))
        content = np.asarray(self.values[self.offsets[begin] : self.offsets[end]]).tobytes()
        places = (self.offsets[begin : end + 1] - self.offsets[begin]).tolist()
        out = np.empty(end - begin, object)
        out[:] = [content[a:b] for a, b in zip(places[:-1], places[1:], strict=True)]
        return out


def _rise(offsets: np.ndarray, end: int) -> bool:
    """Whether integers rise from 0 to `end`."""
    return offsets[0] == 0 and offsets[-1] == end and bool((offsets[1:] >= offsets[:-1]).all())
