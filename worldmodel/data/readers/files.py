"""The files that the options of a dataset name, and what goes wrong while they are read."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from worldmodel.config import DataOptions
from worldmodel.config.registry import entry_of
from worldmodel.data.episodes import Episode, UnreadableEpisode
from worldmodel.errors import DataError, first_line
from worldmodel.system.storage import user_path

MAX_CHARACTERS = 200  # of a library's message
LONGEST_PATTERN = 4096  # as paths are on Linux


def summary(schema: type) -> str:
    """The first line of the documentation of a format's options, without the period."""
    return (schema.__doc__ or "").strip().splitlines()[0].rstrip(".")


@contextmanager
def reading(accepted: str, where: Path | str = "") -> Iterator[None]:
    """Turns whatever the library of a format raises into DataError that says what is accepted.

    Errors name `where`: a file or a member of it, unless the caller does.
    """
    prefix = f"{where}: " if where else ""
    try:
        yield
    except DataError as error:
        raise (DataError(f"{prefix}{error}") if where else error) from error.__cause__
    except Exception as error:  # libraries raise any exception for damaged files
        reason = first_line(error)[:MAX_CHARACTERS]
        raise DataError(f"{prefix}cannot be read ({reason}); accepted: {accepted}") from error


def read_files(
    files: Sequence[Path],
    episodes: Callable[[Path, str], Iterator[Episode | UnreadableEpisode]],
    accepted: str,
) -> Iterator[Episode | UnreadableEpisode]:
    """Yields the episodes of all files, and an `UnreadableEpisode` for a file that cannot be read.

    `episodes` takes a file and a prefix of the names of its episodes, and may raise any exception.
    """
    for file in files:
        try:
            with reading(accepted):
                # Messages already name a single file.
                yield from episodes(file, f"{file} " if len(files) > 1 else "")
        except DataError as error:
            yield UnreadableEpisode(str(file), str(error))


def existing_path(options: DataOptions) -> Path:
    """Returns `options.path`. Raises DataError if it is no file and no folder, or is empty."""
    path = user_path(options.path or "")
    error = None
    if not options.path or not os.path.exists(path):
        error = "does not exist"
    elif not (path.is_file() or path.is_dir()):
        error = "is neither a file nor a folder"
    elif path.is_dir() and not any(path.iterdir()):
        error = "is an empty folder"
    if error:
        raise DataError(f"data.path={options.path}: {error}; {_accepted(options)}")
    return path


def existing_files(options: DataOptions, endings: Iterable[str] = ()) -> tuple[Path, ...]:
    """Lists the files that `options.path` names, sorted: a file, a folder, or a glob pattern.

    A folder or a pattern gives the files with one of the `endings` or of those that the reader
    registered, and a pattern may also name another ending. Raises DataError if there are none.
    """
    endings = {*endings, *entry_of("data", options).details.get("endings", ())}
    pattern = os.path.expanduser(options.path or "")
    if any(mark in pattern for mark in "*?[") and not os.path.exists(pattern):
        candidates = matching_files(pattern)
        endings |= {Path(pattern).suffix.lower()} - {""}
    else:
        path = existing_path(options)
        if path.is_file():
            return (path,)
        candidates = sorted(path.iterdir())
    files = tuple(f for f in candidates if f.is_file() and f.suffix.lower() in endings)
    if not files:
        raise DataError(
            f"data.path={options.path}: no file ends in {' or '.join(sorted(endings))}; "
            f"{_accepted(options)}"
        )
    return files


def matching_files(pattern: str) -> list[Path]:
    """The files that a glob pattern matches, sorted; `**` stands for any folders."""
    if len(pattern) > LONGEST_PATTERN:  # would take seconds to compile
        return []
    return sorted(p for name in glob.glob(pattern, recursive=True) if (p := Path(name)).is_file())


def _accepted(options: DataOptions) -> str:
    return f"data={entry_of('data', options).name} reads {summary(type(options))}"
