"""From the episodes a reader finds to `Trajectories`: fields as they are kept, faults by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from worldmodel.data.columns import ColumnWriter
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import DataError, bullet_list


@dataclass(frozen=True)
class Episode:
    """One episode of T transitions, as a reader found it.

    observations: name -> (T+1, ...) numbers
    actions: (T, ...) or (T+1, ...); a last row is padding, and whatever it holds is dropped
    rewards: (T,) or (T+1,) likewise, or None
    terminated: whether the environment really ended here
    name: how messages call it, with its file where there are several; 'episode 7' if empty
    time: (T+1,) when each observation was made, or None; it must not go backwards
    """

    observations: dict[str, ArrayLike]
    actions: ArrayLike
    rewards: ArrayLike | None
    terminated: bool
    name: str = ""
    time: ArrayLike | None = None


@dataclass(frozen=True)
class UnreadableEpisode:
    """What a reader yields in place of an episode that it cannot read, and goes on."""

    name: str
    error: str


@dataclass(frozen=True)
class EpisodeStream:
    """What a reader gives: logs that are read once, episode by episode.

    source: where they come from, for messages
    episodes: read as they are asked for
    action_spec: what is declared of the actions; None: what the data say
    files: all files that the content depends on; none: not from files
    count: number of episodes, where it is known before they are read
    """

    source: str
    episodes: Iterable[Episode | UnreadableEpisode]
    action_spec: ActionSpec | None = None
    files: tuple[Path, ...] = ()
    count: int | None = None


def stack_episodes(
    episodes: Iterable[Episode | UnreadableEpisode],
    source: str,
    action_spec: ActionSpec | None = None,
    *,
    skipped: list[str] | None = None,
    folder: Path | None = None,
) -> Trajectories:
    """Episodes end to end: uint8 images, other observations as float32 vectors, padding zero.

    Without `action_spec`, it is inferred. Raises DataError that lists every field whose type, shape
    or number of rows does not fit; with `skipped`, such episodes are left out and their faults go
    into that list. With `folder`, the rows go to files there and come back memory-mapped.
    """
    columns, lengths, terminated, names, faults = ColumnWriter(folder), [], [], [], []
    first: tuple[str, dict[str, np.ndarray]] | None = None
    for index, episode in enumerate(episodes):
        name = episode.name or f"episode {index}"
        if isinstance(episode, UnreadableEpisode):
            faults.append(f"{name}: {episode.error}")
            continue
        fields = _columns(episode, action_spec)
        first = first or (name, {field: value[:0] for field, value in fields.items()})
        found = list(_misfits(name, fields, *first)) or list(_uneven_rows(name, fields))
        found = found or list(_time_faults(name, episode))
        faults += found
        if not found:
            fields = _padded(fields)
            columns.append(fields)
            lengths.append(len(fields["action"]))
            terminated.append(bool(episode.terminated))
            names.append(name)
        elif len(names) == 0:
            first = None  # no pattern for the others
    if skipped is None:
        raise_data_errors(faults, source)
    else:
        skipped += faults
    if not names:
        raise_data_errors(faults, source)
        raise DataError(f"{source}: no episodes; accepted: at least one")
    return _trajectories(columns, lengths, terminated, names, source, action_spec)


def _trajectories(
    columns: ColumnWriter,
    lengths: list[int],
    terminated: list[bool],
    names: list[str],
    source: str,
    action_spec: ActionSpec | None,
) -> Trajectories:
    flat, rows = columns.finish(), np.array(lengths, np.int64)
    plain = all(name == f"episode {i}" for i, name in enumerate(names))
    return Trajectories(
        observations={_key(f): value for f, value in flat.items() if f.startswith(OBSERVATION)},
        actions=flat["action"],
        rewards=flat.get("reward"),
        lengths=rows,
        terminated=np.array(terminated, bool),
        action_spec=action_spec or infer_action_spec(flat["action"], rows),
        source=source,
        names=() if plain else tuple(names),
    )


def raise_data_errors(faults: list[str], source: str) -> None:
    """Raises DataError that lists the faults, the first few of them, if there are any."""
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise DataError(bullet_list(f"{source}: {count} in the logs", faults))


def infer_action_spec(actions: np.ndarray, lengths: np.ndarray) -> ActionSpec:
    """What the data say: classes (N,) are counted, others lie between their minimum and maximum.

    A dimension that never changes gets a width of 1, since bounds of no width cannot be normalised.
    """
    if actions.ndim == 1:  # padding is class 0
        return ActionSpec(discrete=True, size=int(actions.max(initial=0)) + 1)
    low, high = np.full(actions.shape[1], np.inf), np.full(actions.shape[1], -np.inf)
    begin = 0
    for length in lengths:  # padding says nothing about bounds
        real = actions[begin : begin + length - 1]
        finite = np.isfinite(real)  # what is not is a fault, and named as one later
        low = np.minimum(low, real.min(0, initial=np.inf, where=finite))
        high = np.maximum(high, real.max(0, initial=-np.inf, where=finite))
        begin += length
    low, high = np.where(low > high, 0.0, low), np.where(low > high, 0.0, high)
    high = np.where(low == high, low + 1, high)
    return ActionSpec(False, actions.shape[1], tuple(low.tolist()), tuple(high.tolist()))


# ----------------------------------------------------------------------------- fields of an episode

OBSERVATION = "observation "


def observation_field(key: str) -> str:
    return f"{OBSERVATION}{key!r}"


def _key(field: str) -> str:
    return field[len(OBSERVATION) + 1 : -1]


def _columns(episode: Episode, spec: ActionSpec | None) -> dict[str, np.ndarray]:
    """The fields of an episode as they are kept, under the names that messages give them."""
    columns = {
        observation_field(key): _observation(value) for key, value in episode.observations.items()
    }
    columns["action"] = _action(episode.actions, spec)
    if episode.rewards is not None:
        reward = _numbers(episode.rewards)
        columns["reward"] = reward[:, 0] if reward.shape[1:] == (1,) else reward
    return columns


def _observation(value: ArrayLike) -> np.ndarray:
    """(T+1, ...) to a uint8 image (T+1, height, width, channels) or a float32 vector (T+1, D)."""
    if getattr(value, "dtype", None) == np.uint8 and value.ndim == 4:
        return value
    value = _numbers(value)
    return value.reshape(len(value), -1) if value.dtype == np.float32 and value.size else value


def _action(value: ArrayLike, spec: ActionSpec | None) -> np.ndarray:
    """(T,) int32 classes, or (T, A) float32. Whole numbers (T,) are classes, unless the spec says
    otherwise.
    """
    integers = spec is None or spec.discrete
    value = _numbers(value, integers)
    if value.dtype == np.int32 and value.ndim > 1:  # several whole numbers are a vector
        value = value.astype(np.float32)
    if value.dtype != np.float32:
        return value
    if spec is not None and spec.discrete:  # classes that were stored as floats
        value = value.reshape(len(value), -1)
        whole = value.shape[1] == 1 and np.array_equal(value, np.round(value))
        return value[:, 0].astype(np.int32) if whole else value
    return value.reshape(len(value), -1) if value.size else value


def _numbers(value: ArrayLike, integers: bool = False) -> np.ndarray:
    """float32, or int32 where `integers` may stay; what is no array of numbers stays as it is."""
    try:
        value = np.atleast_1d(np.asarray(value))
    except ValueError:  # rows of different shapes
        return np.asarray(value, object)
    if value.dtype.kind in "iub" and integers:
        return value.astype(np.int32)
    return value.astype(np.float32, copy=False) if value.dtype.kind in "fiub" else value


def _misfits(
    name: str, columns: dict[str, np.ndarray], first_name: str, first: dict[str, np.ndarray]
) -> Iterator[str]:
    """Fields that are no numbers, or not what the first episode had."""
    for field in (field for field in first if field not in columns):
        yield f"{name}: {field} is missing, {first_name} has it; accepted: the same fields in all"
    for field, value in columns.items():
        if value.dtype.kind not in "fiu":
            yield f"{name}: {field} is {value.dtype}; accepted: numbers, of one shape in every row"
        elif field not in first:
            yield f"{name}: {field} is new, {first_name} has none; accepted: the same fields in all"
        elif value.shape[1:] != first[field].shape[1:]:
            shape = first[field].shape[1:]
            yield f"{name}: {field} has shape {value.shape[1:]}, {first_name} had {shape}"
        elif value.dtype != first[field].dtype:
            yield f"{name}: {field} is {value.dtype}, {first_name} had {first[field].dtype}"
        elif field == "reward" and value.ndim > 1:
            yield f"{name}: reward has shape {value.shape[1:]}; accepted: one number a row"


def _uneven_rows(name: str, columns: dict[str, np.ndarray]) -> Iterator[str]:
    """Fields whose rows do not match those of the first observation."""
    if not any(field.startswith(OBSERVATION) for field in columns):
        yield f"{name}: no observations; accepted: at least one named observation"
        return
    reference = next(iter(columns))
    rows = len(columns[reference])
    if rows < 2:
        yield f"{name}: {rows} row(s); accepted: at least 2, a transition needs a successor"
        return
    for field, value in columns.items():
        accepted = (rows,) if field.startswith(OBSERVATION) else (rows - 1, rows)
        if len(value) not in accepted:
            yield (
                f"{name}: {field} has {len(value)} rows, {reference} has {rows}; "
                f"accepted: {' or '.join(map(str, accepted))}"
            )


def _time_faults(name: str, episode: Episode) -> Iterator[str]:
    if episode.time is None:
        return
    time = np.asarray(episode.time, np.float64)
    backwards = np.flatnonzero(~(np.diff(time) >= 0))
    if len(backwards):
        row = int(backwards[0]) + 1
        yield (
            f"{name} row {row}: time is {time[row]:.10g} after {time[row - 1]:.10g}; "
            "accepted: time that does not go backwards"
        )


def _padded(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Action and reward with a last row of zeros, whatever they had there."""
    rows = len(columns[next(iter(columns))])
    for field in columns.keys() & {"action", "reward"}:
        padded = np.zeros((rows, *columns[field].shape[1:]), columns[field].dtype)
        padded[:-1] = columns[field][: rows - 1]
        columns = {**columns, field: padded}
    return columns


def split_long_episodes(
    episodes: Iterable[Episode | UnreadableEpisode], longest: int | None
) -> Iterator[Episode | UnreadableEpisode]:
    """Episodes of at most `longest` transitions: a longer one is cut, as by time-outs.

    The last observation of a piece is the first of the next one.
    """
    for index, episode in enumerate(episodes):
        whole = isinstance(episode, UnreadableEpisode) or longest is None
        rows = 0 if whole else len(next(iter(episode.observations.values()), ()))
        if whole or rows <= longest + 1:
            yield episode
            continue
        name = episode.name or f"episode {index}"
        for begin in range(0, rows - 1, longest):
            yield _piece(episode, f"{name} from row {begin}", begin, longest, rows)


def _piece(episode: Episode, name: str, begin: int, longest: int, rows: int) -> Episode:
    def part(values: ArrayLike) -> ArrayLike:
        return np.asarray(values)[begin : begin + longest + 1]

    return Episode(
        observations={key: part(value) for key, value in episode.observations.items()},
        actions=part(episode.actions),
        rewards=None if episode.rewards is None else part(episode.rewards),
        terminated=episode.terminated and begin + longest >= rows - 1,
        name=name,
        time=None if episode.time is None else part(episode.time),
    )
