"""Converts columns of a table to NumPy arrays.

Every DataError names the column, its first invalid row (from 0), and the value there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from worldmodel.data.readers.tables.csv_layout import cell_hint
from worldmodel.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Column: TypeAlias = Any  # (rows, D) array of numbers, or a ChunkedArray of pyarrow of anything
MAX_COLUMNS_SHOWN = 60  # in one message
MAX_CHARACTERS = 60  # of a name or a cell in a message
TICKS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def quoted(value: object) -> str:
    """A name or a cell, quoted and shortened for a message."""
    text = repr(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


def listing(names: Sequence[str]) -> str:
    """Names for a message, at most `MAX_COLUMNS_SHOWN`."""
    names = [name for name in names if name]  # a trailing delimiter adds an empty name
    more = f" and {len(names) - MAX_COLUMNS_SHOWN} more" if len(names) > MAX_COLUMNS_SHOWN else ""
    return ", ".join(map(quoted, names[:MAX_COLUMNS_SHOWN])) + more


def plain(column: Column) -> pa.ChunkedArray:
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


def is_vector(kind: pa.DataType) -> bool:
    """Whether a column holds lists of numbers."""
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and types.is_primitive(kind.value_type)


def is_bytes(column: Column) -> bool:
    """Whether a column holds bytes, or structs of bytes and path, as encoded images do."""
    from pyarrow import types

    if isinstance(column, np.ndarray):
        return False
    kind: pa.DataType = column.type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return types.is_binary(kind) or types.is_large_binary(kind)


def encoded(name: str, column: Column) -> np.ndarray:
    """(rows,) bytes objects. Raises DataError for a row without any."""
    from pyarrow import compute, types

    if types.is_struct(column.type):
        column = compute.call_function(
            "struct_field", [column], compute.StructFieldOptions(["bytes"])
        )
    if column.null_count:
        row = int(np.flatnonzero(compute.call_function("is_null", [column]).to_numpy())[0])
        raise DataError(f"column {quoted(name)} has no bytes at row {row}; accepted: bytes in all")
    values = np.empty(len(column), object)
    values[:] = column.to_pylist()
    return values


def vectors(columns: Mapping[str, Column], names: Sequence[str]) -> np.ndarray:
    """(rows, D) float32, or float64 if any column is: the columns side by side."""
    whole = _side_by_side([columns[name] for name in names])
    if whole is not None:
        return whole
    widths = [_width(columns[name]) for name in names]
    kinds = [getattr(columns[name], "dtype", np.float64) for name in names]
    shape, ends = (len(columns[names[0]]), sum(widths)), np.cumsum(widths)
    values = np.empty(shape, np.result_type(*kinds))
    for name, begin, end in zip(names, [0, *ends[:-1]], ends, strict=True):
        values[:, begin:end] = matrix(name, columns[name])
    return values


def _side_by_side(columns: Sequence[Column]) -> np.ndarray | None:
    """The array of which the columns are all of the columns, in order; None if there is none."""
    block = getattr(columns[0], "base", None)
    if block is None or any(getattr(column, "base", None) is not block for column in columns):
        return None
    widths = [column.shape[1] for column in columns]
    begins = [block.ctypes.data + int(w) * block.itemsize for w in np.cumsum([0, *widths[:-1]])]
    if sum(widths) != block.shape[1] or begins != [column.ctypes.data for column in columns]:
        return None
    whole = block[: len(columns[0])]
    whole.flags.writeable = False  # so that it need not be copied
    return whole


def _width(column: Column) -> int:
    """How many numbers a row of the column holds."""
    if isinstance(column, np.ndarray):
        return column.shape[1]
    return len(column[0].as_py() or ()) if is_vector(column.type) else 1


def matrix(name: str, column: Column) -> np.ndarray:
    """(rows, 1), or (rows, D) for a column of lists of length D."""
    from pyarrow import compute

    if isinstance(column, np.ndarray):
        return column
    cells = plain(column)
    if not is_vector(cells.type):
        return _numbers(name, cells)[:, None]
    width = list_length(name, cells)
    numbers = compute.call_function("list_flatten", [cells])
    return _numbers(name, numbers).reshape(len(cells), width)


def list_length(
    name: str, column: pa.ChunkedArray | pa.Array, width: int | None = None, first_row: int = 0
) -> int:
    """The length of all lists of a column. Raises DataError if one is not of the same length, or
    not of length `width`, with its row.
    """
    from pyarrow import compute

    lengths = compute.call_function("list_value_length", [column]).fill_null(0)
    lengths = np.asarray(lengths)
    width = int(lengths[0]) if width is None else width
    if (uneven := np.flatnonzero(lengths != width)).size:
        row = int(uneven[0])
        raise DataError(
            f"column {quoted(name)} has {lengths[row]} numbers at row {row + first_row} and "
            f"{width} at row 0; accepted: lists of one length"
        )
    return width


def _numbers(name: str, column: pa.ChunkedArray, accepted: str = "numbers") -> np.ndarray:
    """(rows,) float64; a missing value is NaN, true is 1."""
    import pyarrow as pa

    return _cast(name, column, [pa.float64()], accepted).to_numpy()


def marks(name: str, column: Column, optional: np.ndarray) -> np.ndarray:
    """(rows,) bool. A missing value is false, in rows that are `optional` (rows,), and elsewhere an
    error, as anything else than true or false is.
    """
    import pyarrow as pa

    accepted = "true or false, 1 or 0"
    cells = column = plain(column)
    if _is_text(cells.type):
        cells = _cast(name, cells, [pa.bool_(), pa.float64()], accepted)
    values = _numbers(name, cells, accepted)
    values = np.where(optional & np.isnan(values), 0.0, values)
    if (others := np.flatnonzero((values != 0) & (values != 1))).size:
        raise _cell_error(name, column, int(others[0]), accepted)
    return values == 1


def seconds(name: str, column: Column) -> np.ndarray:
    """(rows,) float64 seconds: numbers unchanged, dates and times since the earliest one."""
    import pyarrow as pa
    from pyarrow import compute

    column = plain(column)
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


def groups(name: str, column: Column) -> list[tuple[str, np.ndarray]]:
    """Returns each value in order of first appearance, and its rows in order."""
    import pyarrow as pa
    from pyarrow import compute

    column = plain(column)
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
    hint = cell_hint(value)
    return DataError(f"column {quoted(name)} is {held} at row {row}; accepted: {accepted}{hint}")
