"""Writing to disk: a file is there whole or not at all, and what a disk that is full, read-only or
broken refuses is told in a few lines.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worldmodel.errors import StorageError, UserError, first_line

# What a disk or its owner refuses; any other error of the system is a mistake of the program.
DISK_ERRNOS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ESTALE, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
)


@contextmanager
def raise_storage_errors(path: Path, then: str = "") -> Iterator[None]:
    """Raises StorageError where the disk refuses what is done inside; it names `path`, the free
    space, and what to do `then`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else disk_error(error)
        if reason is None:
            raise
        lines = [f"{path} cannot be written: {reason} ({free_space(path)} free there)", then]
        raise StorageError("\n".join(filter(None, lines))) from None


def disk_error(error: BaseException | None) -> str | None:
    """What the disk said, or None where `error` is not of the disk's making.

    Libraries wrap errors of the system in their own, so causes and texts are looked at too.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
            return os.strerror(error.errno)
        said = [os.strerror(n) for n in DISK_ERRNOS if os.strerror(n) in str(error)]
        if said:
            return said[0]
        if "RESOURCE_EXHAUSTED" in str(error) and "writ" in str(error):
            return first_line(error)
        error = error.__cause__ or error.__context__
    return None


def free_space(path: Path) -> str:
    """Of the file system of `path`, or of the nearest folder above it that exists."""
    there = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
    free = float(shutil.disk_usage(there).free)
    for unit in ("B", "KiB", "MiB"):
        if free < 1024:
            return f"{free:.0f} {unit}"
        free /= 1024
    return f"{free:.1f} GiB"


def make_directory(path: Path) -> None:
    """Makes a folder, and those above it, where there is none yet."""
    with raise_storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Writes a file, and its folder, so that it is there whole or not at all."""
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
    """Writes a file so that it is there whole or not at all."""
    write_text_atomic(path, json.dumps(value, indent=1) + "\n")
