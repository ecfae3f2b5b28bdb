"""NumPy archives. All hold `observations` and `actions`, and `rewards` if they are known; for the
observations of a dict, `observations/NAME` each. They differ in how rows belong to episodes:

- T+1 rows of observations an episode: `lengths` (episodes,) transitions, and if known `terminated`,
  `truncated` (episodes,)
- T rows: `terminals`, `timeouts` (N,), and the observation after the last action in
  `next_observations` (N, ...) or `last_next` (episodes, ...); or it was not logged
- T rows, the last one unfollowed: `episode_lengths` (episodes,) rows, and if known `episode_names`
- OGBench's: `terminals` without `timeouts` and `rewards` mark the last row of a record, which is
  its final observation; the world does not end there
- Stable-Baselines': `obs`, and `episode_starts` (N,)
- one record, of as many observations as actions, or one more

`lengths` and `episode_lengths` are told apart by their sums, so either name will do.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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

ACCEPTED = "NumPy archives (.npz) with observations and actions: a file, a folder or a pattern"
KEYS = (
    *("actions", "rewards", "lengths", "terminated", "truncated", "terminals", "timeouts"),
    *("episode_lengths", "episode_names", "episode_starts"),
)
NAMED = ("observations", "next_observations", "last_next", "obs")  # may be dicts: KEY/NAME

Archive = Mapping[str, np.ndarray]
Dict = dict[str, np.ndarray]


@dataclass
class NPZData(DataOptions):
    """NumPy archives (README lists the keys; OGBench's among them): file, folder or pattern."""

    name: str = option("npz", "data source")

    def errors(self) -> Iterator[str]:
        if not self.path:
            yield needs_path(self)
        yield from super().errors()


@register("data", "npz", NPZData, source="path", endings=(".npz",))
def read(options: NPZData) -> EpisodeStream:
    """The episodes of all archives, read file by file. An archive that cannot be read is
    UnreadableEpisode. Raises DataError if there is no file.
    """
    files = existing_files(options, ACCEPTED, ".npz")
    return EpisodeStream(str(options.path), _episodes(files), files=tuple(files))


def _episodes(files: Sequence[Path]) -> Iterator[Episode | UnreadableEpisode]:
    for path in files:
        prefix = f"{path} " if len(files) > 1 else ""  # messages name a single source anyway
        try:
            archive = _load(path)
            whole = _whole_episodes(archive, prefix)
            yield from whole or episodes(_rows(archive, prefix), str(path))
        except DataError as error:
            yield UnreadableEpisode(str(path), str(error))


def _load(path: Path) -> Archive:
    """The members that have a meaning here, each read once."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"is a single array; accepted: {ACCEPTED}")
        with archive:
            names = archive.files
            wanted = [k for k in names if k in KEYS or k.partition("/")[0] in NAMED]
            arrays = {key: archive[key] for key in wanted}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DataError(f"cannot be read ({first_line(error)}); accepted: {ACCEPTED}") from error
    for key in ("observations", "actions"):
        there = {name.partition("/")[0] for name in arrays}
        if key not in there and not (key == "observations" and "obs" in there):
            raise DataError(
                f"has no {key!r}{did_you_mean(key, names)}; keys there: {', '.join(names) or 'none'}"
            )
    if scalars := [key for key, value in arrays.items() if value.ndim == 0]:
        raise DataError(f"{', '.join(scalars)} is a single number; accepted: arrays of rows")
    if len(arrays["actions"]) == 0:
        raise DataError("actions has no rows; accepted: at least one transition")
    return arrays


def _named(archive: Archive, key: str) -> Dict | None:
    """The arrays KEY/NAME, or KEY alone under the name of what it holds; None if there are none."""
    if key in archive:
        image = archive[key].dtype == np.uint8 and archive[key].ndim == 4
        return {"image" if image else "observation": archive[key]}
    prefix = f"{key}/"
    named = {k.removeprefix(prefix): v for k, v in archive.items() if k.startswith(prefix)}
    return named or None


def _observations(archive: Archive) -> Dict:
    found = _named(archive, "observations") or _named(archive, "obs")
    return found or {}


def _lengths(archive: Archive) -> np.ndarray | None:
    lengths = archive.get("lengths", archive.get("episode_lengths"))
    if lengths is None:
        return None
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 1).any():
        least = (
            f", the least {lengths.min()}" if lengths.dtype.kind in "iu" and lengths.size else ""
        )
        raise DataError(
            f"lengths is {lengths.dtype} of shape {lengths.shape}{least}; "
            "accepted: whole numbers (episodes,), each 1 or more"
        )
    return lengths


# ------------------------------------------------------------------------------- T + 1 observations


def _whole_episodes(archive: Archive, prefix: str) -> Iterator[Episode] | None:
    """Episodes that bring their final observation in a row of their own, or None for T rows."""
    observations, actions = _observations(archive), archive["actions"]
    rows, lengths = len(next(iter(observations.values()))), _lengths(archive)
    if lengths is None:
        marked = archive.keys() & {"terminals", "timeouts", "episode_starts", "next_observations"}
        if marked or rows != len(actions) + 1:
            return None
        lengths = np.array([len(actions)])
    total = int(lengths.sum())
    if rows == total and len(actions) == total:
        return None
    if rows != total + len(lengths) or len(actions) != total:
        raise DataError(
            f"lengths sum to {total} in {len(lengths)} episodes, observations have {rows} rows, "
            f"actions {len(actions)}; accepted: observations {total + len(lengths)} and actions "
            f"{total} (lengths in transitions), or both {total} (in rows)"
        )
    check_lengths(rows, "observations", observations=observations)
    check_lengths(total, "actions", rewards=archive.get("rewards"))
    ends = {key: archive.get(key) for key in ("terminated", "truncated")}
    check_lengths(len(lengths), "lengths", **ends)
    return _cut_whole(archive, observations, lengths, _names(archive, prefix, len(lengths)))


def _cut_whole(
    archive: Archive, observations: Dict, lengths: np.ndarray, names: Sequence[str]
) -> Iterator[Episode]:
    terminated = archive.get("terminated", np.zeros(len(lengths), bool))
    rewards, begin = archive.get("rewards"), 0
    for index, length in enumerate(lengths.tolist()):
        part, row = slice(begin, begin + length), begin + index
        actions = archive["actions"][part]
        yield Episode(
            {key: value[row : row + length + 1] for key, value in observations.items()},
            actions=actions[:, 0] if _is_column_of_classes(actions) else actions,
            rewards=None if rewards is None else rewards[part],
            terminated=bool(terminated[index]),
            name=names[index],
        )
        begin += length


def _is_column_of_classes(actions: np.ndarray) -> bool:
    return actions.dtype.kind in "iu" and actions.shape[1:] == (1,)


# ------------------------------------------------------------------------------------------- T rows


def _rows(archive: Archive, prefix: str) -> FlatDataset:
    observations, actions = _observations(archive), archive["actions"]
    next_observations, final_observations = (
        _named(archive, "next_observations"),
        _named(archive, "last_next"),
    )
    count, rewards = len(actions), archive.get("rewards")
    marks = {key: archive.get(key) for key in ("terminals", "timeouts", "episode_starts")}
    per_row = {"observations": observations, "next_observations": next_observations or {}}
    check_lengths(count, "actions", rewards=rewards, **per_row, **marks)
    for name, given in (
        ("next_observations", next_observations),
        ("last_next", final_observations),
    ):
        if given is not None and given.keys() != observations.keys():
            raise DataError(f"{name} holds {', '.join(given)}; accepted: {', '.join(observations)}")
    last = _last_rows(archive, observations, next_observations, count)
    check_lengths(len(last), "the marks' episodes", last_next=final_observations or {})
    # OGBench calls the ends of its records terminals.
    records = rewards is None and marks["timeouts"] is None and marks["terminals"] is not None
    ended = marks["terminals"] if not records else None
    terminated = np.zeros(len(last), bool) if ended is None else ended.reshape(-1)[last] != 0
    names = _names(archive, prefix, len(last))
    whole = records and next_observations is None and final_observations is None
    return FlatDataset(
        observations,
        actions,
        rewards,
        last,
        terminated,
        names,
        next_observations,
        final_observations,
        whole,
    )


def _last_rows(
    archive: Archive, observations: Dict, next_observations: Dict | None, count: int
) -> np.ndarray:
    """(episodes,) last rows, by whatever tells them."""
    lengths = _lengths(archive)
    if lengths is not None:
        return np.cumsum(lengths) - 1
    if "episode_starts" in archive:
        return episode_ends(count, np.roll(archive["episode_starts"].reshape(-1), -1))
    marks = [archive[key] for key in ("terminals", "timeouts") if key in archive]
    if next_observations is not None and "timeouts" not in archive:
        marks.append(find_discontinuities(observations, next_observations))
    return episode_ends(count, *marks)


def _names(archive: Archive, prefix: str, count: int) -> list[str]:
    names = archive.get("episode_names")
    if names is None or names.shape != (count,):
        return [f"{prefix}episode {index}" for index in range(count)]
    return [f"{prefix}{name}" for name in names]
