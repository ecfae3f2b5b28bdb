"""Atomic writes, and errors in a few lines where a disk is full, read-only or broken."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worldmodel.errors import StorageError, UserError, first_line

# Errors of a disk or its permissions; any other error of the system is a bug in the program.
DISK_ERRNOS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ESTALE, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
)


@contextmanager
def raise_storage_errors(path: Path, hint: str = "") -> Iterator[None]:
    """Converts disk errors inside the block to StorageError, with `path` and the free space there.

    hint: a last line of the message, such as what to do
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else disk_error(error)
        if reason is None:
            raise
        lines = [f"{path} cannot be written: {reason} ({free_space(path)} free there)", hint]
        raise StorageError("\n".join(filter(None, lines))) from None


def disk_error(error: BaseException | None) -> str | None:
    """The reason of a disk error; None if `error` is something else.

    Libraries wrap errors of the system in their own, so causes and texts are searched too.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
            return os.strerror(error.errno)
        reasons = [os.strerror(n) for n in DISK_ERRNOS if os.strerror(n) in str(error)]
        if reasons:
            return reasons[0]
        if "RESOURCE_EXHAUSTED" in str(error) and "writ" in str(error):
            return first_line(error)
        error = error.__cause__ or error.__context__
    return None


def free_space(path: Path) -> str:
    """On the file system of `path`, or of its nearest parent that exists, as text with a unit."""
    existing = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
    return format_bytes(shutil.disk_usage(existing).free)


def format_bytes(count: float) -> str:
    """A number of bytes with a unit: `0 B`, `12.3 MiB`."""
    units = ["B", "KiB", "MiB", "GiB"]
    while count >= 1024 and len(units) > 1:
        count, units = count / 1024, units[1:]
    return f"{count:.{units[0] != 'B':d}f} {units[0]}"


def free_name(path: Path) -> Path:
    """The first of PATH.1, PATH.2, ... that does not exist."""
    names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def make_directory(path: Path) -> None:
    """Creates a folder and its parents if they do not exist."""
    with raise_storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Writes a file completely or not at all, and creates its folder."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    make_directory(path.parent)
    with raise_storage_errors(path):
        try:
            with part.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file completely or not at all."""
    write_text_atomic(path, json.dumps(value, indent=1) + "\n")
