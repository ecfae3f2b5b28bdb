"""Replay buffers of diffusion policy in zarr: `data/NAME` (N, ...) holds the rows of all episodes
end to end, and `meta/episode_ends` (episodes,) the row after each of them.

`action` and `reward` are what they are called, `timestamp` is the time, and all other arrays are
observed. The observation after the last action is not logged. The store is a folder or a zip file,
in version 2 or 3 of the format; zarr 2.18 and 3 read both.
"""

from __future__ import annotations

import json
import logging
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream
from worldmodel.data.observations import ObservationChoice
from worldmodel.data.readers.arrays.reading import are_counts, step_actions
from worldmodel.data.readers.files import existing_files, read_files, summary
from worldmodel.data.readers.marks import MARKS, check_roles, marked_rows, read_marks, role_of
from worldmodel.data.readers.sizes import check_memory, check_size
from worldmodel.errors import DataError
from worldmodel.system.storage import user_path

logger = logging.getLogger(__name__)

ENDS = "meta/episode_ends"
OF_A_STORE = (".zgroup", ".zmetadata", ".zarray", "zarr.json")  # metadata of its root
TIME = ("timestamp", "timestamps")
# Codecs that only compute; others, such as pickle, are not run.
CODECS = {
    *("bytes", "endian", "transpose", "sharding_indexed", "blosc", "zstd", "lz4", "gzip", "zlib"),
    *("bz2", "lzma", "crc32", "crc32c", "adler32", "fletcher32", "shuffle", "delta", "packbits"),
    *("fixedscaleoffset", "quantize", "astype", "bitround"),
}
IMAGE_CODECS = "imagecodecs_"  # a package of its own


@dataclass
class ZarrData(DataOptions):
    """Replay buffers of diffusion policy in zarr: a folder, a .zarr.zip file, or a pattern."""

    name: str = option("zarr", "data source")


ACCEPTED = summary(ZarrData)


def holds_buffer(folder: Path) -> bool:
    """Whether a folder is a store with the ends of episodes."""
    return any((folder / ENDS / name).is_file() for name in (".zarray", "zarr.json"))


@register("data", "zarr", ZarrData, endings=(".zip",), recognizes=holds_buffer)
def read(options: ZarrData) -> EpisodeStream:
    """Reads the episodes of all stores. Raises DataError if there is none, and without `zarr`."""
    try:
        import zarr  # noqa: F401  whether it is installed
    except ImportError as error:
        raise DataError('data=zarr needs the package zarr: pip install -e ".[zarr]"') from error
    stores, files = _stores(options)
    episodes = read_files(stores, partial(_episodes, options), ACCEPTED)
    return EpisodeStream(str(options.path), episodes, files=files)


def _stores(options: ZarrData) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The stores that `options.path` names, and all of their files."""
    path = user_path(options.path or "")
    if path.is_dir():
        folders = [path] if holds_buffer(path) else sorted(filter(holds_buffer, path.iterdir()))
        if folders:
            files = (file for folder in folders for file in sorted(folder.rglob("*")))
            return tuple(folders), tuple(file for file in files if file.is_file())
        if any((path / name).is_file() for name in OF_A_STORE):
            raise DataError(
                f"data.path={options.path}: is a store of zarr without {ENDS}; accepted: "
                f"{ENDS}, (episodes,) the row after each episode of data/*"
            )
    files = existing_files(options)
    return files, files


class _Store:
    """The metadata of a store, and its arrays, opened only after their metadata are checked."""

    def __init__(self, path: Path, opened: Any):
        self.path, self.opened, self.sizes = path, opened, dict[str, int]()
        if isinstance(opened, zipfile.ZipFile):
            self.sizes = {member.filename: member.compress_size for member in opened.infolist()}
        else:
            files = (file for file in path.rglob("*") if file.is_file())
            self.sizes = {f.relative_to(path).as_posix(): f.stat().st_size for f in files}

    def names(self, group: str) -> list[str]:
        """The arrays of a group."""
        parts = (name.split("/") for name in self.sizes)
        below = sorted({p[1] for p in parts if len(p) == 3 and p[0] == group})
        return [name for name in below if self.metadata(f"{group}/{name}").get("shape") is not None]

    def metadata(self, name: str) -> Mapping[str, Any]:
        """Those of an array or a group; empty without any."""
        for file in (f"{name}/.zarray", f"{name}/zarr.json"):
            if file in self.sizes:
                zipped = isinstance(self.opened, zipfile.ZipFile)
                text = self.opened.read(file) if zipped else (self.path / file).read_bytes()
                content = json.loads(text)
                return content if isinstance(content, dict) else {}
        return {}

    def array(self, name: str) -> Any:
        """Opens an array. Raises DataError for codecs that could run code, objects, and sizes that
        do not fit what is on disk.
        """
        metadata = self.metadata(name)
        if not metadata:
            raise DataError(f"has no {name}; accepted: {ACCEPTED}")
        _check_codecs(name, metadata)
        import zarr
        from zarr.storage import ZipStore

        zipped = isinstance(self.opened, zipfile.ZipFile)
        store: Any = ZipStore(str(self.path), mode="r") if zipped else str(self.path)
        array: Any = zarr.open_array(store=store, path=name, mode="r")
        if array.ndim == 0 or array.dtype.kind not in "fiub":
            raise DataError(f"{name} is {array.dtype} of {array.shape}; accepted: rows of numbers")
        stored = {k: size for k, size in self.sizes.items() if k.startswith(f"{name}/")}
        whole, chunk = math.prod(array.shape), math.prod(array.chunks)
        check_size(max(whole, chunk) * array.dtype.itemsize, sum(stored.values()), name)
        self._tell_missing(name, array)
        return array

    def _tell_missing(self, name: str, array: Any) -> None:
        found, chunks = array.nchunks_initialized, array.nchunks
        if found < chunks:
            logger.warning(
                "%s: %d of %d chunks of %s are not stored; zarr leaves out those of the fill value "
                "alone, so %s is read there",
                self.path, chunks - found, chunks, name, array.fill_value,
            )  # fmt: skip


def _check_codecs(name: str, metadata: Mapping[str, Any]) -> None:
    for codec in _codecs(metadata):
        if codec.startswith(IMAGE_CODECS):
            try:
                from imagecodecs.numcodecs import register_codecs  # pyright: ignore
            except ImportError as error:
                message = f"{name} is stored by {codec}, which needs: pip install imagecodecs"
                raise DataError(message) from error
            register_codecs()
        elif codec.removeprefix("numcodecs.") not in CODECS:
            known = ", ".join(sorted(CODECS))
            raise DataError(f"{name} is stored by the codec {codec!r}; accepted: {known}")


def _codecs(metadata: Any) -> Iterator[str]:
    """The codecs of an array, those inside of shards included."""
    given = [*(metadata.get("filters") or ()), *(metadata.get("codecs") or ())]
    for codec in [*given, *filter(None, [metadata.get("compressor")])]:
        yield str(codec.get("id", codec.get("name")))
        inside = codec.get("configuration") or {}
        yield from _codecs({"codecs": inside.get("codecs")})
        yield from _codecs({"codecs": inside.get("index_codecs")})


def _episodes(options: ZarrData, path: Path, prefix: str) -> Iterator[Episode]:
    if path.is_dir():
        yield from _store_episodes(options, _Store(path, None), prefix)
        return
    with zipfile.ZipFile(path) as archive:
        yield from _store_episodes(options, _Store(path, archive), prefix)


def _store_episodes(options: ZarrData, store: _Store, prefix: str) -> Iterator[Episode]:
    roles = options.roles
    names = store.names("data")
    check_roles(roles, names)
    by_role = {name: _role(name, roles) for name in names}
    observed = [name for name, role in by_role.items() if role == "observation"]
    others = {*observed} - {*ObservationChoice.of(options).among(observed)}
    read = [name for name, role in by_role.items() if role != "ignore" and name not in others]
    arrays = {name: store.array(f"data/{name}") for name in read}
    keys = {role: [n for n in arrays if by_role[n] == role] for role in set(by_role.values())}
    observed, actions, rewards = (keys.get(k, []) for k in ("observation", "action", "reward"))
    if len(actions) != 1 or not observed:
        raise DataError(
            f"data/ holds {', '.join(names) or 'nothing'}; accepted: one array `action`, or "
            "data.roles={NAME: action}, and at least one that is observed"
        )
    ends = _ends(store, {name: array.shape[0] for name, array in arrays.items()})
    if following := keys.get("next_observation"):
        logger.warning(
            "%s: next observations are not read (%s), since the next row has them; "
            "data.roles={%s: ignore} ends this warning",
            store.path, ", ".join(following), following[0],
        )  # fmt: skip
    last = np.zeros(ends[-1], bool)
    last[ends - 1] = True
    marks = {n: arrays[n][: ends[-1]] for role in MARKS for n in keys.get(role, [])}
    terminal = _terminal(marks, roles, last) if marks else np.zeros_like(last)
    time = next((n for n in arrays if by_role[n] == "time"), None)
    numbers = are_counts(arrays[actions[0]], str(store.path))
    for index, (begin, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
        name, rows = f"{prefix}episode {index}", slice(begin, end)
        row_bytes = (math.prod(a.shape[1:]) * a.dtype.itemsize for a in arrays.values())
        check_memory(sum(row_bytes) * (end - begin), name)
        yield Episode(
            {key: np.asarray(arrays[key][rows]) for key in observed},
            actions=step_actions(np.asarray(arrays[actions[0]][rows]), numbers),
            rewards=np.asarray(arrays[rewards[0]][rows]) if rewards else None,
            terminated=bool(terminal[end - 1]),
            name=name,
            time=None if time is None else np.asarray(arrays[time][rows]),
            final_logged=False,
        )


def _terminal(marks: Mapping[str, Any], roles: Mapping[str, str], last: np.ndarray) -> np.ndarray:
    """(N,) bool, the terminal rows. Raises DataError for marks in rows that are not `last`."""
    for name, mark in marks.items():
        inside = np.flatnonzero(marked_rows({name: mark}, roles) & ~last)
        if len(inside):
            raise DataError(
                f"data/{name} marks {len(inside)} rows that are not the last of an episode by "
                f"{ENDS} (first: {inside[0]}); accepted: last rows (data.roles={{{name}: ignore}} "
                "leaves it out)"
            )
    return read_marks(marks, roles, ends=last).terminal


def _role(name: str, roles: Mapping[str, str]) -> str:
    """What an array means: all that has no other meaning is observed. Next observations are not
    read, since the next row has them.
    """
    if name in TIME and name not in roles:
        return "time"
    role = role_of(name, roles)
    known = role in ("next_observation", "action", "reward", "ignore", *MARKS)
    return role if role and known else "observation"


def _ends(store: _Store, rows: Mapping[str, int]) -> np.ndarray:
    """(episodes,) the row after each episode. Raises DataError for any that do not fit."""
    ends = store.array(ENDS)[:]
    few = min(rows, key=lambda name: rows[name])
    valid = ends.ndim == 1 and ends.dtype.kind in "iu" and len(ends) > 0
    if not valid or (np.diff(ends.astype(np.int64), prepend=0) < 1).any() or ends[-1] > rows[few]:
        limits = f" up to {ends.max()}" if ends.size else ""
        raise DataError(
            f"{ENDS} is {ends.dtype} of shape {ends.shape}{limits}; accepted: ascending integers "
            f"(episodes,), up to the {rows[few]} rows of {few}"
        )
    if len({*rows.values()}) > 1:
        per_episode = (
            " (one more in each episode?)" if max(rows.values()) - rows[few] == len(ends) else ""
        )
        counts = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise DataError(
            f"data/ holds arrays of different numbers of rows{per_episode}: {counts}; accepted: as "
            f"many in each, up to {ends[-1]} by {ENDS} (data.roles={{NAME: ignore}} leaves one out)"
        )
    if left := {name: count - int(ends[-1]) for name, count in rows.items() if count > ends[-1]}:
        logger.warning("%s: rows after the last episode are left out: %s", store.path, left)
    return ends.astype(np.int64)
