"""Trees of HDF5 with a group an episode, as robomimic, robosuite, MimicGen, LIBERO, Isaac Lab
(`data/demo_N`) and ManiSkill (`traj_N`) write them, and the dumps of d3rlpy 2, which number the
datasets of each episode (`observations_N`). See `steps.py` for the fields of an episode.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from worldmodel.data.episodes import Episode, UnreadableEpisode
from worldmodel.data.readers import steps
from worldmodel.data.readers.hdf5_storage import check_storage, datasets_below, item_of
from worldmodel.data.readers.marks import NAMES
from worldmodel.errors import DataError, did_you_mean

ACCEPTED = "episodes of `actions` and `obs`, a group each, or d3rlpy's numbered datasets"
FILTERS = "mask"  # the group of lists of episodes


class Branch(NamedTuple):
    """An episode in a file: its name, and the paths of its datasets or of its group."""

    name: str
    paths: dict[str, str]


def branches(file: Any) -> list[Branch]:
    """The episodes of a tree in natural order, so demo_10 comes after demo_9; empty for a file that
    is none.
    """
    if any(key in file for key in NAMES["action"]):
        return []
    return sorted(_groups(file) or _numbered(file), key=lambda branch: natural(branch.name))


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers inside names by their value."""
    return [(int(part or -1), text) for text, part in re.findall(r"(\D*)(\d*)", name)]


def _groups(file: Any) -> list[Branch]:
    """The groups of `data`, or of the file itself, that hold actions."""
    for place, parent in (("data/", _group(file, "data")), ("", file)):
        if names := [name for name in parent or () if _is_episode(_group(parent, name))]:
            return [Branch(name, {"": f"{place}{name}"}) for name in names]
    return []


def _group(parent: Any, name: str) -> Any:
    """A group of the file itself, or None. Raises DataError for a link to another file."""
    import h5py

    item = item_of(parent, name) if name in parent else None
    return item if isinstance(item, h5py.Group) else None


def _is_episode(group: Any) -> bool:
    return group is not None and any(key in group for key in NAMES["action"])


def _numbered(file: Any) -> list[Branch]:
    """The episodes of d3rlpy: KEY_N, or KEY_N_M where there are several observations."""
    found: dict[str, dict[str, str]] = {}
    for name in file:
        if match := re.fullmatch(r"([a-z]+)_(\d+)(?:_(\d+))?", name):
            key, number, part = match.groups()
            path = key if part is None else f"{key}/{part}"
            found.setdefault(number, {})[path] = name
    known = {n: paths for n, paths in found.items() if any(key in paths for key in NAMES["action"])}
    return [Branch(f"episode_{number}", paths) for number, paths in known.items()]


def episodes(
    file: Any, tree: list[Branch], prefix: str, options: Any
) -> Iterator[Episode | UnreadableEpisode]:
    """Yields the episodes of a tree, or those that `options.filter_key` lists."""
    named = {f"{prefix}{b.name}": _Fields(file, b) for b in _filtered(file, tree, options)}
    yield from steps.episodes(named, file.filename, options, ACCEPTED)


class _Fields:
    """Opens the datasets of an episode by name.

    Raises DataError for what is not stored as a whole in the file itself, when it is first called.
    """

    def __init__(self, file: Any, branch: Branch):
        self.file, self.branch, self.checked = file, branch, False

    def __call__(self) -> dict[str, Any]:
        opened = _datasets(self.file, self.branch)
        found = {path: item for path, item in opened if item.shape is not None}
        if not self.checked:
            if virtual := [path for path, item in found.items() if item.is_virtual]:
                raise DataError(
                    f"{virtual[0]} is assembled of other datasets; accepted: stored in the group"
                )
            check_storage(found)
        self.checked = True
        return found


def _datasets(file: Any, branch: Branch) -> Iterator[tuple[str, Any]]:
    import h5py

    for name, path in branch.paths.items():
        item = item_of(file, path)
        if isinstance(item, h5py.Group):
            yield from datasets_below(item, "")
        elif isinstance(item, h5py.Dataset):
            yield name, item


def _filtered(file: Any, tree: list[Branch], options: Any) -> list[Branch]:
    """Those of the episodes that `mask/FILTER_KEY` lists, in natural order."""
    import h5py

    key = options.filter_key
    if key is None:
        return tree
    masks = item_of(file, FILTERS) if FILTERS in file else {}
    names = [name for name in masks if isinstance(masks.get(name), h5py.Dataset)]
    if key not in names:
        raise DataError(
            f"data.filter_key={key}: the file lists no such episodes{did_you_mean(key, names)}; "
            f"accepted: {', '.join(names) or 'none, since it has no group `mask`'}"
        )
    dataset = item_of(masks, key)
    check_storage({key: dataset})
    listed = {n.decode() if isinstance(n, bytes) else str(n) for n in dataset[:].reshape(-1)}
    if unknown := sorted(listed - {branch.name for branch in tree}):
        raise DataError(f"mask/{key} lists {', '.join(unknown[:5])}, which the file does not hold")
    return [branch for branch in tree if branch.name in listed]
