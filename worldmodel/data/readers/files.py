"""The files that the options of a dataset name."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from worldmodel.config import DataOptions
from worldmodel.config.registry import entry_of
from worldmodel.errors import DataError


def summary(schema: type) -> str:
    """The first line of the documentation of a format's options, without the period."""
    return (schema.__doc__ or "").strip().splitlines()[0].rstrip(".")


def existing_path(options: DataOptions) -> Path:
    """Returns `options.path`. Raises DataError if it does not exist or is empty."""
    path = Path(options.path or "").expanduser()
    if not options.path or not path.exists():
        raise DataError(f"data.path={options.path}: does not exist; {_accepted(options)}")
    if path.is_dir() and not any(path.iterdir()):
        raise DataError(f"data.path={options.path}: is an empty folder; {_accepted(options)}")
    return path


def existing_files(options: DataOptions) -> list[Path]:
    """Lists the files that `options.path` names, sorted: a file, a folder, or a glob pattern.

    A folder or a pattern gives the files with one of the endings that the reader registered, and a
    pattern may also name another ending. Raises DataError if there are none.
    """
    endings = set(entry_of("data", options).details.get("endings", ()))
    pattern = os.path.expanduser(options.path or "")
    if any(mark in pattern for mark in "*?[") and not os.path.exists(pattern):
        candidates = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
        endings |= {Path(pattern).suffix.lower()} - {""}
    else:
        path = existing_path(options)
        if path.is_file():
            return [path]
        candidates = sorted(path.iterdir())
    files = [file for file in candidates if file.is_file() and file.suffix.lower() in endings]
    if not files:
        raise DataError(
            f"data.path={options.path}: no file ends in {' or '.join(sorted(endings))}; "
            f"{_accepted(options)}"
        )
    return files


def _accepted(options: DataOptions) -> str:
    return f"data={entry_of('data', options).name} reads {summary(type(options))}"
