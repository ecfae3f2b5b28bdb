"""HDF5 files of datasets whose rows lie end to end, as D4RL's, in all layouts of `arrays/`.
Observations may be groups of named datasets. Files with a group an episode: `hdf5_trees.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.readers import arrays, hdf5_trees
from worldmodel.data.readers.arrays.encoded_rows import encoded_roles, joined, offsets_of
from worldmodel.data.readers.arrays.fields import GROUPS, LAST_NEXT, field_roles, require
from worldmodel.data.readers.files import existing_files, read_files, summary
from worldmodel.data.readers.hdf5_storage import (
    check_storage,
    datasets_below,
    item_of,
    virtual_files,
)
from worldmodel.data.readers.marks import FieldNames, check_roles
from worldmodel.errors import DataError


@dataclass
class HDF5Data(arrays.ArrayOptions):
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
    sources = set[Path]().union(*(_virtual_files(options, file) for file in files)) - {*files}
    one_file = partial(_episodes, options, FieldNames(str(options.path)))
    episodes = read_files(files, one_file, ACCEPTED)
    return EpisodeStream(str(options.path), episodes, files=(*files, *sorted(sources)))


def _episodes(
    options: HDF5Data, told: FieldNames, path: Path, prefix: str
) -> Iterator[Episode | UnreadableEpisode]:
    import h5py

    with h5py.File(path, "r") as file:
        if tree := hdf5_trees.branches(file):
            yield from hdf5_trees.episodes(file, tree, prefix, options)
            return
        datasets, roles = _datasets(file, options)
        check_storage(datasets)
        shapes = _shapes(file, {data.name for data in datasets.values()})
        datasets, roles = joined(datasets, roles, _offsets(datasets))

        def load(name: str) -> Any:
            dataset: Any = file[name]
            check_storage({name: dataset})
            return dataset[:]

        yield from arrays.episodes(datasets, roles, shapes, str(path), prefix, options, told, load)


def _datasets(file: Any, options: HDF5Data) -> tuple[dict[str, Any], dict[str, str]]:
    """The datasets that are read, by path, and their roles; all of a group of observations."""
    import h5py

    inside = [name for name in options.roles if "/" in name and name in file]
    hard = [n for n in file if isinstance(file.get(n, getlink=True), h5py.HardLink)]
    top = {name: file[name] for name in hard if isinstance(file[name], h5py.Dataset)}
    roles = field_roles([*file, *inside], encoded_roles(_offsets(top)) | options.roles)
    check_roles(options.roles, [*file, *inside])
    require(roles, file, ACCEPTED)
    datasets: dict[str, Any] = {}
    for key, role in roles.items():
        item = item_of(file, key)
        if isinstance(item, h5py.Dataset):
            datasets[key] = item
        elif isinstance(item, h5py.Group) and role in (*GROUPS, LAST_NEXT, "action"):
            below = dict(datasets_below(item, f"{key}/"))
            if not below:
                raise DataError(f"{key} is an empty group; accepted: datasets of numbers")
            chosen = role == "action"
            datasets |= {n: data for n, data in below.items() if chosen or _is_read(n, options)}
        else:
            raise DataError(f"{key} is an HDF5 {type(item).__name__}; accepted: a dataset")
    return datasets, {name: roles.get(name) or roles[name.partition("/")[0]] for name in datasets}


def _offsets(datasets: Mapping[str, Any]) -> dict[str, str]:
    """Which of the datasets are bytes of images, and the name of their offsets."""
    return offsets_of({name: (item.shape or (), item.dtype) for name, item in datasets.items()})


def _is_read(name: str, options: HDF5Data) -> bool:
    return options.roles.get(name) != "ignore"


def _shapes(file: Any, read: set[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of all datasets but those that are read, by path; links are not followed."""
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.name not in read:
            shapes[name] = item.shape or ()

    with contextlib.suppress(Exception):  # of damage in what is not read
        file.visititems(note)
    return shapes


def _virtual_files(options: HDF5Data, path: Path) -> set[Path]:
    """The other files that the content of a file depends on."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if hdf5_trees.branches(file):  # which hold no virtual datasets
                return set()
            return virtual_files(_datasets(file, options)[0])
    except Exception:  # is reported when the file is read
        return set()
