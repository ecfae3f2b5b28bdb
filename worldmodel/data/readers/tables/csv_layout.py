"""CSV: where the header is, what separates cells, and which option reads a file that is laid out
in another way.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from worldmodel.config import option
from worldmodel.data.readers.sizes import check_size
from worldmodel.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

TEXT = (".csv", ".tsv")
TEXT_FACTOR = 4  # times that numbers take more memory than their text, which is compressed less
DELIMITERS = (",", ";", "\t")
NAMES = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " ", "colon": ":", "bar": "|"}
HEADER_BYTES = 2**20
HEADER_LINES = 100  # among which a header is looked for
COMMA_NUMBER = re.compile(r"\s*([+-]?(\d+(,\d*)?|,\d+)([eE][+-]?\d+)?|[+-]?(nan|inf\w*))?\s*", re.I)
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*")
COMMENT_ROW = re.compile(r"Row #\d+: Expected \d+ columns, got \d+: ([#%!;]|//)")


@dataclass
class CSVOptions:
    """How CSV files are laid out."""

    delimiter: str | None = option(
        None,
        f"character between cells, or {', '.join(NAMES)} (null: comma, semicolon or tab)",
    )
    decimal: str = option("point", "decimal mark of the numbers", choices=("point", "comma"))
    comment: str | None = option(None, "lines that begin with this text are left out")
    skip_lines: int = option(0, "lines before the header", low=0)

    def errors(self) -> Iterator[str]:
        """Yields what is wrong with these options."""
        if self.delimiter is not None and len(self.character) != 1:
            yield (
                f"data.csv.delimiter={self.delimiter}: accepts one character, or {', '.join(NAMES)}"
            )
        if self.character == self.decimal_point:
            yield f"data.csv.delimiter={self.delimiter}: accepts another character than the decimal"

    @property
    def character(self) -> str:
        """The delimiter, or '' if it is to be found."""
        return NAMES.get(self.delimiter or "", self.delimiter or "")

    @property
    def decimal_point(self) -> str:
        return "," if self.decimal == "comma" else "."


class Header(NamedTuple):
    """The header of a file.

    names: of the columns
    delimiter: between cells
    lines: up to and with the header, without comments
    """

    names: list[str]
    delimiter: str
    lines: int


def find_header(file: Path, requested: Sequence[str], options: CSVOptions) -> Header:
    """Finds the first line that is not blank, and the delimiter that yields most of the requested
    columns. Raises DataError, without the file's name, for a file that is no text and for one
    without rows.
    """
    with open_text(file, options) as stream:
        head = stream.read(HEADER_BYTES).decode("utf-8-sig", errors="replace")
    lines = io.StringIO(head, newline=None)
    for _ in range(options.skip_lines):
        lines.readline()
    numbered = enumerate(lines, options.skip_lines + 1)
    number, header = next(((n, line) for n, line in numbered if line.strip()), (0, ""))
    if not header:
        raise DataError("is empty; accepted: a header and rows")
    if "\0" in header:
        raise DataError("is neither text in UTF-8 nor Parquet; accepted: CSV or Parquet")
    if not lines.read().strip():
        raise DataError("has a single line; accepted: a header and rows")
    candidates = options.character or DELIMITERS
    names = {delimiter: _cells(header, delimiter) for delimiter in candidates}
    best = max(names, key=lambda d: (len(set(requested) & set(names[d])), len(names[d])))
    return Header(names[best], best, number)


def header_hint(file: Path, requested: Sequence[str], options: CSVOptions, found: Header) -> str:
    """The options with which more of the requested columns are found; '' if there are none."""
    with open_text(file, options) as stream:
        head = stream.read(HEADER_BYTES).decode("utf-8-sig", errors="replace")
    lines = head.splitlines()[:HEADER_LINES]
    delimiters = dict.fromkeys([found.delimiter, *NAMES.values()])

    def matches(place: tuple[int, str]) -> int:
        return len(set(requested) & set(_cells(lines[place[0]], place[1])))

    places = [(i, d) for i in range(found.lines - 1, len(lines)) for d in delimiters]
    line, delimiter = best = max(places, key=matches)  # the first of several
    if matches(best) <= len(set(requested) & set(found.names)):
        return ""
    needed = _options_before(lines[found.lines - 1 : line], line)
    if delimiter != found.delimiter:
        needed.append(f"data.csv.delimiter={next(n for n, d in NAMES.items() if d == delimiter)}")
    return f"; line {line + 1} holds them: set {' '.join(needed)}"


def _options_before(lines: Sequence[str], skipped: int) -> list[str]:
    """The option that leaves out the lines before a header."""
    begins = (re.match(r"[#%!;]|//", line.strip()) for line in lines if line.strip())
    marks = {match[0] if match else "" for match in begins}
    if len(marks) == 1 and (mark := marks.pop()):
        return [f"\"data.csv.comment='{mark}'\""]
    return [f"data.csv.skip_lines={skipped}"] if skipped else []


def row_hint(reason: str, options: CSVOptions) -> str:
    """The option that leaves out a comment among the rows; '' for other errors of pyarrow."""
    match = COMMENT_ROW.search(reason)
    found = match and options.comment is None
    return f"; set \"data.csv.comment='{match[1]}'\"" if match and found else ""


def cell_hint(value: object) -> str:
    """The option that reads a cell such as 1,5 as a number; '' for other cells."""
    decimal = isinstance(value, str) and DECIMAL_COMMA.fullmatch(value)
    return "; set data.csv.decimal=comma for decimal commas" if decimal else ""


def misread_decimal(name: str, column: pa.ChunkedArray) -> None:
    """Raises DataError for the first cell of a column of text that is no number with a decimal
    comma, if any is one.
    """
    cells = column.to_pylist()
    if not any(isinstance(cell, str) and DECIMAL_COMMA.fullmatch(cell) for cell in cells):
        return
    for row, cell in enumerate(cells):
        if isinstance(cell, str) and not COMMA_NUMBER.fullmatch(cell):
            raise DataError(
                f"column {name!r} is {cell!r} at row {row}; accepted: numbers with a decimal comma "
                "(data.csv.decimal=comma), without marks of thousands"
            )


def is_number(cell: str) -> bool:
    """Whether a cell is a number, with a decimal point."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def open_text(file: Path, options: CSVOptions) -> Any:
    """The bytes of a file, decompressed if its ending says so, without comments."""
    import pyarrow as pa

    stream = pa.input_stream(str(file))
    return (
        io.BufferedReader(_WithoutComments(stream, options.comment)) if options.comment else stream
    )


class _WithoutComments(io.RawIOBase):
    """The lines of a stream that do not begin with a text."""

    def __init__(self, stream: pa.NativeFile, comment: str):
        self.stream, self.comment = stream, comment.encode()
        self.ready, self.rest = b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready and (chunk := self.stream.read(HEADER_BYTES)):
            whole, newline, self.rest = (self.rest + chunk).rpartition(b"\n")
            self.ready = self._kept(whole + newline)
        if not self.ready:
            self.ready, self.rest = self._kept(self.rest), b""
        count = min(len(buffer), len(self.ready))
        buffer[:count], self.ready = self.ready[:count], self.ready[count:]
        return count

    def _kept(self, lines: bytes) -> bytes:
        kept = (x for x in lines.splitlines(True) if not x.lstrip().startswith(self.comment))
        return b"".join(kept)

    def close(self) -> None:
        self.stream.close()
        super().close()


def check_compressed(file: Path) -> None:
    """Raises DataError for a compressed file of more text than it can hold; keeps none of it."""
    import pyarrow as pa

    size, on_disk = 0, file.stat().st_size
    with pa.input_stream(str(file)) as stream:
        while chunk := stream.read(HEADER_BYTES):
            size += len(chunk)
            check_size(TEXT_FACTOR * size, on_disk)


def count_rows(file: Path, options: CSVOptions, columns: int) -> int:
    """At least the number of rows: that of line ends, as far as there are bytes for the cells."""
    size = ends = returns = 0
    with open_text(file, options) as stream:
        while chunk := stream.read(HEADER_BYTES):
            size += len(chunk)
            ends += chunk.count(b"\n")
            returns += chunk.count(b"\r")
    return min(max(ends, returns), size // max(columns, 1)) + 1
