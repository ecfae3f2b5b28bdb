"""Which checkpoints on disk are whole. What is found damaged is set aside, never deleted.

Beside the arrays lie the size and the CRC-32 of each of their files, written in the background
before a checkpoint appears under its name; the small JSON carries a CRC-32 of itself. So any
flipped bit, cut or missing file is found before a library parses it. A folder that is still being
written has another name and counts as none.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

from worldmodel.errors import CheckpointError, bullet_list
from worldmodel.system.storage import raise_storage_errors

VERSION = 2  # of the format; 1 had no sums
CHECKSUMS = "sums.json"  # beside the arrays: name of a file -> its size in bytes and CRC-32
CHUNK_BYTES = 1 << 22


class CorruptCheckpoint(Exception):
    """What is wrong with a checkpoint."""


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, whole or not, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and p.name.isascii())


def write_checksums(folder: Path) -> None:
    """Notes size and CRC-32 of every file in `folder`, in `sums.json` there."""
    files = {name: _sum(folder / name) for name in _files(folder) if name != CHECKSUMS}
    with (folder / CHECKSUMS).open("w") as file:
        json.dump(with_checksum({"files": files}), file)
        file.flush()
        os.fsync(file.fileno())


def with_checksum(meta: dict[str, Any]) -> dict[str, Any]:
    """`meta` with the format's version and a CRC-32 of all the rest."""
    meta = {"version": VERSION, **meta}
    return meta | {"crc32": _seal(meta)}


def _unsealed(checkpoint: Path, name: str) -> dict[str, Any]:
    """What was `with_checksum` in file `name`. Raises CorruptCheckpoint."""
    try:
        value = json.loads((checkpoint / name).read_bytes())
        version, crc32 = value["version"], value.pop("crc32", None)
    except OSError as error:
        raise CorruptCheckpoint(f"{name}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise CorruptCheckpoint(f"{name} cannot be read") from None
    if crc32 != (None if version == 1 else _seal(value)):
        raise CorruptCheckpoint(f"{name} is not what was written")
    return value


def read_metadata(checkpoint: Path) -> dict[str, Any]:
    """The small JSON of a checkpoint.

    Raises CorruptCheckpoint, and CheckpointError if a newer version of this project wrote it.
    """
    meta = _unsealed(checkpoint, "meta/metadata")
    if meta["version"] > VERSION:
        raise CheckpointError(
            f"{checkpoint} was written by a newer version of this project (format "
            f"{meta['version']}, this one reads up to {VERSION})"
        )
    return meta


def verify(checkpoint: Path) -> None:
    """Reads every byte of a checkpoint. Raises CorruptCheckpoint, and CheckpointError as `read_metadata`."""
    if read_metadata(checkpoint)["version"] == 1:
        return
    for name, noted in _unsealed(checkpoint, f"state/{CHECKSUMS}")["files"].items():
        try:
            found = _sum(checkpoint / "state" / name)
        except OSError as error:
            raise CorruptCheckpoint(f"state/{name}: {error.strerror}") from None
        if found != noted:
            raise CorruptCheckpoint(f"state/{name} is not what was written")


def latest_valid(folder: Path) -> tuple[int | None, dict[int, str]]:
    """The newest step whose checkpoint is whole, None if there is no checkpoint, and what is wrong
    with each newer one.

    Raises CheckpointError if there are checkpoints and all are damaged: to begin again from the
    seed would throw away work that a backup may still hold, so that has to be asked for.
    """
    faults: dict[int, str] = {}
    for step in reversed(checkpoint_steps(folder)):
        try:
            verify(folder / str(step))
        except CorruptCheckpoint as fault:
            faults[step] = str(fault)
            continue
        return step, faults
    if faults:
        told = [f"{step}: {fault}" for step, fault in faults.items()]
        raise CheckpointError(
            bullet_list(f"{folder}: no checkpoint is whole; nothing was changed", told)
            + "\nPut back a copy of one, or start over with fresh=true, which moves this run aside."
        )
    return None, {}


def quarantine_corrupt(folder: Path, whole: int | None, faults: dict[int, str]) -> None:
    """Moves what `latest_valid` found damaged to FOLDER.damaged/, so that these steps can be
    written again, and tells of it.
    """
    for step, fault in faults.items():
        aside = _free_name(folder.with_name(f"{folder.name}.damaged") / str(step))
        with raise_storage_errors(aside):
            aside.parent.mkdir(exist_ok=True)
            (folder / str(step)).rename(aside)
        print(
            f"warning: {folder / str(step)} is damaged ({fault}) and now lies in {aside}; "
            f"going on from {folder / str(whole)}",
            flush=True,
        )


def remove_unfinished(folder: Path) -> None:
    """Frees the space of what a killed run was writing, which never became a checkpoint."""
    for part in folder.glob("*.orbax-checkpoint-tmp*"):
        with raise_storage_errors(part):
            shutil.rmtree(part)


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.{number}") for number in range(1, 1_000_000))
    return path if not path.exists() else next(p for p in names if not p.exists())


def _files(folder: Path) -> list[str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return sorted(p.relative_to(folder).as_posix() for p in files)


def _sum(path: Path) -> list[int]:
    """Size in bytes and CRC-32."""
    size = crc32 = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            size, crc32 = size + len(chunk), zlib.crc32(chunk, crc32)
    return [size, crc32]


def _seal(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())
