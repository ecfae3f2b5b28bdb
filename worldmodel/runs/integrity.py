"""Which checkpoints on disk are valid. Damaged ones are moved aside, never deleted.

The size and CRC-32 of every file are written beside the arrays, in the background, before a
checkpoint appears under its name; the metadata contains a CRC-32 of itself. So any flipped bit,
truncated or missing file is detected before a library parses it. A folder that is still being
written has another name and does not count.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

from worldmodel.errors import CheckpointError, bullet_list
from worldmodel.system.storage import free_name, raise_storage_errors

VERSION = 2  # of the format; 1 had no checksums
CHECKSUMS = "sums.json"  # beside the arrays: file name -> size in bytes and CRC-32
CHUNK_BYTES = 1 << 22


class CorruptCheckpoint(Exception):
    """What is wrong with a checkpoint."""


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, valid or not, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and p.name.isascii())


def write_checksums(folder: Path) -> None:
    """Writes size and CRC-32 of every file in `folder` to `sums.json` there."""
    files = {name: _checksum(folder / name) for name in _files(folder) if name != CHECKSUMS}
    with (folder / CHECKSUMS).open("w") as file:
        json.dump(with_checksum({"files": files}), file)
        file.flush()
        os.fsync(file.fileno())


def with_checksum(meta: dict[str, Any]) -> dict[str, Any]:
    """`meta` with the version of the format and a CRC-32 of both."""
    meta = {"version": VERSION, **meta}
    return meta | {"crc32": _crc32(meta)}


def _read_with_checksum(checkpoint: Path, name: str) -> dict[str, Any]:
    """A JSON file that was written `with_checksum`. Raises CorruptCheckpoint."""
    try:
        value = json.loads((checkpoint / name).read_bytes())
        version, crc32 = value["version"], value.pop("crc32", None)
    except OSError as error:
        raise CorruptCheckpoint(f"{name}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise CorruptCheckpoint(f"{name} is not readable") from None
    if crc32 != (None if version == 1 else _crc32(value)):
        raise CorruptCheckpoint(f"{name} does not match its checksum")
    return value


def read_metadata(checkpoint: Path) -> dict[str, Any]:
    """The metadata of a checkpoint.

    Raises CorruptCheckpoint, and CheckpointError if a newer version of worldmodel wrote it.
    """
    meta = _read_with_checksum(checkpoint, "meta/metadata")
    if meta["version"] > VERSION:
        raise CheckpointError(
            f"{checkpoint} was written by a newer version of worldmodel (checkpoint format "
            f"{meta['version']}; this version reads formats up to {VERSION})"
        )
    return meta


def verify(checkpoint: Path) -> None:
    """Reads every byte of a checkpoint. Raises the same errors as `read_metadata`."""
    if read_metadata(checkpoint)["version"] == 1:
        return
    for name, expected in _read_with_checksum(checkpoint, f"state/{CHECKSUMS}")["files"].items():
        try:
            actual = _checksum(checkpoint / "state" / name)
        except OSError as error:
            raise CorruptCheckpoint(f"state/{name}: {error.strerror}") from None
        if actual != expected:
            raise CorruptCheckpoint(f"state/{name} does not match its checksum")


def latest_valid(folder: Path) -> tuple[int | None, dict[int, str]]:
    """Returns the newest step with a valid checkpoint (None if there are no checkpoints), and what
    is wrong with each newer one.

    Raises CheckpointError if there are checkpoints and all are damaged: a backup may exist, so
    starting again from the seed has to be requested.
    """
    damaged: dict[int, str] = {}
    for step in reversed(checkpoint_steps(folder)):
        try:
            verify(folder / str(step))
        except CorruptCheckpoint as error:
            damaged[step] = str(error)
            continue
        return step, damaged
    if damaged:
        errors = [f"{step}: {error}" for step, error in damaged.items()]
        raise CheckpointError(
            bullet_list(f"{folder}: all checkpoints are damaged; nothing was changed", errors)
            + "\nRestore one from a backup, or start over with fresh=true; this run is moved aside."
        )
    return None, {}


def quarantine_corrupt(folder: Path, valid: int | None, damaged: dict[int, str]) -> None:
    """Moves the `damaged` checkpoints that `latest_valid` returned to FOLDER.damaged/, so that
    these steps can be saved again, and prints a warning for each.
    """
    for step, error in damaged.items():
        aside = folder.with_name(f"{folder.name}.damaged") / str(step)
        aside = free_name(aside) if aside.exists() else aside
        with raise_storage_errors(aside):
            aside.parent.mkdir(exist_ok=True)
            (folder / str(step)).rename(aside)
        print(
            f"warning: {folder / str(step)} is damaged ({error}) and was moved to {aside}; "
            f"resuming from {folder / str(valid)}",
            flush=True,
        )


def remove_unfinished(folder: Path) -> None:
    """Deletes what a killed run was writing, which never became a checkpoint."""
    for part in folder.glob("*.orbax-checkpoint-tmp*"):
        with raise_storage_errors(part):
            shutil.rmtree(part)


def _files(folder: Path) -> list[str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return sorted(p.relative_to(folder).as_posix() for p in files)


def _checksum(path: Path) -> list[int]:
    """Size in bytes and CRC-32."""
    size = crc32 = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            size, crc32 = size + len(chunk), zlib.crc32(chunk, crc32)
    return [size, crc32]


def _crc32(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())
