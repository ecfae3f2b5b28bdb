"""Decoded logs kept on disk, to be memory-mapped: a second start of a large set decodes nothing.

A store is a folder of raw columns with a `meta.json`. It is named by a digest of everything that
shapes it, so it is never stale, and it appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.columns import open_memmap
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.system.storage import disk_error, make_directory, raise_storage_errors

FORMAT = 1  # of a store, and of what readers make of their files: raise it and all is decoded anew
META = "meta.json"


def cache_key(recipe: dict[str, Any], files: Iterable[Path]) -> str:
    """A digest of the options that shape what is read, and of the content of the files."""
    total = hashlib.sha256(json.dumps([FORMAT, recipe], sort_keys=True).encode())
    with ThreadPoolExecutor() as pool:
        for digest in pool.map(_file_digest, files):
            total.update(digest)
    return total.hexdigest()[:24]


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder to write to, which becomes `folder` if all goes well, and else is removed.

    Another process may have finished the same one meanwhile: then that one stays. Folders that a
    killed writer left are removed.
    """
    make_directory(folder.parent)
    _remove_abandoned(folder)
    part = folder.parent / f"{_mine(folder)}{os.getpid()}-{secrets.token_hex(4)}"
    make_directory(part)
    try:
        yield part
        try:
            os.rename(part, folder)
        except OSError:
            if not folder.exists():
                raise
    except OSError as error:
        if disk_error(error) is None:
            raise
        with raise_storage_errors(folder):
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _mine(folder: Path) -> str:
    """How the names of this machine's hidden folders begin: others may write here too."""
    return f".{folder.name}.{platform.node()}."


def _remove_abandoned(folder: Path) -> None:
    """Removes hidden folders of writers on this machine that are no longer there."""
    for part in folder.parent.iterdir():
        writer = part.name.removeprefix(_mine(folder)).partition("-")[0]
        if part.name.startswith(_mine(folder)) and writer.isdigit() and not _runs(int(writer)):
            shutil.rmtree(part, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether a process of this number is there; nothing is sent to it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_metadata(trajectories: Trajectories, folder: Path) -> None:
    """Writes the `meta.json` of rows that lie in `folder` already, each column in its file."""
    columns = {}
    for name, array in trajectories.fields().items():
        if not isinstance(array, np.memmap):
            raise ValueError(f"{name} is not memory-mapped")
        columns[name] = {
            "file": Path(array.filename).name, "dtype": str(array.dtype), "shape": array.shape,
        }  # fmt: skip
    meta = {
        "columns": columns,
        "lengths": trajectories.lengths.tolist(),
        "episode_starts": trajectories.offsets.tolist(),
        "terminated": trajectories.terminated.tolist(),
        "names": trajectories.names,
        "action": dataclasses.asdict(trajectories.action_spec),
        "source": trajectories.source,
        "digest": trajectories.fingerprint(),
    }
    (folder / META).write_text(json.dumps(meta))


def open_cache(folder: Path) -> Trajectories:
    """The logs kept in `folder`, with their rows memory-mapped."""
    meta = json.loads((folder / META).read_text())
    arrays = {
        name: open_memmap(folder / c["file"], np.dtype(c["dtype"]), tuple(c["shape"]))
        for name, c in meta["columns"].items()
    }
    prefix = "observations."
    return Trajectories(
        observations={k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)},
        actions=arrays["actions"],
        rewards=arrays.get("rewards"),
        lengths=np.asarray(meta["lengths"], np.int64),
        terminated=np.asarray(meta["terminated"], bool),
        action_spec=ActionSpec.from_json(meta["action"]),
        source=meta["source"],
        episode_starts=np.asarray(meta["episode_starts"], np.int64),
        names=tuple(meta["names"]),
        digest=meta["digest"],
    )
