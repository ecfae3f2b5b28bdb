"""Atomic writes, and errors in a few lines where a disk is full, read-only or broken."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import platform
import secrets
import shutil
import tempfile
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
    return format_bytes(shutil.disk_usage(_existing(path)).free)


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


def user_path(path: str | os.PathLike) -> Path:
    """The path with `~` expanded. Raises StorageError where this user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise StorageError(
            f"{path}: this user has no home folder; set HOME, or give a path without ~"
        ) from None


def check_writable(folder: Path, hint: str = "") -> None:
    """Raises StorageError unless files can be created in `folder`, or in the nearest of its parents
    that exists; `hint` is as in `raise_storage_errors`.
    """
    with raise_storage_errors(folder, hint), tempfile.TemporaryFile(dir=_existing(folder)):
        pass


def _existing(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    return next((p for p in (path, *path.absolute().parents) if os.path.exists(p)), Path("/"))


def make_directory(path: Path) -> None:
    """Creates a folder and its parents if they do not exist."""
    with raise_storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Writes a file completely or not at all. Its folder has to exist: one that was moved away is
    not created again.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
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


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Gives a hidden folder that becomes `folder` on success, and is removed on failure.

    All its files are on the disk before it gets its name. If another process has created `folder`
    meanwhile, that one stays. Also removes hidden folders that a killed process left.
    """
    make_directory(folder.parent)
    _remove_abandoned(folder)
    part = _hidden_sibling(folder)
    make_directory(part)
    try:
        yield part
        for path in (*part.rglob("*"), part):
            _sync(path)
        try:
            os.rename(part, folder)
        except OSError:
            if not folder.exists():
                raise
        _sync(folder.parent)
    except Exception as error:
        if isinstance(error, UserError) or disk_error(error) is None:
            raise
        with raise_storage_errors(folder):
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder; other processes see it whole or not at all."""
    part = _hidden_sibling(folder)
    with raise_storage_errors(folder), contextlib.suppress(FileNotFoundError):
        os.rename(folder, part)
    shutil.rmtree(part, ignore_errors=True)


def _sync(path: Path) -> None:
    """Has the system write a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hidden_sibling(folder: Path) -> Path:
    return folder.parent / f"{_hidden_prefix(folder)}{os.getpid()}-{secrets.token_hex(4)}"


def _hidden_prefix(folder: Path) -> str:
    """Prefix of the hidden folders of this machine; others may share the file system."""
    return f".{folder.name}.{platform.node()}."


def _remove_abandoned(folder: Path) -> None:
    """Removes hidden folders of processes of this machine that no longer run."""
    prefix = _hidden_prefix(folder)
    for part in folder.parent.iterdir():
        writer = part.name.removeprefix(prefix).partition("-")[0]
        if part.name.startswith(prefix) and writer.isdigit() and not _is_running(int(writer)):
            shutil.rmtree(part, ignore_errors=True)


def _is_running(process: int) -> bool:
    """Whether a process with this id exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
