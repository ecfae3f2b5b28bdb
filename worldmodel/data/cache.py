"""Cache of decoded datasets on disk, memory-mapped, so that a large one is decoded only once.

An entry is a folder of raw columns with a `meta.json`. Its name is a digest of everything that
determines its content, so it is never stale. It is created atomically, and every file has a
checksum that is compared whenever the entry is opened. What its reader warned of is stored with it,
since whoever opens it may not have seen it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.columns import open_memmap
from worldmodel.data.images import ImageConversion
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import DataError

logger = logging.getLogger(__name__)

FORMAT = 5  # of an entry and of what readers return: increment it to invalidate the cache
META = "meta.json"
BLOCK_BYTES = 2**24  # that a checksum is computed of at once


class DamagedCacheError(Exception):
    """An entry that is not as it was written. The message says which file."""


def cache_key(recipe: dict[str, Any], files: Iterable[Path]) -> str:
    """A digest of the options that determine what is read, and of the content of the files."""
    total = hashlib.sha256(json.dumps([FORMAT, recipe], sort_keys=True).encode())
    with ThreadPoolExecutor() as pool:
        for digest in pool.map(_file_digest, files):
            total.update(digest)
    return total.hexdigest()[:24]


def _file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def write_metadata(trajectories: Trajectories, folder: Path, warnings: Iterable[str] = ()) -> None:
    """Writes the `meta.json` of columns that are files in `folder` already, and what was warned of
    when they were read.
    """
    columns = {}
    for name, array in trajectories.fields().items():
        if not isinstance(array, np.memmap):
            raise ValueError(f"{name} is not memory-mapped")
        file = Path(str(array.filename)).name
        columns[name] = {"file": file, "dtype": str(array.dtype), "shape": array.shape}
    files = [folder / column["file"] for column in columns.values()]
    final_logged = trajectories.final_logged
    meta = {
        "columns": columns,
        "checksums": _checksums(files),
        "lengths": trajectories.lengths.tolist(),
        "episode_starts": trajectories.offsets.tolist(),
        "terminated": trajectories.terminated.tolist(),
        "final_logged": None if final_logged is None else final_logged.tolist(),
        "names": trajectories.names,
        "action": dataclasses.asdict(trajectories.action_spec),
        "source": trajectories.source,
        "images": {k: dataclasses.asdict(v) for k, v in trajectories.image_conversions.items()},
        "offsets": dict(trajectories.vector_offsets),
        "lost_digits": dict(trajectories.lost_digits),
        "digest": trajectories.fingerprint(),
        "warnings": list(warnings),
    }
    text = json.dumps(meta)
    (folder / META).write_text(f"{_text_digest(text)}\n{text}")


@contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """Records the warnings that readers log meanwhile."""
    handler, log = _Recorder(logging.WARNING), logging.getLogger(__package__)
    log.addHandler(handler)
    try:
        yield handler.messages
    finally:
        log.removeHandler(handler)


class _Recorder(logging.Handler):
    def __init__(self, level: int):
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def open_cache(folder: Path, *, warn: bool = True) -> Trajectories:
    """Opens the cached dataset in `folder`, memory-mapped; `warn` of what its reader warned of.

    Raises DamagedCacheError if a file is missing or is not as it was written.
    """
    try:
        digest, _, text = (folder / META).read_text().partition("\n")
        if digest != _text_digest(text):
            raise DamagedCacheError(f"{META} has another checksum")
        meta = json.loads(text)
        columns = meta["columns"]
        files = [folder / column["file"] for column in columns.values()]
        for file, wanted, present in zip(files, meta["checksums"], _checksums(files), strict=True):
            if present != wanted:
                raise DamagedCacheError(f"{file.name} has another checksum")
        arrays = {
            name: open_memmap(file, np.dtype(c["dtype"]), tuple(c["shape"]))
            for (name, c), file in zip(columns.items(), files, strict=True)
        }
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedCacheError(getattr(error, "strerror", None) or f"{META} is no text") from None
    for message in meta["warnings"] if warn else ():
        logger.warning("%s", message)
    prefix, final_logged = "observations.", meta["final_logged"]
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
        final_logged=None if final_logged is None else np.asarray(final_logged, bool),
        image_conversions={k: ImageConversion.from_json(v) for k, v in meta["images"].items()},
        vector_offsets={k: tuple(v) for k, v in meta["offsets"].items()},
        lost_digits=meta["lost_digits"],
    )


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checksums(files: Iterable[Path]) -> list[int]:
    """CRC-32 of each file: fast enough to be computed at every start."""

    def checksum(path: Path) -> int:
        value = 0
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK_BYTES):
                value = zlib.crc32(block, value)
        return value

    with ThreadPoolExecutor() as pool:
        return list(pool.map(checksum, files))
