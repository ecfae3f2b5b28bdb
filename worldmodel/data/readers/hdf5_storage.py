"""Where the bytes of HDF5 datasets are: HDF5 reads zeros for what was never written, and follows
links and references to any file of the machine. Both are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worldmodel.data.readers.sizes import check_size
from worldmodel.errors import DataError

MAX_LINKS = 16  # that lead to one another

Datasets = Mapping[str, Any]  # name -> h5py.Dataset


def item_of(group: Any, path: str, links: int = 0) -> Any:
    """The item at a path, in the same file. Raises DataError for other links."""
    import h5py

    item: Any = group.file if path.startswith("/") else group
    for name in filter(None, path.split("/")):
        link = item.get(name, getlink=True) if isinstance(item, h5py.Group) else None
        if isinstance(link, h5py.SoftLink) and links < MAX_LINKS:
            item = item_of(item, link.path, links + 1)
        elif isinstance(link, h5py.HardLink):
            item = item[name]
        else:
            kind = {h5py.ExternalLink: "a link to another file", h5py.SoftLink: "a circle of links"}
            raise DataError(
                f"{path} is {kind.get(type(link), 'missing')}; accepted: what is in the file itself"
            )
    return item


def datasets_below(group: Any, prefix: str, seen: set[Any] | None = None) -> Iterator[tuple]:
    """Yields (path, dataset) for all datasets of a group and of its groups, each group once."""
    import h5py

    seen = seen if seen is not None else {group}
    for name in group:
        item = item_of(group, name)
        if isinstance(item, h5py.Dataset):
            yield f"{prefix}{name}", item
        elif isinstance(item, h5py.Group) and item not in seen:
            seen.add(item)
            yield from datasets_below(item, f"{prefix}{name}/", seen)


def check_storage(datasets: Datasets) -> None:
    """Raises DataError for datasets that are not wholly written in the file, or in files of its
    folder from which they are assembled, and for sizes that do not fit what is on disk.
    """
    on_disk = sum(_stored_bytes(name, dataset) for name, dataset in datasets.items())
    check_size(sum(_needed_bytes(dataset) for dataset in datasets.values()), on_disk)


def virtual_files(datasets: Datasets) -> set[Path]:
    """The other files from which virtual datasets are assembled."""
    virtual = (dataset for dataset in datasets.values() if dataset.is_virtual)
    maps = ((dataset, part) for dataset in virtual for part in dataset.virtual_sources())
    return {_source_file(dataset, part) for dataset, part in maps if part.file_name != "."}


def _needed_bytes(dataset: Any) -> int:
    """Of the whole array, or of one chunk, which is read as a whole."""
    return max(math.prod(dataset.shape or ()), math.prod(dataset.chunks or ())) * (
        dataset.dtype.itemsize
    )


def _stored_bytes(name: str, dataset: Any, links: int = 0) -> int:
    """Bytes on disk of a dataset. Raises DataError if it is not wholly written."""
    if dataset.external:
        raise DataError(f"{name} is stored in another file; accepted: datasets in the file itself")
    size, written = math.prod(dataset.shape or ()), dataset.id.get_storage_size()
    if dataset.is_virtual and links < MAX_LINKS:
        parts = dataset.virtual_sources()
        covered = sum(part.vspace.get_select_npoints() for part in parts)
        if covered != size:
            raise DataError(
                f"{name} is assembled of {covered:,} of its {size:,} numbers; accepted: all"
            )
        return sum(_source_bytes(name, dataset, part, links + 1) for part in parts)
    if dataset.chunks:
        sizes = zip(dataset.shape, dataset.chunks, strict=True)
        parts, found = math.prod(-(-n // of) for n, of in sizes), dataset.id.get_num_chunks()
    else:
        parts, found = size * dataset.dtype.itemsize, written
    if found < parts:
        unit = "chunks" if dataset.chunks else "bytes"
        raise DataError(
            f"only {found:,} of the {parts:,} {unit} of {name} were written; accepted: all"
        )
    return written


def _source_bytes(name: str, dataset: Any, part: Any, links: int) -> int:
    import h5py

    file = _source_file(dataset, part)
    with h5py.File(file, "r") as opened:
        source = item_of(opened, part.dset_name)
        if not isinstance(source, h5py.Dataset) or not _holds(source, part):
            raise DataError(
                f"{name} is assembled of {part.dset_name} in {file.name}, which is no dataset of "
                "that size"
            )
        return _stored_bytes(f"{part.dset_name} in {file.name}", source, links)


def _holds(source: Any, part: Any) -> bool:
    """Whether a dataset has all numbers that a part of a virtual dataset takes from it."""
    import h5py

    space, shape = part.src_space, source.shape or ()
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return math.prod(shape) == part.vspace.get_select_npoints()
    last = space.get_select_bounds()[1]
    return len(last) == len(shape) and all(i < n for i, n in zip(last, shape, strict=True))


def _source_file(dataset: Any, part: Any) -> Path:
    this = Path(dataset.file.filename).resolve()
    file = this if part.file_name == "." else (this.parent / part.file_name).resolve()
    if not (file.is_relative_to(this.parent) and file.is_file()):
        raise DataError(
            f"{dataset.name} is assembled of {part.file_name}; accepted: files in {this.parent}"
        )
    return file
