"""HDF5 files in D4RL's layout: `observations`, `actions`, `terminals` and optionally `rewards`,
`timeouts` and `next_observations`, see `arrays.py`. Observations may be groups of named datasets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.readers import arrays, hdf5_trees
from worldmodel.data.readers.files import existing_files, read_files, summary
from worldmodel.data.readers.hdf5_storage import (
    check_storage,
    datasets_below,
    item_of,
    virtual_files,
)
from worldmodel.errors import DataError

REQUIRED = ("observations", "actions", "terminals")
OPTIONAL = ("rewards", "timeouts", "next_observations")


@dataclass
class HDF5Data(DataOptions):
    """D4RL's HDF5 layout, or a group an episode: a file, a folder of files or a pattern."""

    name: str = option("hdf5", "data source")
    filter_key: str | None = option(
        None, "only the episodes that mask/FILTER_KEY lists, as train or valid of robomimic"
    )


ACCEPTED = summary(HDF5Data)


@register("data", "hdf5", HDF5Data, endings=(".hdf5", ".h5"))
def read(options: HDF5Data) -> EpisodeStream:
    """Reads the episodes of all files. Raises DataError if there is no file."""
    files = existing_files(options)
    sources = set[Path]().union(*map(_virtual_files, files)) - {*files}
    episodes = read_files(files, partial(_episodes, options), ACCEPTED)
    return EpisodeStream(str(options.path), episodes, files=(*files, *sorted(sources)))


def _episodes(options: HDF5Data, path: Path, prefix: str) -> Iterator[Episode | UnreadableEpisode]:
    import h5py

    with h5py.File(path, "r") as file:
        if tree := hdf5_trees.branches(file):
            yield from hdf5_trees.episodes(file, tree, prefix, options)
            return
        arrays.require(REQUIRED, file, ACCEPTED)
        datasets = _datasets(file)
        check_storage(datasets)
        yield from arrays.episodes(datasets, str(path), prefix, ogbench=False)


def _datasets(file: Any) -> dict[str, Any]:
    """The datasets that are read, by path: those of a group for several observations."""
    import h5py

    datasets: dict[str, Any] = {}
    for key in (*REQUIRED, *OPTIONAL):
        item = item_of(file, key) if key in file else None
        if isinstance(item, h5py.Dataset):
            datasets[key] = item
        elif isinstance(item, h5py.Group) and key.endswith("observations"):
            below = dict(datasets_below(item, f"{key}/"))
            if not below:
                raise DataError(f"{key} is an empty group; accepted: datasets of observations")
            datasets |= below
        elif item is not None:
            raise DataError(f"{key} is an HDF5 {type(item).__name__}; accepted: a dataset")
    return datasets


def _virtual_files(path: Path) -> set[Path]:
    """The other files that the content of a file depends on."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            tree = hdf5_trees.branches(file)
            return virtual_files(hdf5_trees.datasets(file, tree) if tree else _datasets(file))
    except Exception:  # is reported when the file is read
        return set()
