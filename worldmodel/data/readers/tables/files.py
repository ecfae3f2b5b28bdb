"""Reads columns of CSV and Parquet files in blocks, straight into arrays of their type.

Columns of numbers become NumPy arrays while they are read; all others (text, times, truth values)
stay columns of pyarrow, which is imported inside the functions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from worldmodel.data.readers.sizes import check_parquet
from worldmodel.data.readers.tables.columns import Column, is_vector, list_length, listing, quoted
from worldmodel.data.readers.tables.csv_layout import (
    TEXT,
    CSVOptions,
    Header,
    check_compressed,
    count_rows,
    find_header,
    header_hint,
    is_number,
    misread_decimal,
    open_text,
    row_hint,
)
from worldmodel.errors import DataError, did_you_mean, first_line

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

logger = logging.getLogger(__name__)

PARQUET = (".parquet", ".pq")
LARGE = 2**53  # float64 holds all integers up to it
BLOCK_BYTES = 2**21  # of a batch of Parquet
MAX_ROWS = 2**16  # of a batch of Parquet


@dataclass(frozen=True)
class Request:
    """What is read of a file.

    vectors: columns of numbers, of which those of one vector lie side by side in memory
    others: columns that keep their type
    text: those of `others` that are read as text, whatever they look like
    rows: first and last row, or None for all
    """

    vectors: Sequence[Sequence[str]]
    others: Sequence[str] = ()
    text: Sequence[str] = ()
    rows: tuple[int, int] | None = None

    @property
    def names(self) -> list[str]:
        """All columns, each once."""
        return list(dict.fromkeys([*(n for names in self.vectors for n in names), *self.others]))

    @property
    def numbers(self) -> list[list[str]]:
        """The columns of each vector; one that is in several is in the first of them."""
        free, found = set(self.names) - set(self.others), []
        for names in self.vectors:
            found.append([name for name in names if name in free])
            free -= set(names)
        return found


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
        if not other and header and all(map(is_number, filter(None, names))):
            other = "; the first line holds numbers: add a line with the names of the columns"
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
    from pyarrow import parquet

    check_parquet(file, request.names)
    # Buffered, so that the columns of a row group are not read as a whole.
    with parquet.ParquetFile(file, buffer_size=2**18, pre_buffer=False) as opened:
        batches = _parquet_batches(opened, request.names)
        return collect(batches, request, opened.metadata.num_rows)


def _parquet_batches(opened: parquet.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    """Yields some columns of a file in batches of about `BLOCK_BYTES`."""
    if opened.metadata.num_rows:
        groups = (opened.metadata.row_group(i) for i in range(opened.num_row_groups))
        row_bytes = sum(g.total_byte_size for g in groups) // max(1, opened.metadata.num_rows)
        rows = min(MAX_ROWS, max(1, BLOCK_BYTES // max(1, row_bytes)))
        yield from opened.iter_batches(batch_size=rows, columns=names)


# --------------------------------------------------------------------------------------------- CSV


def _read_csv(
    file: Path, header: Header, request: Request, options: CSVOptions
) -> dict[str, Column]:
    """Reads columns in blocks; at once if the type of one is not that of its first block."""
    import pyarrow as pa

    if file.suffix.lower() not in TEXT:
        check_compressed(file)
    try:
        rows = count_rows(file, options, len(header.names))
        columns = collect(_csv_batches(file, header, request, options), request, rows)
        if not any(_is_large(columns[name]) for names in request.numbers for name in names):
            return columns
    except pa.ArrowInvalid:
        pass
    try:
        table = _whole_csv(file, header, request, options)
    except pa.ArrowInvalid as error:
        if hint := row_hint(str(error), options):
            raise DataError(f"cannot be read ({first_line(error)}){hint}") from error
        raise
    if options.decimal == "comma":
        for name in {name for names in request.numbers for name in names}:
            misread_decimal(name, table.column(name))
    return collect(table.to_batches(), request, table.num_rows)


def _csv_batches(
    file: Path, header: Header, request: Request, options: CSVOptions
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    from pyarrow import csv as arrow

    types = {name: pa.float64() for names in request.numbers for name in names}
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


def collect(
    batches: Iterable[pa.RecordBatch], request: Request, most_rows: int
) -> dict[str, Column]:
    """Joins the batches of a file of at most `most_rows`. Raises DataError for rows that do not
    exist, and lists of several lengths.
    """
    import pyarrow as pa

    first, last = request.rows or (0, most_rows)
    blocks = [_Block(names, min(most_rows, last + 1 - first)) for names in request.numbers if names]
    others: dict[str, list[pa.Array]] = {name: [] for name in request.names}
    begin = 0  # row of the batch
    for batch in batches:
        low, high = np.clip([first - begin, last + 1 - begin], 0, len(batch)).tolist()
        part = batch.slice(low, high - low)
        begin += len(batch)
        if len(part):
            taken = {name for block in blocks for name in block.append(part)}
            for name in others.keys() - taken:
                others[name].append(part.column(name))
        if begin > last:
            break
    if request.rows and begin <= last:
        raise DataError(
            f"has {begin:,} rows, data.row_range is [{first},{last}]; accepted: up to {begin - 1}"
        )
    if not begin:
        raise DataError("has no rows; accepted: at least 2, which make a transition")
    chunked = {name: pa.chunked_array(chunks) for name, chunks in others.items() if chunks}
    pa.default_memory_pool().release_unused()
    return {name: column for block in blocks for name, column in block.columns().items()} | chunked


class _Block:
    """The columns of numbers of one vector, side by side: (rows, D) float32, or float64 if any of
    them may hold numbers that float32 does not, or int64 if all are integers and some of them are
    larger than float64 holds.
    """

    def __init__(self, names: Sequence[str], most_rows: int):
        self.names, self.most_rows, self.rows = names, most_rows, 0
        self.integers: type | None = None  # the type of large integers
        self.parts: dict[str, slice] = {}
        self.values = np.zeros((0, 0))

    def append(self, batch: pa.RecordBatch) -> Iterable[str]:
        """Appends the rows of a batch; returns the columns that hold numbers."""
        if not self.rows:
            self._allocate(batch)
        end = self.rows + len(batch)
        for name, part in self.parts.items():
            column = batch.column(name)
            width = part.stop - part.start
            if is_vector(column.type):
                list_length(name, column, width, self.rows)
                column = column.flatten()
            numbers = column.to_numpy(zero_copy_only=False)
            self._fit(name, numbers)
            self.values[self.rows : end, part] = numbers.reshape(len(batch), width)
        self.rows = end
        return self.parts

    def _fit(self, name: str, numbers: np.ndarray) -> None:
        """Makes room for integers of which float64 does not hold all digits. Raises DataError for
        empty cells among them.
        """
        if self.values.dtype == np.float64 and numbers.dtype.kind in "iu" and _is_large(numbers):
            if self.integers is None or np.isnan(self.values[: self.rows]).any():
                if _loses(numbers):
                    logger.warning(
                        "column %s holds integers beyond 2**53 beside other columns that are not "
                        "all integers, so its last digits are lost; subtract a constant from it",
                        quoted(name),
                    )
                return
            self.values = self.values.astype(self.integers)
        if self.values.dtype.kind in "iu" and numbers.dtype.kind == "f":
            raise DataError(
                f"column {quoted(name)} has empty cells beside integers beyond 2**53; accepted: a "
                "number in every row, or smaller numbers (subtract a constant)"
            )

    def _allocate(self, batch: pa.RecordBatch) -> None:
        kinds, width = [], 0
        for name in self.names:
            column = batch.column(name)
            if (kind := _number_type(column.type)) is not None:
                size = list_length(name, column[:1]) if is_vector(column.type) else 1
                self.parts[name] = slice(width, width + size)
                kinds, width = [*kinds, kind], width + size
        if kinds:
            types = [batch.column(name).type for name in self.parts]
            types = [kind.value_type if is_vector(kind) else kind for kind in types]
            if all(str(kind).startswith(("int", "uint")) for kind in types):
                joined = np.result_type(*(kind.to_pandas_dtype() for kind in types))
                self.integers = joined.type if joined.kind in "iu" else None
            self.values = np.empty((self.most_rows, width), np.result_type(*kinds))

    def columns(self) -> dict[str, np.ndarray]:
        """Column -> (rows, D)."""
        return {name: self.values[: self.rows, part] for name, part in self.parts.items()}


def _is_large(numbers: object) -> bool:
    """Whether some numbers are larger than the integers that float64 holds."""
    if not isinstance(numbers, np.ndarray) or numbers.dtype.itemsize < 8 or not numbers.size:
        return False
    low, high = numbers.min(), numbers.max()  # NaN compares as false
    return bool(high > LARGE or low < -LARGE)


def _loses(numbers: np.ndarray) -> bool:
    """Whether float64 changes the steps of integers by more than a hundredth."""
    exact = np.diff(numbers).view(np.int64).astype(np.float64)
    error = np.diff(numbers.astype(np.float64)) - exact
    return bool(np.square(error).sum() > 1e-4 * np.square(exact).sum())


def _number_type(kind: pa.DataType) -> type | None:
    """float32 where it holds all numbers of a type, else float64; None for anything else."""
    from pyarrow import types

    kind = kind.value_type if is_vector(kind) else kind
    if types.is_floating(kind):
        return np.float32 if kind.bit_width <= 32 else np.float64
    if types.is_integer(kind):
        return np.float32 if kind.bit_width <= 16 else np.float64
    return None
