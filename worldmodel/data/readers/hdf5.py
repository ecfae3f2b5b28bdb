"""D4RL's HDF5 layout: `observations`, `actions`, `rewards`, `terminals`, and where they are there
`timeouts` and `next_observations`, a row a step, all episodes end to end.

`observations` may be a group of named data sets. An episode ends at a terminal or a time-out; a row
marked as both is a terminal. Without `timeouts`, it also ends where the logged next observation is
not the next row. What comes after the last mark is a log that broke off. Rewards may be missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.readers import existing_files, needs_path
from worldmodel.data.readers.flat import (
    FlatDataset,
    check_lengths,
    episode_ends,
    episodes,
    find_discontinuities,
)
from worldmodel.errors import DataError, did_you_mean, first_line

ENDINGS = (".hdf5", ".h5")
ACCEPTED = "D4RL's HDF5 layout: a file, a folder of files or a pattern such as logs/*.hdf5"
NEEDED = ("observations", "actions", "terminals")


@dataclass
class HDF5Data(DataOptions):
    """D4RL's HDF5 layout: a file, a folder of files or a pattern."""

    name: str = option("hdf5", "data source")

    def errors(self) -> Iterator[str]:
        if not self.path:
            yield needs_path(self)
        yield from super().errors()


@register("data", "hdf5", HDF5Data, source="path", endings=(".hdf5", ".h5"))
def read(options: HDF5Data) -> EpisodeStream:
    """The episodes of all files, read as they are asked for. A file that cannot be read is
    UnreadableEpisode. Raises DataError if there is no file.
    """
    files = existing_files(options, ACCEPTED, *ENDINGS)
    return EpisodeStream(str(options.path), _episodes(files), files=tuple(files))


def _episodes(files: Sequence[Path]) -> Iterator[Episode | UnreadableEpisode]:
    import h5py

    for path in files:
        prefix = f"{path} " if len(files) > 1 else ""  # messages name a single source anyway
        try:
            with h5py.File(path, "r") as file:
                yield from episodes(_rows(file, prefix), str(path))
        except DataError as error:
            yield UnreadableEpisode(str(path), str(error))
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            # h5py raises these for files that are cut off, damaged or no HDF5 at all.
            yield UnreadableEpisode(
                str(path), f"cannot be read ({first_line(error)}); accepted: {ACCEPTED}"
            )


def _rows(file: Any, prefix: str) -> FlatDataset:
    missing = [key for key in NEEDED if key not in file]
    if missing:
        hint = did_you_mean(missing[0], file)
        raise DataError(
            f"has no {' and no '.join(missing)}{hint}; keys there: {', '.join(file) or 'none'}; "
            f"accepted: {ACCEPTED}"
        )
    observations = _named(file["observations"])
    next_observations = _named(file["next_observations"]) if "next_observations" in file else None
    if next_observations is not None and next_observations.keys() != observations.keys():
        raise DataError(
            f"next_observations holds {', '.join(next_observations)}; accepted: {', '.join(observations)}"
        )
    count = len(file["actions"])
    if count == 0:
        raise DataError("actions has no rows; accepted: at least one transition")
    rewards = file.get("rewards")
    fields = {"observations": observations, "terminals": file["terminals"], "rewards": rewards}
    fields |= {"next_observations": next_observations or {}, "timeouts": file.get("timeouts")}
    check_lengths(count, "actions", **fields)
    terminals = np.asarray(file["terminals"]).reshape(-1).astype(bool)
    marks = [terminals]
    if "timeouts" in file:
        marks.append(file["timeouts"])
    elif next_observations is not None:
        marks.append(find_discontinuities(observations, next_observations))
    last = episode_ends(count, *marks)
    return FlatDataset(
        observations, file["actions"], rewards, last, terminals[last],
        [f"{prefix}episode {i}" for i in range(len(last))], next_observations,
    )  # fmt: skip


def _named(item: Any) -> dict[str, Any]:
    """Observations by name: a group's own data sets, or a single one."""
    import h5py

    if not isinstance(item, h5py.Group):
        image = item.dtype == np.uint8 and item.ndim == 4
        return {"image" if image else "observation": item}
    found: dict[str, Any] = {}

    def add(name: str, inner: Any) -> None:
        if isinstance(inner, h5py.Dataset):
            found[name] = inner

    item.visititems(add)
    if not found:
        raise DataError(f"{item.name} is an empty group; accepted: data sets of observations")
    return found
