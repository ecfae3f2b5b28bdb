"""D4RL's HDF5 layout: `observations`, `actions`, `terminals` and optionally `rewards`, `timeouts`
and `next_observations`, one row per step, all episodes end to end.

`observations` may be a group of named datasets. An episode ends at a terminal or a time-out; a row
marked as both is terminal. Without `timeouts`, it also ends where the logged next observation is
not that of the next row. The rows after the last mark are a truncated episode.
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
from worldmodel.data.readers.files import existing_files, summary
from worldmodel.data.readers.flat import (
    FlatDataset,
    check_lengths,
    episode_ends,
    episodes,
    find_discontinuities,
)
from worldmodel.errors import DataError, did_you_mean, first_line

REQUIRED = ("observations", "actions", "terminals")


@dataclass
class HDF5Data(DataOptions):
    """D4RL's HDF5 layout: a file, a folder of files or a pattern."""

    name: str = option("hdf5", "data source")


ACCEPTED = summary(HDF5Data)


@register("data", "hdf5", HDF5Data, endings=(".hdf5", ".h5"))
def read(options: HDF5Data) -> EpisodeStream:
    """Reads the episodes of all files. Raises DataError if there is no file."""
    files = existing_files(options)
    return EpisodeStream(str(options.path), _episodes(files), files=tuple(files))


def _episodes(files: Sequence[Path]) -> Iterator[Episode | UnreadableEpisode]:
    import h5py

    for path in files:
        prefix = f"{path} " if len(files) > 1 else ""  # messages already name a single source
        try:
            with h5py.File(path, "r") as file:
                yield from episodes(_rows(file, prefix), str(path))
        except DataError as error:
            yield UnreadableEpisode(str(path), str(error))
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            # What h5py raises for files that are cut off, damaged or not HDF5.
            yield UnreadableEpisode(
                str(path), f"cannot be read ({first_line(error)}); accepted: {ACCEPTED}"
            )


def _rows(file: Any, prefix: str) -> FlatDataset:
    missing = [key for key in REQUIRED if key not in file]
    if missing:
        hint = did_you_mean(missing[0], file)
        raise DataError(
            f"has no {' and no '.join(missing)}{hint}; present: {', '.join(file) or 'none'}; "
            f"accepted: {ACCEPTED}"
        )
    observations = _named(file["observations"])
    next_observations = _named(file["next_observations"]) if "next_observations" in file else None
    if next_observations is not None and next_observations.keys() != observations.keys():
        raise DataError(
            f"next_observations holds {', '.join(next_observations)}; "
            f"accepted: {', '.join(observations)}"
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
        observations=observations,
        actions=file["actions"],
        rewards=rewards,
        last=last,
        terminated=terminals[last],
        names=[f"{prefix}episode {i}" for i in range(len(last))],
        next_observations=next_observations,
    )


def _named(item: Any) -> dict[str, Any]:
    """Observations by name: the datasets of a group, or a single one."""
    import h5py

    if not isinstance(item, h5py.Group):
        image = item.dtype == np.uint8 and item.ndim == 4
        return {"image" if image else "observation": item}
    datasets: dict[str, Any] = {}

    def add(name: str, inner: Any) -> None:
        if isinstance(inner, h5py.Dataset):
            datasets[name] = inner

    item.visititems(add)
    if not datasets:
        raise DataError(f"{item.name} is an empty group; accepted: datasets of observations")
    return datasets
