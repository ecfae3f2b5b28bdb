"""What the columns of a pyarrow table hold, as NumPy arrays.

DataError names the column, the first row that does not fit (from 0), and what it holds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from worldmodel.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_CHARACTERS = 60  # of a name or a cell in a message
TICKS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def quoted(value: object) -> str:
    """A name or a cell as messages show it."""
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values in place of the codes of a dictionary, and text without spaces around it."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _is_text(column.type):
        column = compute.utf8_trim_whitespace(column.cast(pa.large_string()))
    return column


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_vector(kind: pa.DataType) -> bool:
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and types.is_primitive(kind.value_type)


def vectors(columns: dict[str, pa.ChunkedArray], names: Sequence[str]) -> np.ndarray:
    """(rows, D) float32: the columns side by side."""
    parts = [matrix(name, columns[name]) for name in names]
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and validation finds it
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")


def matrix(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """(rows, 1) float64, or (rows, D) of a column of lists that are D long."""
    from pyarrow import compute

    if not _is_vector(column.type):
        return _numbers(name, column)[:, None]
    lengths = compute.list_value_length(column).fill_null(0).to_numpy()
    if (uneven := np.flatnonzero(lengths != lengths[0])).size:
        row = int(uneven[0])
        raise DataError(
            f"column {quoted(name)} has {lengths[row]} numbers at row {row} and {lengths[0]} at "
            "row 0; accepted: lists of one length"
        )
    return _numbers(name, compute.list_flatten(column)).reshape(len(column), lengths[0])


def _numbers(name: str, column: pa.ChunkedArray, accepted: str = "numbers") -> np.ndarray:
    """(rows,) float64; what is missing is NaN, true is 1."""
    import pyarrow as pa

    return _cast(name, column, [pa.float64()], accepted).to_numpy()


def truths(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """(rows,) bool; what is missing is false."""
    import pyarrow as pa

    accepted = "true or false, 1 or 0"
    if _is_text(column.type):
        column = _cast(name, column, [pa.bool_()], accepted)
    values = np.nan_to_num(_numbers(name, column, accepted))
    if (others := np.flatnonzero((values != 0) & (values != 1))).size:
        raise _offence(name, column, int(others[0]), accepted)
    return values == 1


def seconds(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """(rows,) float64: numbers as they are, dates and times since the earliest one."""
    import pyarrow as pa
    from pyarrow import compute

    accepted = "numbers (seconds), or dates and times such as 2024-05-01T12:30:00.5"
    if _is_text(column.type):
        kinds = [pa.float64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC")]
        column = _cast(name, column, kinds, accepted)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if (unit := getattr(column.type, "unit", None)) is None:
        return _numbers(name, column, accepted)
    ticks = column.cast(pa.int32() if pa.types.is_time32(column.type) else pa.int64())
    earliest = compute.min(ticks)  # taken off as integers: a float keeps no nanoseconds since 1970
    return compute.subtract(ticks, earliest).to_numpy() / TICKS_PER_SECOND[unit]


def groups(name: str, column: pa.ChunkedArray) -> list[tuple[str, np.ndarray]]:
    """Each value, in order of first appearance, and its rows, in order."""
    import pyarrow as pa
    from pyarrow import compute

    missing = np.flatnonzero(compute.is_null(column, nan_is_null=True).to_numpy())
    if missing.size:
        raise _offence(name, column, int(missing[0]), "a value in every row")
    encoded = column.combine_chunks().dictionary_encode()  # numbers values as they appear
    values = encoded.dictionary.cast(pa.large_string()).to_pylist()
    codes = encoded.indices.to_numpy()
    rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    return list(zip(values, rows, strict=True))


def classes(name: str, values: np.ndarray) -> np.ndarray:
    """(T,) float32 whole numbers to int32. Raises DataError for others, and for missing ones."""
    whole = (values >= 0) & (values < 2**31) & (values == np.floor(values))
    if (others := np.flatnonzero(~whole)).size:
        row = int(others[0])
        held = "empty" if np.isnan(values[row]) else f"{values[row]:g}"
        raise DataError(
            f"column {quoted(name)} is {held} at row {row}; accepted: classes 0, 1, ..."
        )
    return values.astype(np.int32)


def _cast(
    name: str, column: pa.ChunkedArray, kinds: Sequence[pa.DataType], accepted: str
) -> pa.ChunkedArray:
    """The column as the first of `kinds` that it can be. Raises DataError that names the row."""
    import pyarrow as pa

    def as_kind(kind: pa.DataType, rows: int | None = None) -> pa.ChunkedArray | None:
        try:
            return column.slice(0, rows).cast(kind, safe=False)
        except pa.ArrowInvalid:
            return None

    def first_fault(kind: pa.DataType) -> int:
        return bisect_left(range(len(column)), True, key=lambda r: as_kind(kind, r + 1) is None)

    try:
        for kind in kinds:
            if (cast := as_kind(kind)) is not None:
                return cast
    except pa.ArrowNotImplementedError as error:
        raise DataError(
            f"column {quoted(name)} holds {column.type}; accepted: {accepted}"
        ) from error
    # Of the kind that the rows before it are, where there are several.
    raise _offence(name, column, max(first_fault(kind) for kind in kinds), accepted)


def _offence(name: str, column: pa.ChunkedArray, row: int, accepted: str) -> DataError:
    value = column[row].as_py()
    held = "empty" if value is None else quoted(value)
    return DataError(f"column {quoted(name)} is {held} at row {row}; accepted: {accepted}")
