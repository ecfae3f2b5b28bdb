"""HDF5 files in D4RL's layout: `observations`, `actions`, `terminals` and optionally `rewards`,
`timeouts` and `next_observations`, see `arrays.py`. Observations may be groups of named datasets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream
from worldmodel.data.readers import arrays
from worldmodel.data.readers.files import existing_files, read_files, summary
from worldmodel.errors import DataError

REQUIRED = ("observations", "actions", "terminals")
OPTIONAL = ("rewards", "timeouts", "next_observations")


@dataclass
class HDF5Data(DataOptions):
    """D4RL's HDF5 layout: a file, a folder of files or a pattern."""

    name: str = option("hdf5", "data source")


ACCEPTED = summary(HDF5Data)


@register("data", "hdf5", HDF5Data, endings=(".hdf5", ".h5"))
def read(options: HDF5Data) -> EpisodeStream:
    """Reads the episodes of all files. Raises DataError if there is no file."""
    files = existing_files(options)
    return EpisodeStream(str(options.path), read_files(files, _episodes, ACCEPTED), files=files)


def _episodes(path: Path, prefix: str) -> Iterator[Episode]:
    import h5py

    with h5py.File(path, "r") as file:
        arrays.require(REQUIRED, file, ACCEPTED)
        present = {key: file[key] for key in (*REQUIRED, *OPTIONAL) if key in file}
        datasets = {k: v for key, item in present.items() for k, v in _datasets(key, item).items()}
        yield from arrays.episodes(datasets, str(path), prefix, ogbench=False)


def _datasets(key: str, item: Any) -> dict[str, Any]:
    """A dataset, or those below a group, by path."""
    import h5py

    if not isinstance(item, h5py.Group):
        return {key: item}
    datasets: dict[str, Any] = {}

    def add(name: str, inner: Any) -> None:
        if isinstance(inner, h5py.Dataset):
            datasets[f"{key}/{name}"] = inner

    item.visititems(add)
    if not datasets:
        raise DataError(f"{item.name} is an empty group; accepted: datasets of observations")
    return datasets
