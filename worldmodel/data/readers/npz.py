"""NumPy archives. All hold `observations` and `actions`, and optionally `rewards`; a dict of
observations is `observations/NAME` each. They differ in how rows belong to episodes:

- T+1 rows of observations per episode: `lengths` (episodes,) in transitions, and optionally
  `terminated`, `truncated` (episodes,)
- T rows: `terminals`, `timeouts` (N,), and optionally the observation after the last action in
  `next_observations` (N, ...) or `last_next` (episodes, ...)
- T rows without a next observation of the last: `episode_lengths` (episodes,) in rows, and
  optionally `episode_names`
- OGBench: `terminals` without `timeouts` and `rewards` mark the last row of an episode, which is
  its final observation and not a terminal state
- Stable-Baselines: `obs`, and `episode_starts` (N,)
- one episode, with as many observations as actions, or one more

`lengths` and `episode_lengths` are distinguished by their sums, so either name works.
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
from worldmodel.data.readers.files import existing_files, summary
from worldmodel.data.readers.flat import (
    FlatDataset,
    check_lengths,
    episode_ends,
    episodes,
    find_discontinuities,
    flat_classes,
)
from worldmodel.errors import DataError, did_you_mean, first_line

KEYS = (
    *("actions", "rewards", "lengths", "terminated", "truncated", "terminals", "timeouts"),
    *("episode_lengths", "episode_names", "episode_starts"),
)
NAMED = ("observations", "next_observations", "last_next", "obs")  # may be dicts: KEY/NAME

Archive = Mapping[str, np.ndarray]
Dict = dict[str, np.ndarray]


@dataclass
class NPZData(DataOptions):
    """NumPy archives (.npz) with observations and actions: a file, a folder or a pattern."""

    name: str = option("npz", "data source")


ACCEPTED = summary(NPZData)


@register("data", "npz", NPZData, endings=(".npz",))
def read(options: NPZData) -> EpisodeStream:
    """Reads the episodes of all archives. Raises DataError if there is no file."""
    files = existing_files(options)
    return EpisodeStream(str(options.path), _episodes(files), files=tuple(files))


def _episodes(files: Sequence[Path]) -> Iterator[Episode | UnreadableEpisode]:
    for path in files:
        prefix = f"{path} " if len(files) > 1 else ""  # messages already name a single source
        try:
            archive = _load(path)
            whole = _whole_episodes(archive, prefix)
            yield from whole or episodes(_rows(archive, prefix), str(path))
        except DataError as error:
            yield UnreadableEpisode(str(path), str(error))


def _load(path: Path) -> Archive:
    """Reads the arrays that have a meaning here."""
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
        present = {name.partition("/")[0] for name in arrays}
        if key not in present and not (key == "observations" and "obs" in present):
            hint = did_you_mean(key, names)
            raise DataError(f"has no {key!r}{hint}; present: {', '.join(names) or 'none'}")
    if scalars := [key for key, value in arrays.items() if value.ndim == 0]:
        raise DataError(f"{', '.join(scalars)} is a single number; accepted: arrays of rows")
    if len(arrays["actions"]) == 0:
        raise DataError("actions has no rows; accepted: at least one transition")
    return arrays


def _named(archive: Archive, key: str) -> Dict | None:
    """The arrays KEY/NAME, or the array KEY with a default name; None if there are none."""
    if key in archive:
        image = archive[key].dtype == np.uint8 and archive[key].ndim == 4
        return {"image" if image else "observation": archive[key]}
    prefix = f"{key}/"
    named = {k.removeprefix(prefix): v for k, v in archive.items() if k.startswith(prefix)}
    return named or None


def _observations(archive: Archive) -> Dict:
    return _named(archive, "observations") or _named(archive, "obs") or {}


def _lengths(archive: Archive) -> np.ndarray | None:
    lengths = archive.get("lengths", archive.get("episode_lengths"))
    if lengths is None:
        return None
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 1).any():
        integers = lengths.dtype.kind in "iu" and lengths.size
        minimum = f", minimum {lengths.min()}" if integers else ""
        raise DataError(
            f"lengths is {lengths.dtype} of shape {lengths.shape}{minimum}; "
            "accepted: integers (episodes,), each 1 or more"
        )
    return lengths


# ------------------------------------------------------------------------------- T + 1 observations


def _whole_episodes(archive: Archive, prefix: str) -> Iterator[Episode] | None:
    """Episodes with T+1 rows of observations, or None if the archive has T rows."""
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
            actions=flat_classes(actions),
            rewards=None if rewards is None else rewards[part],
            terminated=bool(terminated[index]),
            name=names[index],
        )
        begin += length


# ------------------------------------------------------------------------------------------- T rows


def _rows(archive: Archive, prefix: str) -> FlatDataset:
    observations, actions = _observations(archive), archive["actions"]
    next_observations = _named(archive, "next_observations")
    final_observations = _named(archive, "last_next")
    count, rewards = len(actions), archive.get("rewards")
    marks = {key: archive.get(key) for key in ("terminals", "timeouts", "episode_starts")}
    per_row = {"observations": observations, "next_observations": next_observations or {}}
    check_lengths(count, "actions", rewards=rewards, **per_row, **marks)
    successors = {"next_observations": next_observations, "last_next": final_observations}
    for name, given in successors.items():
        if given is not None and given.keys() != observations.keys():
            raise DataError(f"{name} holds {', '.join(given)}; accepted: {', '.join(observations)}")
    last = _last_rows(archive, observations, next_observations, count)
    check_lengths(len(last), "the number of episodes", last_next=final_observations or {})
    # OGBench marks the ends of its episodes as terminals.
    ogbench = rewards is None and marks["timeouts"] is None and marks["terminals"] is not None
    ended = marks["terminals"] if not ogbench else None
    terminated = np.zeros(len(last), bool) if ended is None else ended.reshape(-1)[last] != 0
    return FlatDataset(
        observations=observations,
        actions=actions,
        rewards=rewards,
        last=last,
        terminated=terminated,
        names=_names(archive, prefix, len(last)),
        next_observations=next_observations,
        final_observations=final_observations,
        last_is_observation_only=ogbench and not any(successors.values()),
    )


def _last_rows(
    archive: Archive, observations: Dict, next_observations: Dict | None, count: int
) -> np.ndarray:
    """(episodes,) the last row of each episode, from lengths, starts or marks."""
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
