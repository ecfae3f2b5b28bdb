"""NumPy archives, in all layouts of `arrays/`."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream
from worldmodel.data.readers import arrays
from worldmodel.data.readers.arrays.encoded_rows import encoded_roles, joined, offsets_of
from worldmodel.data.readers.arrays.fields import field_roles, require
from worldmodel.data.readers.arrays.ogbench_tasks import SIMULATOR, relabelled
from worldmodel.data.readers.files import existing_files, read_files, reading, summary
from worldmodel.data.readers.marks import FieldNames, check_roles
from worldmodel.data.readers.sizes import check_size
from worldmodel.errors import DataError

STREAMED_BYTES = 2**24  # arrays of at least this size are read row by row
CHUNK_BYTES = 2**20
DREAMER = {"action", "reward", "is_first"}  # of its replays, beside observations of any name


@dataclass
class NPZData(arrays.ArrayOptions):
    """NumPy archives (.npz) with observations and actions: a file, a folder or a pattern."""

    name: str = option("npz", "data source")
    ogbench_task: str | None = option(
        None,
        "a single task of OGBench, such as cube-single-play-singletask-task2-v0, for which its "
        "package computes rewards and ends",
    )


ACCEPTED = summary(NPZData)


@register("data", "npz", NPZData, endings=(".npz",))
def read(options: NPZData) -> EpisodeStream:
    """Reads the episodes of all archives. Raises DataError if there is no file."""
    files = existing_files(options)
    one_file = partial(_episodes, options, FieldNames(str(options.path)))
    return EpisodeStream(str(options.path), read_files(files, one_file, ACCEPTED), files=files)


def _episodes(options: NPZData, told: FieldNames, path: Path, prefix: str) -> Iterator[Episode]:
    with path.open("rb") as file:
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            raise DataError(f"is a single array; accepted: {ACCEPTED}")
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        members = dict(zip(names, archive.infolist(), strict=True))
        kinds = {name: _kind(archive, member) for name, member in members.items()}
        offsets = offsets_of(kinds)
        roles = field_roles(members, encoded_roles(offsets) | options.roles)
        check_roles(options.roles, members)
        accepted = ACCEPTED
        if "observation" not in roles.values() and {*members} >= DREAMER:
            accepted = f"{ACCEPTED}; data=dreamer reads replays of Dreamer, which this may be"
        require(roles, members, accepted)
        wanted = {name: members[name] for name in members if name in roles}
        check_size(sum(member.file_size for member in wanted.values()), path.stat().st_size)
        opened = {}
        for name, member in wanted.items():
            with reading("arrays of numbers, as numpy.savez writes them", member.filename):
                opened[name] = member_array(archive, member)
        if options.ogbench_task:
            states = [name for name in SIMULATOR if name in members]
            simulator = {n: np.asarray(member_array(archive, members[n])[:]) for n in states}
            opened |= relabelled(options.ogbench_task, opened["terminals"], simulator)
            roles = field_roles(opened, options.roles)
        opened, roles = joined(opened, roles, offsets)

        def load(name: str) -> np.ndarray:
            return np.asarray(member_array(archive, members[name])[:])

        shapes = {name: shape for name, (shape, _) in kinds.items()}
        yield from arrays.episodes(opened, roles, shapes, str(path), prefix, options, told, load)


def _kind(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array; no shape if it is none, which is reported if it is read."""
    try:
        with archive.open(member) as stream:
            shape, _, dtype = _header(stream)
            return shape, dtype
    except Exception:  # of any damage
        return (), np.dtype(object)


def member_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray | _Rows:
    """Loads a small array; a large one is read to its end, so that damage is found, and opened."""
    with archive.open(member) as stream:
        shape, fortran_order, dtype = _header(stream)
        held, count = member.file_size - stream.tell(), math.prod(shape) * dtype.itemsize
        if dtype.hasobject or held != count:
            described = "objects" if dtype.hasobject else f"{held} bytes for {dtype} of {shape}"
            raise DataError(f"holds {described}; accepted: {count} bytes of numbers")
        if count < STREAMED_BYTES or fortran_order or len(shape) < 2:
            flat = np.frombuffer(stream.read(), dtype)
            return flat.reshape(shape, order="F" if fortran_order else "C")
        while stream.read(CHUNK_BYTES):
            pass
    return _Rows(archive, member, shape, dtype)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array; `stream` is then at its first byte."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise DataError(f"has version {version} of NumPy's format; accepted: (1, 0) and (2, 0)")
    return readers[version](stream)


class _Rows:
    """An array (N, ...) of an archive, of which slices are read, in order as far as possible."""

    def __init__(
        self,
        archive: zipfile.ZipFile,
        member: zipfile.ZipInfo,
        shape: tuple[int, ...],
        dtype: np.dtype,
    ):
        self.archive, self.member, self.shape, self.dtype = archive, member, shape, dtype
        self.ndim = len(shape)
        self.row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self.row = shape[0]
        self.stream: IO[bytes] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        begin, end, _ = rows.indices(len(self))
        if self.stream is None or begin < self.row:
            self.stream, self.row = self.archive.open(self.member), 0
            _header(self.stream)
        skipped = (begin - self.row) * self.row_bytes
        for place in range(0, skipped, CHUNK_BYTES):
            self.stream.read(min(skipped - place, CHUNK_BYTES))
        content = self.stream.read((end - begin) * self.row_bytes)
        self.row = end
        return np.frombuffer(content, self.dtype).reshape(end - begin, *self.shape[1:])
