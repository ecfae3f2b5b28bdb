"""CSV and Parquet tables: a row is an observation, the action taken there and what that earned.

One file is one episode, unless `data.episode` names a column: then the rows with one value of it
are an episode, in the order of the file, however they alternate with others. An episode lies in
one file: the same value in another file is another episode. Messages count rows from 0.

A table of T+1 rows gives T transitions: what the last row says of action and reward is padding.
With `data.feedthrough` an action already acts on the observation of its own row, as the input of a
sampled system may; it is then the action of the row before.

CSV is text in UTF-8 with a header; the delimiter is whichever of , ; and tab finds most of the
wanted columns in it. An empty cell is no number (NaN), which validation finds. A column of lists
of one length, as Parquet may hold, is a vector. pyarrow is imported inside the functions.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import MISSING

from worldmodel.config import DataOptions, feedthrough, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.readers import existing_files, needs_path
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

ACCEPTED = "CSV or Parquet tables: a file, a folder of files or a pattern such as logs/*.csv"
PARQUET = (".parquet", ".pq")
ENDINGS = (".csv", ".tsv", *PARQUET)  # in a folder; a pattern may name another one, as in *.txt
DELIMITERS = (",", ";", "\t")
HEADER_BYTES = 2**20
MOST_COLUMNS = 60  # named in one message
UNEVEN = 5.0  # a step of time so many times longer than the median one is worth a word


@dataclass
class TableData(DataOptions):
    """CSV or Parquet tables: a file, a folder of files or a pattern."""

    name: str = option("table", "data source")
    observations: list[str] = option(MISSING, "columns that are observed, as one vector")
    actions: list[str] = option(MISSING, "columns that are acted")
    reward: str | None = option(None, "column of the reward of the row's action (none: no reward)")
    episode: str | None = option(
        None, "column that tells episodes apart (none: every file is one episode)"
    )
    time: str | None = option(None, "column of the time, which must not go backwards")
    terminal: str | None = option(
        None, "column that is true where the episode really ended (none: they never do)"
    )
    discrete: bool = option(False, "the single column of actions holds classes 0, 1, ...")
    row_range: list[int] | None = option(
        None, "[FIRST,LAST] rows of every file that are read, counted from 0 (none: all)", low=0
    )
    feedthrough: bool = feedthrough()

    def errors(self) -> Iterator[str]:
        if not self.path:
            yield needs_path(self)
        if self.discrete and len(self.actions) > 1:
            yield f"data.discrete=true: takes one column of classes, not {len(self.actions)}"
        if self.row_range is not None and not (
            len(self.row_range) == 2 and self.row_range[0] < self.row_range[1]
        ):
            given = ",".join(map(str, self.row_range))
            yield f"data.row_range=[{given}]: accepts [FIRST,LAST], the first below the last"
        yield from super().errors()


@register("data", "table", TableData, source="path", endings=(".csv", ".tsv", ".parquet", ".pq"))
def read(options: TableData) -> EpisodeStream:
    """The episodes of all tables, read file by file as they are asked for.

    Raises DataError if no file has the wanted columns. One file among others that cannot be read,
    or lacks some, is UnreadableEpisode.
    """
    ending = Path(options.path or "").suffix.lower()
    files = existing_files(options, ACCEPTED, *ENDINGS, *({ending} - {"", *ENDINGS}))
    _check_options(options, files[0])
    _check_headers(options, files)
    return EpisodeStream(
        source=str(options.path),
        episodes=_episodes(options, files),
        files=tuple(files),
        count=None if options.episode else len(files),
    )


# ----------------------------------------------------------------------------------------- options


def _wanted(options: TableData) -> list[str]:
    """The columns that are read, each once."""
    single = [options.reward, options.episode, options.time, options.terminal]
    names = [*options.observations, *options.actions, *(name for name in single if name)]
    return list(dict.fromkeys(names))


def _check_options(options: TableData, file: Path) -> None:
    """Raises DataError for columns that are not named, or named twice."""
    for key in ("observations", "actions"):
        names = getattr(options, key)
        if not names:
            raise DataError(f"data.{key} is empty; accepted: {_columns_of(file)}")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"data.{key} names {_listing(twice)} twice; accepted: each column once")
    if options.discrete and len(options.actions) > 1:
        raise DataError(
            f"data.discrete=true with {len(options.actions)} columns in data.actions; "
            "accepted: the one column that holds the classes"
        )


def _columns_of(file: Path) -> str:
    try:
        return f"columns of {file}, which are {_listing(_open(file, []).names)}"
    except DataError:
        return "names of columns"


def _check_headers(options: TableData, files: Sequence[Path]) -> None:
    """Raises DataError if no file has the wanted columns. Looks at files until one has."""
    faults: dict[str, list[Path]] = {}
    for file in files:
        try:
            _open(file, _wanted(options))
            return
        except DataError as error:
            faults.setdefault(str(error), []).append(file)
    lines = []
    for fault, those in faults.items():
        more = f" (and {len(those) - 1} more)" if len(those) > 1 else ""
        lines.append(f"{those[0]}{more}: {fault}")
    head = f"{options.path}: no file has the columns that are asked for"
    raise DataError(lines[0] if len(lines) == 1 else bullet_list(head, lines))


def _listing(names: Sequence[str]) -> str:
    names = [name for name in names if name]  # a comma at the end of a header adds an empty one
    more = f" and {len(names) - MOST_COLUMNS} more" if len(names) > MOST_COLUMNS else ""
    return ", ".join(map(quoted, names[:MOST_COLUMNS])) + more


# ------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class _CSV:
    """A CSV file whose header was read: the last of the first `header_lines` lines."""

    file: Path
    names: list[str]
    delimiter: str
    header_lines: int

    def table(self, columns: list[str], text: list[str]) -> pa.Table:
        """The columns, with types that fit all their cells; those in `text` stay text."""
        import pyarrow as pa

        try:
            return self._parse(columns, text, threads=True)
        except pa.ArrowInvalid:
            return self._parse(columns, text, threads=False)  # whose error names the row

    def _parse(self, columns: list[str], text: list[str], threads: bool) -> pa.Table:
        import pyarrow as pa
        from pyarrow import csv as arrow

        return arrow.read_csv(
            str(self.file),
            read_options=arrow.ReadOptions(
                column_names=self.names, skip_rows=self.header_lines, use_threads=threads
            ),
            parse_options=arrow.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=arrow.ConvertOptions(
                include_columns=columns,
                column_types={name: pa.string() for name in text},
                strings_can_be_null=True,
            ),
        )


@dataclass(frozen=True)
class _Parquet:
    """A Parquet file whose schema was read."""

    file: Path
    names: list[str]

    def table(self, columns: list[str], text: list[str]) -> pa.Table:
        """The columns, of the types that they have there."""
        from pyarrow import parquet

        with parquet.ParquetFile(self.file) as file:
            return file.read(columns=columns).select(columns)


def _open(file: Path, wanted: Sequence[str]) -> _CSV | _Parquet:
    """A file by its header. Raises DataError, without the file's name, if it lacks a column."""
    with _faults_of_pyarrow():
        table = _open_parquet(file) if _is_parquet(file) else _open_csv(file, wanted)
    if missing := [name for name in wanted if name not in table.names]:
        hints = ", ".join(quoted(name) + did_you_mean(name, table.names) for name in missing)
        raise DataError(f"no column {hints}; columns there: {_listing(table.names)}")
    if twice := [name for name in wanted if table.names.count(name) > 1]:
        raise DataError(f"two columns are named {_listing(twice)}; accepted: names of their own")
    return table


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as stream:
        return file.suffix.lower() in PARQUET or stream.read(4) == b"PAR1"


def _open_parquet(file: Path) -> _Parquet:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as opened:
        return _Parquet(file, opened.schema_arrow.names)


def _open_csv(file: Path, wanted: Sequence[str]) -> _CSV:
    """The header is the first line that is not blank; spaces around names do not count."""
    import pyarrow as pa

    with pa.input_stream(str(file)) as stream:  # unpacks .gz and the like
        head = stream.read(HEADER_BYTES).decode("utf-8-sig", errors="replace")
    lines = io.StringIO(head, newline=None)
    number, header = next(((n, line) for n, line in enumerate(lines, 1) if line.strip()), (0, ""))
    if not header:
        raise DataError("is empty; accepted: a header and rows")
    if "\0" in header:
        raise DataError("is neither text in UTF-8 nor Parquet; accepted: CSV or Parquet")
    if not lines.read().strip():
        raise DataError("has one line; accepted: a header and rows below it")
    names = {delimiter: _cells(header, delimiter) for delimiter in DELIMITERS}
    best = max(names, key=lambda d: (len(set(wanted) & set(names[d])), len(names[d])))
    return _CSV(file, names[best], best, number)


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    except csv.Error as error:
        raise DataError(f"cannot be read: {error}; accepted: CSV with a header") from error


@contextmanager
def _faults_of_pyarrow() -> Iterator[None]:
    """What pyarrow or the system says of a file that cannot be read, as a DataError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        accepted = "CSV whose rows are as long as its header, or Parquet"
        raise DataError(f"cannot be read: {reason[:200]}; accepted: {accepted}") from error


# ---------------------------------------------------------------------------------------- episodes

Which = np.ndarray | slice  # of the rows of a file


@dataclass(frozen=True)
class _Rows:
    """The rows of a file, or of one episode of it, in the order of the file.

    observations: (rows, D) float32
    actions: (rows, A) float32
    rewards: (rows, 1), or None
    time: (rows,) seconds since any moment, or None
    terminal: (rows,) bool, or None
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray | None
    time: np.ndarray | None
    terminal: np.ndarray | None

    def select(self, which: Which) -> _Rows:
        return _Rows(*(None if rows is None else rows[which] for rows in vars(self).values()))


def _episodes(options: TableData, files: Sequence[Path]) -> Iterator[Episode | UnreadableEpisode]:
    """The episodes of all files; what looks odd of them all together is told at the end."""
    count = 0
    uneven: list[str] = []
    spread: list[str] = []
    first_file: dict[str, Path] = {}
    for file in files:
        try:
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
        f"{options.path}: steps of time more than {UNEVEN:g} times the median in {len(uneven)} of "
        f"{count} episodes; a model takes all steps for equally long",
        uneven,
    )
    _warn(
        f"{options.path}: values of column {quoted(options.episode)} that are in several files: "
        f"{len(spread)}; they are an episode of its own in each",
        spread,
    )


def _warn(head: str, lines: list[str]) -> None:
    if lines:
        logger.warning("%s", bullet_list(head, lines))


def _load(options: TableData, file: Path) -> tuple[_Rows, list[tuple[str, Which]]]:
    """The rows of a file, and which of them each episode has.

    Raises DataError, without the file's name.
    """
    with _faults_of_pyarrow():
        wanted = _wanted(options)
        # Numbers of episodes stay text, so that 1 and 001 differ.
        text = [options.episode] if options.episode else []
        table = _open(file, wanted).table(wanted, text)
        if table.num_rows == 0:
            raise DataError("has no rows; accepted: at least 2, a transition needs a successor")
        table = _among(options, table)
        columns = {name: plain(table.column(name)) for name in wanted}

        def optional(name: str | None, get: Callable[[str, pa.ChunkedArray], Any]) -> Any:
            return get(name, columns[name]) if name else None

        rows = _Rows(
            observations=vectors(columns, options.observations),
            actions=vectors(columns, options.actions),
            rewards=optional(options.reward, matrix),
            time=optional(options.time, seconds),
            terminal=optional(options.terminal, truths),
        )
        return rows, optional(options.episode, groups) or [("", slice(None))]


def _among(options: TableData, table: pa.Table) -> pa.Table:
    """The rows of a file that are asked for. Raises DataError, without its name, where they are
    not there.
    """
    if options.row_range is None:
        return table
    first, last = options.row_range
    if last >= table.num_rows:
        raise DataError(
            f"data.row_range=[{first},{last}]: has {table.num_rows:,} rows; accepted: up to "
            f"{table.num_rows - 1}"
        )
    return table.slice(first, last - first + 1)


def _episode(options: TableData, name: str, rows: _Rows) -> Episode:
    """Raises DataError, without the name, for an end in the middle and for actions of no class."""
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
    """Raises DataError if an episode ends before its last row."""
    early = () if terminal is None else np.flatnonzero(terminal[:-1])
    if len(early) == 0:
        return
    apart = "" if options.episode else "; data.episode names a column that tells episodes apart"
    raise DataError(
        f"column {quoted(options.terminal)} is true at row {early[0]} of rows 0 to "
        f"{len(terminal) - 1}; accepted: true at the last row alone{apart}"
    )


def _long_steps(episode: Episode) -> list[str]:
    """A line if a step of time is much longer than the usual one, else none."""
    steps = np.zeros(0) if episode.time is None else np.diff(episode.time)
    if len(steps) == 0 or not np.isfinite(steps).all():
        return []
    median, row = float(np.median(steps)), int(steps.argmax())
    if steps[row] <= UNEVEN * median or median == 0:  # 0: a clock too coarse to tell
        return []
    return [f"{episode.name}: {steps[row]:.3g} s after row {row}, the median is {median:.3g} s"]
