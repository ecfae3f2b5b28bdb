"""Reads columns of CSV and Parquet files in blocks, straight into arrays of their type.

Columns of numbers become NumPy arrays while they are read; all others (text, times, truth values)
stay columns of pyarrow, which is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from worldmodel.data.columns import ColumnWriter
from worldmodel.data.readers.sizes import check_parquet
from worldmodel.data.readers.table_columns import Column, is_vector, list_length, listing, quoted
from worldmodel.data.readers.table_csv import (
    TEXT,
    CSVOptions,
    Header,
    check_compressed,
    find_header,
    header_hint,
    open_text,
    row_hint,
)
from worldmodel.errors import DataError, did_you_mean, first_line

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = (".parquet", ".pq")
BLOCK_BYTES = 2**24  # of a batch of Parquet
MAX_ROWS = 2**16  # of a batch of Parquet


@dataclass(frozen=True)
class Request:
    """What is read of a file.

    numbers: columns that become arrays of numbers where they can
    others: columns that keep their type
    text: those of `others` that are read as text, whatever they look like
    rows: first and last row, or None for all
    """

    numbers: Sequence[str]
    others: Sequence[str] = ()
    text: Sequence[str] = ()
    rows: tuple[int, int] | None = None

    @property
    def names(self) -> list[str]:
        """All columns, each once."""
        return list(dict.fromkeys([*self.numbers, *self.others]))


class Opened(NamedTuple):
    """The names of all columns of a file, and a function that reads those requested."""

    names: list[str]
    read: Callable[[], dict[str, Column]]


def open_table(file: Path, request: Request, csv: CSVOptions) -> Opened:
    """Opens a file. Raises DataError, without its name, if a requested column is missing."""
    header = None
    if is_parquet(file):
        names, read = _parquet_names(file), partial(read_parquet, file, request)
    else:
        header = find_header(file, request.names, csv)
        names, read = header.names, partial(_read_csv, file, header, request, csv)
    if missing := [name for name in request.names if name not in names]:
        hints = ", ".join(quoted(name) + did_you_mean(name, names) for name in missing)
        other = header_hint(file, request.names, csv, header) if header else ""
        raise DataError(f"no column {hints}; present: {listing(names)}{other}")
    if twice := [name for name in request.names if names.count(name) > 1]:
        raise DataError(f"two columns are named {listing(twice)}; accepted: unique names")
    return Opened(names, read)


def is_parquet(file: Path) -> bool:
    with file.open("rb") as stream:
        return file.suffix.lower() in PARQUET or stream.read(4) == b"PAR1"


# ----------------------------------------------------------------------------------------- Parquet


def _parquet_names(file: Path) -> list[str]:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as opened:
        return opened.schema_arrow.names


def read_parquet(file: Path, request: Request) -> dict[str, Column]:
    """The requested columns of a file. Raises DataError, without its name."""
    check_parquet(file, request.names)
    return collect(parquet_batches(file, request.names), request)


def parquet_batches(file: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yields some columns of a file in batches of about `BLOCK_BYTES`; at least one."""
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetFile(file, buffer_size=2**20) as opened:
        groups = (opened.metadata.row_group(i) for i in range(opened.num_row_groups))
        row_bytes = sum(g.total_byte_size for g in groups) // max(1, opened.metadata.num_rows)
        rows = min(MAX_ROWS, max(1, BLOCK_BYTES // max(1, row_bytes)))
        yield from opened.iter_batches(batch_size=rows, columns=list(names))
        if not opened.metadata.num_rows:
            fields = [opened.schema_arrow.field(name) for name in names]
            yield from pa.schema(fields).empty_table().to_batches(1)


# --------------------------------------------------------------------------------------------- CSV


def _read_csv(
    file: Path, header: Header, request: Request, options: CSVOptions
) -> dict[str, Column]:
    """Reads columns in blocks; at once if the type of one is not that of its first block."""
    import pyarrow as pa

    if file.suffix.lower() not in TEXT:
        check_compressed(file)
    try:
        return collect(_csv_batches(file, header, request, options), request)
    except pa.ArrowInvalid:
        pass
    try:
        table = _whole_csv(file, header, request, options)
    except pa.ArrowInvalid as error:
        if hint := row_hint(str(error), options):
            raise DataError(f"cannot be read ({first_line(error)}){hint}") from error
        raise
    return collect(table.to_batches(), request)


def _csv_batches(
    file: Path, header: Header, request: Request, options: CSVOptions
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    from pyarrow import csv as arrow

    types = {name: pa.float64() for name in request.numbers if name not in request.others}
    types |= {name: pa.string() for name in request.text}
    with (
        open_text(file, options) as stream,
        arrow.open_csv(stream, *_layout(header, request, options, types)) as batches,
    ):
        yield from batches


def _whole_csv(file: Path, header: Header, request: Request, options: CSVOptions) -> pa.Table:
    """All rows, with types that fit all cells of a column. One thread: its errors name the row."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    types = {name: pa.string() for name in request.text}
    read, *rest = _layout(header, request, options, types)
    read.use_threads = False
    with open_text(file, options) as stream:
        return arrow.read_csv(stream, read, *rest)


def _layout(
    header: Header, request: Request, options: CSVOptions, types: dict[str, pa.DataType]
) -> tuple:
    from pyarrow import csv as arrow

    return (
        arrow.ReadOptions(column_names=header.names, skip_rows=header.lines),
        arrow.ParseOptions(delimiter=header.delimiter, newlines_in_values=True),
        arrow.ConvertOptions(
            include_columns=request.names,
            column_types=types,
            strings_can_be_null=True,
            decimal_point=options.decimal_point,
        ),
    )


# ----------------------------------------------------------------------------------------- columns


def collect(batches: Iterable[pa.RecordBatch], request: Request) -> dict[str, Column]:
    """Joins the batches of a file, of which there is at least one. Raises DataError for rows that
    do not exist, and lists of several lengths.
    """
    import pyarrow as pa

    first, last = request.rows or (0, None)
    numbers, others = ColumnWriter(), {name: [] for name in request.names}
    begin = 0  # row of the batch
    for batch in batches:
        low, high = (
            (0, len(batch))
            if last is None
            else np.clip([first - begin, last + 1 - begin], 0, len(batch))
        )
        part, row = batch.slice(low, high - low), max(begin - first, 0)
        begin += len(batch)
        for name in request.names if len(part) else ():
            column, values = part.column(name), None
            if name in request.numbers and name not in request.others:
                values = _numbers(name, column, numbers, row)
            if values is None:
                others[name].append(column)
            else:
                numbers.append({name: values})
        if last is not None and begin > last:
            break
    if last is not None and begin <= last:
        raise DataError(
            f"has {begin:,} rows, data.row_range is [{first},{last}]; accepted: up to {begin - 1}"
        )
    if not begin:
        raise DataError("has no rows; accepted: at least 2, which make a transition")
    chunked = {name: pa.chunked_array(chunks) for name, chunks in others.items() if chunks}
    pa.default_memory_pool().release_unused()
    return {**numbers.finish(), **chunked}


def _numbers(name: str, column: pa.Array, written: ColumnWriter, row: int) -> np.ndarray | None:
    """(n, D) float32 where it holds all numbers of the type, else float64; None for a column of
    anything else.
    """
    from pyarrow import types

    kind = column.type.value_type if is_vector(column.type) else column.type
    if not (types.is_integer(kind) or types.is_floating(kind)):
        return None
    small = kind.bit_width <= (32 if types.is_floating(kind) else 16)
    dtype = np.float32 if small else np.float64
    if not is_vector(column.type):
        return column.to_numpy(zero_copy_only=False).astype(dtype, copy=False)[:, None]
    width = written.shapes[name][0] if name in written.rows else None
    width = list_length(name, column, width, row)
    values = column.flatten().to_numpy(zero_copy_only=False)
    return values.astype(dtype, copy=False).reshape(len(column), width)
