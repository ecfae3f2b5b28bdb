"""NumPy archives, in all layouts of `arrays.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream
from worldmodel.data.readers import arrays
from worldmodel.data.readers.files import existing_files, read_files, summary
from worldmodel.errors import DataError


@dataclass
class NPZData(DataOptions):
    """NumPy archives (.npz) with observations and actions: a file, a folder or a pattern."""

    name: str = option("npz", "data source")


ACCEPTED = summary(NPZData)


@register("data", "npz", NPZData, endings=(".npz",))
def read(options: NPZData) -> EpisodeStream:
    """Reads the episodes of all archives. Raises DataError if there is no file."""
    files = existing_files(options)
    return EpisodeStream(str(options.path), read_files(files, _episodes, ACCEPTED), files=files)


def _episodes(path: Path, prefix: str) -> Iterator[Episode]:
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(f"is a single array; accepted: {ACCEPTED}")
    with archive:
        arrays.require(("observations", "actions"), archive.files, ACCEPTED)
        wanted = [
            name
            for name in archive.files
            if name in arrays.KEYS or name.partition("/")[0] in arrays.NAMED
        ]
        loaded = {name: archive[name] for name in wanted}
    yield from arrays.episodes(loaded, str(path), prefix)
