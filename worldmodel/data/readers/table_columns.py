"""Converts columns of a pyarrow table to NumPy arrays.

Every DataError names the column, its first invalid row (from 0), and the value there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from worldmodel.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_CHARACTERS = 60  # of a name or a cell in a message
TICKS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def quoted(value: object) -> str:
    """A name or a cell, quoted and shortened for a message."""
    text = repr(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decodes a dictionary column, and strips spaces from text."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _is_text(column.type):
        column = compute.call_function("utf8_trim_whitespace", [column.cast(pa.large_string())])
    return column


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_vector(kind: pa.DataType) -> bool:
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and types.is_primitive(kind.value_type)


def vectors(
    columns: dict[str, pa.ChunkedArray], names: Sequence[str], again: Sequence[str] = ()
) -> np.ndarray:
    """(rows, D) float32: the columns side by side, converted one by one to take little memory.

    Those that are not needed `again` are removed.
    """
    ends = np.cumsum([_width(columns[name]) for name in names])
    # Column by column, so that memory is taken as the columns are removed.
    values = np.empty((len(columns[names[0]]), ends[-1]), np.float32, order="F")
    with np.errstate(over="ignore"):  # too large numbers become infinite, which validation reports
        for name, begin, end in zip(names, [0, *ends[:-1]], ends, strict=True):
            column = columns[name] if name in again else columns.pop(name)
            values[:, begin:end] = matrix(name, column)
    return values


def _width(column: pa.ChunkedArray) -> int:
    """How many numbers a row of the column holds."""
    return len(column[0].as_py() or ()) if _is_vector(column.type) else 1


def matrix(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """(rows, 1) float64, or (rows, D) for a column of lists of length D."""
    from pyarrow import compute

    if not _is_vector(column.type):
        return _numbers(name, column)[:, None]
    lengths = compute.call_function("list_value_length", [column]).fill_null(0).to_numpy()
    if (uneven := np.flatnonzero(lengths != lengths[0])).size:
        row = int(uneven[0])
        raise DataError(
            f"column {quoted(name)} has {lengths[row]} numbers at row {row} and {lengths[0]} at "
            "row 0; accepted: lists of one length"
        )
    return _numbers(name, compute.call_function("list_flatten", [column])).reshape(
        len(column), lengths[0]
    )


def _numbers(name: str, column: pa.ChunkedArray, accepted: str = "numbers") -> np.ndarray:
    """(rows,) float64; a missing value is NaN, true is 1."""
    import pyarrow as pa

    return _cast(name, column, [pa.float64()], accepted).to_numpy()


def truths(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """(rows,) bool; a missing value is false."""
    import pyarrow as pa

    accepted = "true or false, 1 or 0"
    if _is_text(column.type):
        column = _cast(name, column, [pa.bool_()], accepted)
    values = np.nan_to_num(_numbers(name, column, accepted))
    if (others := np.flatnonzero((values != 0) & (values != 1))).size:
        raise _cell_error(name, column, int(others[0]), accepted)
    return values == 1


def seconds(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """(rows,) float64 seconds: numbers unchanged, dates and times since the earliest one."""
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
    # Subtracted as integers, since a float cannot represent nanoseconds since 1970.
    elapsed = compute.call_function("subtract", [ticks, compute.call_function("min", [ticks])])
    return elapsed.to_numpy() / TICKS_PER_SECOND[unit]


def groups(name: str, column: pa.ChunkedArray) -> list[tuple[str, np.ndarray]]:
    """Returns each value in order of first appearance, and its rows in order."""
    import pyarrow as pa
    from pyarrow import compute

    options = compute.NullOptions(nan_is_null=True)
    is_null = compute.call_function("is_null", [column], options)
    missing = np.flatnonzero(is_null.to_numpy())
    if missing.size:
        raise _cell_error(name, column, int(missing[0]), "a value in every row")
    encoded = column.combine_chunks().dictionary_encode()  # in order of first appearance
    values = encoded.dictionary.cast(pa.large_string()).to_pylist()
    codes = encoded.indices.to_numpy()
    rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    return list(zip(values, rows, strict=True))


def classes(name: str, values: np.ndarray) -> np.ndarray:
    """(T,) float32 integers to int32. Raises DataError for other and for missing values."""
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
    """Casts the column to the first of `kinds` that fits. Raises DataError with the row."""
    import pyarrow as pa

    def as_kind(kind: pa.DataType, rows: int | None = None) -> pa.ChunkedArray | None:
        try:
            return column.slice(0, rows).cast(kind, safe=False)
        except pa.ArrowInvalid:
            return None

    def first_error(kind: pa.DataType) -> int:
        return bisect_left(range(len(column)), True, key=lambda r: as_kind(kind, r + 1) is None)

    try:
        for kind in kinds:
            if (cast := as_kind(kind)) is not None:
                return cast
    except pa.ArrowNotImplementedError as error:
        raise DataError(
            f"column {quoted(name)} holds {column.type}; accepted: {accepted}"
        ) from error
    # The kind that fits the most rows determines the invalid row.
    raise _cell_error(name, column, max(first_error(kind) for kind in kinds), accepted)


def _cell_error(name: str, column: pa.ChunkedArray, row: int, accepted: str) -> DataError:
    value = column[row].as_py()
    held = "empty" if value is None else quoted(value)
    return DataError(f"column {quoted(name)} is {held} at row {row}; accepted: {accepted}")
