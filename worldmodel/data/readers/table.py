"""CSV and Parquet tables: a row is an observation, the action taken there and its reward.

One file is one episode, unless `data.episode` names a column: then the rows with the same value in
it are an episode, in the order of the file, even if episodes are interleaved. Without it, the marks
of `data.terminal` and `data.truncated` end episodes, and next observations that are not those of
the next row do. An episode lies in one file: the same value in another file is another episode.
Messages count rows from 0.

With `data.feedthrough` an action acts on the observation of its own row, as the input of a sampled
system may, and becomes the action of the previous row.

CSV is UTF-8 text with a header, laid out as `data.csv` says. An empty cell is NaN, which validation
reports. A column of lists of one length, as in Parquet, is a vector; a column of bytes, or of
structs of bytes and path, holds encoded images and is an observation of its own.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.readers.files import existing_files, reading
from worldmodel.data.readers.lerobot_metadata import dataset_root
from worldmodel.data.readers.marks import MARKS, discounts, role_of
from worldmodel.data.readers.tables.columns import (
    Column,
    encoded,
    groups,
    is_bytes,
    listing,
    marks,
    matrix,
    quoted,
    seconds,
    vectors,
)
from worldmodel.data.readers.tables.csv_layout import TEXT
from worldmodel.data.readers.tables.episodes import (
    Rows,
    Span,
    Told,
    build_episode,
    check_next,
    spans,
)
from worldmodel.data.readers.tables.files import PARQUET, Request, open_table
from worldmodel.data.readers.tables.options import TableData
from worldmodel.data.readers.tables.order import StepOrder, step_column
from worldmodel.errors import DataError, bullet_list

logger = logging.getLogger(__name__)

ACCEPTED = "CSV with rows of the same length as the header, or Parquet"
EPISODE_NAMES = (
    *("episode", "episode_id", "episode_index", "episode_idx", "episode_number", "ep"),
    *("trajectory", "trajectory_id", "traj_id", "traj_idx"),
)


def present_columns(options: TableData) -> str:
    """A line with the columns of the first file; '' if it cannot be read."""
    try:
        file = existing_files(options)[0]
        with reading(ACCEPTED):
            names = open_table(file, Request(()), options.csv).names
    except DataError:
        return ""
    return f"columns of {file}: {listing(names)}"


@register("data", "table", TableData, endings=(*TEXT, *PARQUET), columns=present_columns)
def read(options: TableData) -> EpisodeStream:
    """Reads the episodes of all tables. Raises DataError if no file has the requested columns."""
    files = existing_files(options)
    _check_headers(options, files)
    split = options.episode or options.next_observations or options.mark_roles
    return EpisodeStream(
        source=str(options.path),
        episodes=_episodes(options, files),
        files=files,
        count=None if split else len(files),
    )


# ----------------------------------------------------------------------------------------- columns


def _request(options: TableData) -> Request:
    reward = options.reward_column
    others = [options.episode, options.time, *options.mark_roles]
    return Request(
        vectors=(
            options.observations,
            options.next_observations or [],
            options.actions,
            [reward] if reward else [],
        ),
        others=[name for name in others if name],
        text=[name for name in [options.episode] if name],  # so that 1 and 001 differ
        rows=None if options.row_range is None else (options.row_range[0], options.row_range[1]),
    )


def _check_headers(options: TableData, files: Sequence[Path]) -> None:
    """Raises DataError if no file has the requested columns, and warns of those that look like ends
    or rewards and are not requested.
    """
    errors: dict[str, list[Path]] = {}
    request = _request(options)
    for file in files:
        try:
            with reading(ACCEPTED):
                names = open_table(file, request, options.csv).names
            _warn_unread(options, names, request)
            if whole := _whole_dataset(file):
                logger.warning("%s: is a file of a LeRobotDataset; %s", file, whole)
            return
        except DataError as error:
            whole = _whole_dataset(file)
            text = f"{error}; {whole}" if whole else str(error)
            errors.setdefault(text, []).append(file)
    lines = []
    for error, those in errors.items():
        more = f" (and {len(those) - 1} more)" if len(those) > 1 else ""
        lines.append(f"{those[0]}{more}: {error}")
    head = f"{options.path}: no file has the requested columns"
    raise DataError(lines[0] if len(lines) == 1 else bullet_list(head, lines))


def _whole_dataset(file: Path) -> str:
    """How a LeRobotDataset is read that has this file; '' if there is none."""
    root = dataset_root(file)
    return f"data=lerobot data.path={root} reads all of it, with videos" if root else ""


def _warn_unread(options: TableData, names: Sequence[str], request: Request) -> None:
    """Names the columns that mark ends, hold rewards or number episodes and are not read."""
    uses = {}
    for name in names:
        word = name.lower().replace("/", ".").rpartition(".")[2]
        role = role_of(word)
        if name in request.names or name in options.roles or not name:
            continue
        if word in EPISODE_NAMES and not options.episode:
            uses[name] = f"data.episode={name}"
        elif role in ("done", "terminal"):
            uses[name] = f"data.terminal={name} (the environment ended) or data.truncated={name}"
        elif role in ("truncated", "end"):
            uses[name] = f"data.truncated={name}"
        elif role == "reward" and not options.reward_column:
            uses[name] = f"data.reward={name}"
        elif role in MARKS:
            uses[name] = f'"data.roles={{{name}: {role.removesuffix("_done") or role}}}"'
    if uses:
        lines = [f"{quoted(name)} by {use}" for name, use in uses.items()]
        head = f"{options.path}: columns that look like ends, rewards or episodes are not read"
        logger.warning("%s", bullet_list(f"{head}; they are", lines))


# ---------------------------------------------------------------------------------------- episodes


def _episodes(options: TableData, files: Sequence[Path]) -> Iterator[Episode | UnreadableEpisode]:
    """Yields the episodes of all files; says at the end how their last rows were read."""
    told, order = Told(str(options.path)), StepOrder()
    spread: list[str] = []
    first_file: dict[str, Path] = {}
    for file in files:
        try:
            with reading(ACCEPTED):
                rows, found = _load(options, file, order)
                follows = check_next(rows, found, str(file), told)
        except DataError as error:
            yield UnreadableEpisode(str(file), str(error))
            continue
        for span in found:
            name = f"{file} episode {span.label}" if span.label else str(file)
            if span.error:
                yield UnreadableEpisode(name, span.error)
                continue
            try:
                yield build_episode(options, name, rows.select(span.rows), span, follows, told)
            except DataError as error:
                yield UnreadableEpisode(name, str(error))
                continue
            if options.episode and first_file.setdefault(span.label, file) != file:
                spread.append(f"{span.label} is in {first_file[span.label]} and in {file}")
    told.say()
    for head, lines in order.warnings().items():
        logger.warning("%s", bullet_list(f"{options.path}: {head}", lines))
    if spread:
        head = (
            f"{options.path}: {len(spread)} values of column {quoted(options.episode)} are in "
            "several files; each file counts as another episode"
        )
        logger.warning("%s", bullet_list(head, spread))


def _load(options: TableData, file: Path, order: StepOrder) -> tuple[Rows, list[Span]]:
    """Reads the rows of a file and finds its episodes. Raises DataError, without its name."""
    request = _request(options)
    opened = open_table(file, request, options.csv)
    step = None if options.time else step_column(opened.names)
    if step and step not in request.names and opened.names.count(step) == 1:
        others = (*request.others, step)
        opened = open_table(file, dataclasses.replace(request, others=others), options.csv)
    columns = opened.read()
    reward, following = options.reward_column, options.next_observations
    rows = Rows(
        observations=_observations(columns, options),
        actions=vectors(columns, options.actions),
        rewards=matrix(reward, columns[reward]) if reward else None,
        time=seconds(options.time, columns[options.time]) if options.time else None,
        following=vectors(columns, following) if following else None,
    )
    ends = {
        name: _ends(name, role, columns[name], rows.blank())
        for name, role in options.mark_roles.items()
    }
    numbered = groups(options.episode, columns[options.episode]) if options.episode else None
    found = spans(options, rows, ends, numbered)
    if step and step not in options.roles:
        index = np.arange(len(rows.actions))
        order.check(str(file), step, columns[step], [index[span.rows] for span in found])
    return rows, found


def _ends(name: str, role: str, column: Column, optional: np.ndarray) -> np.ndarray:
    """(rows,) bool, where a mark says that an episode ends, or begins."""
    if role == "not_terminal":
        return discounts(matrix(name, column), name)
    values = marks(name, column, optional)
    return ~values if role == "not_end" else values


def _observations(columns: dict[str, Column], options: TableData) -> dict[str, np.ndarray]:
    """The columns of bytes, by name, and all others as one vector."""
    images = [name for name in options.observations if is_bytes(columns[name])]
    found = {name: encoded(name, columns[name]) for name in images}
    if others := [name for name in options.observations if name not in images]:
        found = {"observation": vectors(columns, others), **found}
    return found
