"""Which checkpoints on disk are whole. What is found damaged is set aside, never deleted.

Beside the arrays lie the size and the CRC-32 of each of their files, written in the background
before a checkpoint appears under its name; the small JSON carries a CRC-32 of itself. So any
flipped bit, cut or missing file is found before a library parses it. A folder that is still being
written has another name and counts as none.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from worldmodel.errors import CheckpointError, listed
from worldmodel.storage import writing

VERSION = 2  # of the format; 1 had no sums
SUMS = "sums.json"  # beside the arrays: name of a file -> its size in bytes and CRC-32
CHUNK_BYTES = 1 << 22


class Damaged(Exception):
    """What is wrong with a checkpoint."""


def steps_in(folder: Path) -> list[int]:
    """The steps that have a checkpoint, whole or not, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and p.name.isascii())


def write_sums(folder: Path) -> None:
    """Notes size and CRC-32 of every file in `folder`, in `sums.json` there."""
    sums = {name: _sum(folder / name) for name in _files(folder)}
    with (folder / SUMS).open("w") as file:
        json.dump(sums, file)
        file.flush()
        os.fsync(file.fileno())


def sealed(meta: dict[str, Any]) -> dict[str, Any]:
    """`meta` with the format's version and a CRC-32 of all the rest."""
    meta = {"version": VERSION, **meta}
    return meta | {"crc32": _seal(meta)}


def meta_of(checkpoint: Path) -> dict[str, Any]:
    """The small JSON of a checkpoint.

    Raises Damaged, and CheckpointError if a newer version of this project wrote it.
    """
    try:
        meta = json.loads((checkpoint / "meta" / "metadata").read_bytes())
        version, crc32 = meta["version"], meta.pop("crc32", None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise Damaged(f"its meta cannot be read ({type(error).__name__})") from None
    if crc32 != (None if version == 1 else _seal(meta)):
        raise Damaged("its meta is not what was written")
    if version > VERSION:
        raise CheckpointError(
            f"{checkpoint} was written by a newer version of this project (format {version}, this "
            f"one reads up to {VERSION})"
        )
    return meta


def verify(checkpoint: Path) -> None:
    """Reads every byte of a checkpoint. Raises Damaged, and CheckpointError as `meta_of`."""
    arrays = checkpoint / "state"
    if meta_of(checkpoint)["version"] == 1:
        return
    try:
        sums = json.loads((arrays / SUMS).read_bytes())
        for name, noted in sums.items():
            if _sum(arrays / name) != noted:
                raise Damaged(f"state/{name} is not what was written")
    except OSError as error:
        name = Path(error.filename or arrays).relative_to(checkpoint)
        raise Damaged(f"{name}: {error.strerror}") from None
    except (ValueError, AttributeError):
        raise Damaged(f"state/{SUMS} cannot be read") from None


def newest_whole(folder: Path) -> tuple[int | None, dict[int, str]]:
    """The newest step whose checkpoint is whole, None if there is no checkpoint, and what is wrong
    with each newer one.

    Raises CheckpointError if there are checkpoints and all are damaged: to begin again from the
    seed would throw away work that a backup may still hold, so that has to be asked for.
    """
    faults: dict[int, str] = {}
    for step in reversed(steps_in(folder)):
        try:
            verify(folder / str(step))
        except Damaged as fault:
            faults[step] = str(fault)
            continue
        return step, faults
    if faults:
        told = [f"{step}: {fault}" for step, fault in faults.items()]
        raise CheckpointError(
            listed(f"{folder}: no checkpoint is whole; nothing was changed", told)
            + "\nPut back a copy of one, or start over with fresh=true, which moves this run aside."
        )
    return None, {}


def set_damaged_aside(folder: Path) -> None:
    """Moves checkpoints newer than the newest whole one to FOLDER.damaged/, so that their steps can
    be written again, and tells of it. Raises as `newest_whole`.
    """
    whole, faults = newest_whole(folder)
    for step, fault in faults.items():
        aside = _free_name(folder.with_name(f"{folder.name}.damaged") / str(step))
        with writing(aside):
            aside.parent.mkdir(exist_ok=True)
            (folder / str(step)).rename(aside)
        print(
            f"warning: {folder / str(step)} is damaged ({fault}) and now lies in {aside}; "
            f"going on from {folder / str(whole)}",
            flush=True,
        )


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
