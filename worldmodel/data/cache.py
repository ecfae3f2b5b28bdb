"""Cache of decoded datasets on disk, memory-mapped, so that a large one is decoded only once.

An entry is a folder of raw columns with a `meta.json`. Its name is a digest of everything that
determines its content, so it is never stale, and it is created atomically.
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

FORMAT = 1  # of an entry and of what readers return: increment it to invalidate the cache
META = "meta.json"


def cache_key(recipe: dict[str, Any], files: Iterable[Path]) -> str:
    """A digest of the options that determine what is read, and of the content of the files."""
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
    """Gives a hidden folder that becomes `folder` on success, and is removed on failure.

    If another process has created `folder` meanwhile, that one stays. Also removes hidden folders
    that a killed process left.
    """
    make_directory(folder.parent)
    _remove_abandoned(folder)
    part = folder.parent / f"{_hidden_prefix(folder)}{os.getpid()}-{secrets.token_hex(4)}"
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


def write_metadata(trajectories: Trajectories, folder: Path) -> None:
    """Writes the `meta.json` of columns that are files in `folder` already."""
    columns = {}
    for name, array in trajectories.fields().items():
        if not isinstance(array, np.memmap):
            raise ValueError(f"{name} is not memory-mapped")
        columns[name] = {
            "file": Path(str(array.filename)).name, "dtype": str(array.dtype), "shape": array.shape,
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
    """Opens the cached dataset in `folder`, memory-mapped."""
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
