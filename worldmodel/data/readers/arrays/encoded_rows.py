"""Rows of different lengths that lie end to end in one array of bytes, with their offsets: encoded
images, as `jpeg` (bytes,) with `offsets` (N + 1,).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from worldmodel.errors import DataError

NAMES = ("jpeg", "jpg", "png", "image", "images", "frames")  # of bytes whose offsets are `offsets`
OFFSETS = "offsets"

Kinds = Mapping[str, tuple[tuple[int, ...], np.dtype]]  # name -> shape, type


def offsets_of(kinds: Kinds) -> dict[str, str]:
    """Returns the name of bytes -> that of their offsets: `NAME_offsets`, or `offsets` for the only
    one of `NAMES`.
    """
    rows = [k for k, (shape, dtype) in kinds.items() if len(shape) == 1 and dtype == np.uint8]
    found = {name: f"{name}_{OFFSETS}" for name in rows if f"{name}_{OFFSETS}" in kinds}
    usual = [name for name in rows if name in NAMES and name not in found]
    if OFFSETS in kinds and len(usual) == 1:
        found[usual[0]] = OFFSETS
    return found


def encoded_roles(offsets: Mapping[str, str]) -> dict[str, str]:
    """The roles of bytes and of their offsets, for `field_roles`."""
    return dict.fromkeys(offsets, "observation") | dict.fromkeys(offsets.values(), OFFSETS)


def joined(
    arrays: Mapping[str, Any], roles: Mapping[str, str], offsets: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Arrays and their roles with rows in place of bytes and their offsets.

    Raises DataError for offsets that do not fit.
    """
    ends_of_rows = {*offsets.values()}
    rows = {name: value for name, value in arrays.items() if name not in ends_of_rows}
    for name, ends in offsets.items():
        if name in rows:
            key = "image" if name in NAMES else name.partition("/")[2] or name
            rows[f"observations/{key}"] = EncodedRows(rows.pop(name), arrays[ends], name, ends)
    return rows, {name: roles.get(name, "observation") for name in rows}


class EncodedRows:
    """An array (N,) of bytes, of which slices are read.

    values: (n,) uint8, in memory or on disk
    offsets: (N + 1,) where each row begins, and where the last one ends
    name, offsets_name: of them, for messages
    """

    dtype, ndim = np.dtype(object), 1

    def __init__(self, values: Any, offsets: Any, name: str, offsets_name: str):
        offsets = np.asarray(offsets[:])
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
