"""CSV and Parquet tables: a row is an observation, the action taken there and its reward.

One file is one episode, unless `data.episode` names a column: then the rows with the same value in
it are an episode, in the order of the file, even if episodes are interleaved. An episode lies in
one file: the same value in another file is another episode. Messages count rows from 0.

A table of T+1 rows gives T transitions: action and reward of the last row are padding. With
`data.feedthrough` an action acts on the observation of its own row, as the input of a sampled
system may, and becomes the action of the previous row.

CSV is UTF-8 text with a header; the delimiter is the one of , ; and tab that yields most of the
requested columns. An empty cell is NaN, which validation reports. A column of lists of one length,
as in Parquet, is a vector. pyarrow is imported inside the functions.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import MISSING

from worldmodel.config import DataOptions, feedthrough, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.readers.files import existing_files, reading
from worldmodel.data.readers.sizes import check_parquet, check_size
from worldmodel.data.readers.table_columns import (
    classes,
    groups,
    matrix,
    plain,
    quoted,
    seconds,
    truths,
    vectors,
)
from worldmodel.errors import DataError, bullet_list, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv")
TEXT_FACTOR = 4  # times that numbers take more memory than their text, which is compressed less
DELIMITERS = (",", ";", "\t")
HEADER_BYTES = 2**20
MAX_COLUMNS_SHOWN = 60  # in one message
ACCEPTED = "CSV with rows of the same length as the header, or Parquet"
UNEVEN = 5.0  # a time step so many times longer than the median causes a warning


@dataclass
class TableData(DataOptions):
    """CSV or Parquet tables: a file, a folder of files or a pattern."""

    name: str = option("table", "data source")
    observations: list[str] = option(MISSING, "columns of the observation, one vector")
    actions: list[str] = option(MISSING, "columns of the action")
    reward: str | None = option(None, "column of the reward of the row's action (null: no reward)")
    episode: str | None = option(
        None, "column that identifies the episode (null: every file is one episode)"
    )
    time: str | None = option(None, "column of the time, which must not decrease")
    terminal: str | None = option(
        None, "column that is true in a terminal state (null: no episode is terminal)"
    )
    discrete: bool = option(False, "the single column of actions holds classes 0, 1, ...")
    row_range: list[int] | None = option(
        None, "[FIRST,LAST] rows to read from every file, counted from 0 (null: all)", low=0
    )
    feedthrough: bool = feedthrough()

    def column_names(self) -> dict[str, list[str]]:
        return {"observation": self.observations, "action": self.actions}

    def errors(self) -> Iterator[str]:
        for key in ("observations", "actions"):
            names = getattr(self, key)
            if twice := sorted({name for name in names if names.count(name) > 1}):
                yield f"data.{key}: {_listing(twice)} is listed twice; accepted: each column once"
        if self.discrete and len(self.actions) > 1:
            yield f"data.discrete=true: accepts one column in data.actions, not {len(self.actions)}"
        if self.row_range is not None and not (
            len(self.row_range) == 2 and self.row_range[0] < self.row_range[1]
        ):
            given = ",".join(map(str, self.row_range))
            yield f"data.row_range=[{given}]: accepts [FIRST,LAST] with FIRST < LAST"
        yield from super().errors()


@register("data", "table", TableData, endings=(*TEXT, *PARQUET))
def read(options: TableData) -> EpisodeStream:
    """Reads the episodes of all tables. Raises DataError if no file has the requested columns."""
    files = existing_files(options)
    _check_headers(options, files)
    return EpisodeStream(
        source=str(options.path),
        episodes=_episodes(options, files),
        files=files,
        count=None if options.episode else len(files),
    )


# ----------------------------------------------------------------------------------------- options


def _requested(options: TableData) -> list[str]:
    """The requested columns, each once."""
    return list(dict.fromkeys([*options.observations, *options.actions, *_single(options)]))


def _single(options: TableData) -> list[str]:
    names = (options.reward, options.episode, options.time, options.terminal)
    return [name for name in names if name]


def _check_headers(options: TableData, files: Sequence[Path]) -> None:
    """Raises DataError if no file has the requested columns."""
    errors: dict[str, list[Path]] = {}
    for file in files:
        try:
            with reading(ACCEPTED):
                _open(file, _requested(options))
            return
        except DataError as error:
            errors.setdefault(str(error), []).append(file)
    lines = []
    for error, those in errors.items():
        more = f" (and {len(those) - 1} more)" if len(those) > 1 else ""
        lines.append(f"{those[0]}{more}: {error}")
    head = f"{options.path}: no file has the requested columns"
    raise DataError(lines[0] if len(lines) == 1 else bullet_list(head, lines))


def _listing(names: Sequence[str]) -> str:
    names = [name for name in names if name]  # a trailing delimiter adds an empty name
    more = f" and {len(names) - MAX_COLUMNS_SHOWN} more" if len(names) > MAX_COLUMNS_SHOWN else ""
    return ", ".join(map(quoted, names[:MAX_COLUMNS_SHOWN])) + more


# ------------------------------------------------------------------------------------------- files


Columns = Callable[
    [list[str], list[str]], "pa.Table"
]  # reads columns; those of the second are text


def _open(file: Path, requested: Sequence[str]) -> Columns:
    """Opens a file. Raises DataError, without its name, if a requested column is missing."""
    names, columns = _open_parquet(file) if _is_parquet(file) else _open_csv(file, requested)
    if missing := [name for name in requested if name not in names]:
        hints = ", ".join(quoted(name) + did_you_mean(name, names) for name in missing)
        raise DataError(f"no column {hints}; present: {_listing(names)}")
    if twice := [name for name in requested if names.count(name) > 1]:
        raise DataError(f"two columns are named {_listing(twice)}; accepted: unique names")
    return columns


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as stream:
        return file.suffix.lower() in PARQUET or stream.read(4) == b"PAR1"


def _open_parquet(file: Path) -> tuple[list[str], Columns]:
    """The names of all columns, and how to read some of them, with their types in the file."""
    from pyarrow import parquet

    def columns(names: list[str], _: list[str]) -> pa.Table:
        check_parquet(file, names)
        with parquet.ParquetFile(file) as opened:
            return opened.read(columns=names).select(names)

    with parquet.ParquetFile(file) as opened:
        return opened.schema_arrow.names, columns


def _open_csv(file: Path, requested: Sequence[str]) -> tuple[list[str], Columns]:
    """The names in the header, the first line that is not blank, and how to read some columns."""
    import pyarrow as pa

    with pa.input_stream(str(file)) as stream:  # also decompresses .gz and others
        head = stream.read(HEADER_BYTES).decode("utf-8-sig", errors="replace")
    lines = io.StringIO(head, newline=None)
    number, header = next(((n, line) for n, line in enumerate(lines, 1) if line.strip()), (0, ""))
    if not header:
        raise DataError("is empty; accepted: a header and rows")
    if "\0" in header:
        raise DataError("is neither text in UTF-8 nor Parquet; accepted: CSV or Parquet")
    if not lines.read().strip():
        raise DataError("has a single line; accepted: a header and rows")
    names = {delimiter: _cells(header, delimiter) for delimiter in DELIMITERS}
    best = max(names, key=lambda d: (len(set(requested) & set(names[d])), len(names[d])))
    return names[best], partial(_csv_columns, file, names[best], best, number)


def _check_compressed(file: Path) -> None:
    """Raises DataError for a compressed file of more text than it can hold; keeps none of it."""
    import pyarrow as pa

    size, on_disk = 0, file.stat().st_size
    with pa.input_stream(str(file)) as stream:
        while chunk := stream.read(HEADER_BYTES):
            size += len(chunk)
            check_size(TEXT_FACTOR * size, on_disk)


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]


def _csv_columns(
    file: Path, header: list[str], delimiter: str, skip_rows: int, names: list[str], text: list[str]
) -> pa.Table:
    """Reads columns, with types that fit all cells; those in `text` stay text."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    def parse(threads: bool) -> pa.Table:
        return arrow.read_csv(
            str(file),
            read_options=arrow.ReadOptions(
                column_names=header, skip_rows=skip_rows, use_threads=threads
            ),
            parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow.ConvertOptions(
                include_columns=names,
                column_types={name: pa.string() for name in text},
                strings_can_be_null=True,
            ),
        )

    if file.suffix.lower() not in TEXT:
        _check_compressed(file)
    try:
        return parse(threads=True)
    except pa.ArrowInvalid:
        return parse(threads=False)  # its error includes the row


# ---------------------------------------------------------------------------------------- episodes

Which = np.ndarray | slice  # selects rows of a file


@dataclass(frozen=True)
class _Rows:
    """The rows of a file or of one episode, in the order of the file.

    observations: (rows, D) float32
    actions: (rows, A) float32
    rewards: (rows, 1), or None
    time: (rows,) seconds, or None
    terminal: (rows,) bool, or None
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray | None
    time: np.ndarray | None
    terminal: np.ndarray | None

    def select(self, which: Which) -> _Rows:
        return _Rows(
            self.observations[which],
            self.actions[which],
            *(None if x is None else x[which] for x in (self.rewards, self.time, self.terminal)),
        )


def _episodes(options: TableData, files: Sequence[Path]) -> Iterator[Episode | UnreadableEpisode]:
    """Yields the episodes of all files; warns at the end about their time steps and identifiers."""
    count = 0
    uneven: list[str] = []
    spread: list[str] = []
    first_file: dict[str, Path] = {}
    for file in files:
        try:
            with reading(ACCEPTED):
                rows, parts = _load(options, file)
        except DataError as error:
            yield UnreadableEpisode(str(file), str(error))
            continue
        for value, which in parts:
            name = f"{file} episode {value}" if options.episode else str(file)
            try:
                episode = _episode(options, name, rows.select(which))
            except DataError as error:
                yield UnreadableEpisode(name, str(error))
                continue
            count += 1
            uneven += _long_steps(episode)
            if options.episode and first_file.setdefault(value, file) != file:
                spread.append(f"{value} is in {first_file[value]} and in {file}")
            yield episode
    _warn(
        f"{options.path}: time steps longer than {UNEVEN:g} times the median in {len(uneven)} of "
        f"{count} episodes; models assume a constant time step",
        uneven,
    )
    _warn(
        f"{options.path}: {len(spread)} values of column {quoted(options.episode)} are in several "
        "files; each file counts as another episode",
        spread,
    )


def _warn(head: str, lines: list[str]) -> None:
    if lines:
        logger.warning("%s", bullet_list(head, lines))


def _load(options: TableData, file: Path) -> tuple[_Rows, list[tuple[str, Which]]]:
    """Reads the rows of a file and selects those of each episode. Raises DataError, without its
    name.
    """
    requested = _requested(options)
    # Episode identifiers stay text, so that 1 and 001 differ.
    text = [options.episode] if options.episode else []
    table = _open(file, requested)(requested, text)
    if table.num_rows == 0:
        raise DataError("has no rows; accepted: at least 2, which make a transition")
    table = _row_range(options, table)
    columns = {name: plain(table.column(name)) for name in requested}
    del table  # its columns are removed as they are converted

    def optional(name: str | None, get: Callable[[str, pa.ChunkedArray], Any]) -> Any:
        return get(name, columns[name]) if name else None

    rows = _Rows(
        observations=vectors(columns, options.observations, [*options.actions, *_single(options)]),
        actions=vectors(columns, options.actions, _single(options)),
        rewards=optional(options.reward, matrix),
        time=optional(options.time, seconds),
        terminal=optional(options.terminal, truths),
    )
    return rows, optional(options.episode, groups) or [("", slice(None))]


def _row_range(options: TableData, table: pa.Table) -> pa.Table:
    """The requested rows of a file. Raises DataError, without its name, if they do not exist."""
    if options.row_range is None:
        return table
    first, last = options.row_range
    if last >= table.num_rows:
        raise DataError(
            f"has {table.num_rows:,} rows, data.row_range is [{first},{last}]; accepted: up to "
            f"{table.num_rows - 1}"
        )
    return table.slice(first, last - first + 1)


def _episode(options: TableData, name: str, rows: _Rows) -> Episode:
    """Converts an episode. Raises DataError, without its name."""
    _check_terminal(options, rows.terminal)
    actions = rows.actions[1:] if options.feedthrough else rows.actions[:-1]
    return Episode(
        observations={"observation": rows.observations},
        actions=classes(options.actions[0], actions[:, 0]) if options.discrete else actions,
        rewards=rows.rewards,
        terminated=rows.terminal is not None and bool(rows.terminal[-1]),
        name=name,
        time=None if rows.time is None else rows.time - rows.time[0],
    )


def _check_terminal(options: TableData, terminal: np.ndarray | None) -> None:
    """Raises DataError if an episode is terminal before its last row."""
    if terminal is None or not terminal[:-1].any():
        return
    early = np.flatnonzero(terminal[:-1])
    hint = "" if options.episode else "; data.episode names a column that identifies the episode"
    raise DataError(
        f"column {quoted(options.terminal)} is true at row {early[0]} of rows 0 to "
        f"{len(terminal) - 1}; accepted: true at the last row only{hint}"
    )


def _long_steps(episode: Episode) -> list[str]:
    """Returns a line if a time step is much longer than the median, else none."""
    steps = np.zeros(0) if episode.time is None else np.diff(episode.time)
    if len(steps) == 0 or not np.isfinite(steps).all():
        return []
    median, row = float(np.median(steps)), int(steps.argmax())
    if steps[row] <= UNEVEN * median or median == 0:  # 0: the resolution is too coarse
        return []
    return [f"{episode.name}: {steps[row]:.3g} s after row {row}, the median is {median:.3g} s"]
