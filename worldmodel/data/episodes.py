"""From the episodes that a reader yields to `Trajectories`: converts fields to their types, and
reports what does not fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.action_inference import MAX_CLASSES, Environment, resolve_actions
from worldmodel.data.columns import FIRST_ROWS, ColumnWriter
from worldmodel.data.episode_lengths import (
    OBSERVATION,
    length_errors,
    observation_field,
    time_errors,
)
from worldmodel.data.images import ImageConversion
from worldmodel.data.observations import ObservationChoice, ObservationPlan
from worldmodel.data.offsets import OffsetWriter
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import DataError, raise_data_errors, require

MAX_INTEGER = 2**31 - 1  # of int32


@dataclass(frozen=True)
class Episode:
    """One episode of T transitions, as a reader yields it. Fields are arrays, or nested lists.

    Attributes:
        observations: name -> (T+1, ...) numbers; (T, ...) unless `final_logged`
        actions: (T, ...) or (T+1, ...); the last of T+1 is padding, and its value is ignored
        rewards: (T,) or (T+1,), likewise, or None
        terminated: True if the episode ended in a terminal state, False if it was truncated
        name: what messages call it, with its file if there are several; if empty, 'episode 7'
        time: (T+1,) seconds at which each observation was made, or None; must not decrease
        final_logged: False if the observation after the last action was not logged

    Example:
        >>> import numpy as np
        >>> from worldmodel.data import Episode
        >>> episode = Episode({"position": np.zeros((11, 3))}, np.zeros((10, 1)), np.zeros(10),
        ...                   terminated=False, name="flight 7")
    """

    observations: Mapping[str, Any]
    actions: Any
    rewards: Any | None
    terminated: bool
    name: str = ""
    time: Any | None = None
    final_logged: bool = True

    def __post_init__(self):
        observations = self.observations
        named = isinstance(observations, Mapping) and all(isinstance(k, str) for k in observations)
        require(named, "observations", type(observations).__name__, "a dict of arrays by name")
        ended = self.terminated
        require(np.ndim(ended) == 0, "terminated", f"shape {np.shape(ended)}", "True or False")


@dataclass(frozen=True)
class UnreadableEpisode:
    """What a reader yields in place of an episode that it cannot read, before it continues."""

    name: str
    error: str


@dataclass(frozen=True)
class EpisodeStream:
    """What a reader returns: episodes, read one by one as they are iterated over, once.

    Attributes:
        source: where they come from, for messages
        episodes: the episodes
        action_spec: declared kind and bounds of the actions; None: inferred from the data
        files: all files that the content depends on; empty if it does not come from files
        count: number of episodes if known before they are read, for the progress bar
        offsets: vector -> (D,) what is taken off it before it becomes float32, where that is
            declared (see `offsets.py`)
        lost_digits: field -> what of its digits was lost before, if that is known
        image_conversions: name -> how images were made of what was logged, before they were stored
    """

    source: str
    episodes: Iterable[Episode | UnreadableEpisode]
    action_spec: ActionSpec | None = None
    files: tuple[Path, ...] = ()
    count: int | None = None
    offsets: Mapping[str, Sequence[float]] | None = None
    lost_digits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image_conversions: Mapping[str, ImageConversion] = dataclasses.field(default_factory=dict)


@np.errstate(over="ignore")  # validation reports numbers that become infinite
def stack_episodes(
    episodes: Iterable[Episode | UnreadableEpisode],
    source: str,
    action_spec: ActionSpec | None = None,
    *,
    skipped: list[str] | None = None,
    folder: Path | None = None,
    choice: ObservationChoice | None = None,
    offsets: Mapping[str, Sequence[float]] | None = None,
    environment: Environment | None = None,
) -> Trajectories:
    """Lays episodes end to end in flat arrays.

    Observations become uint8 images (height, width, channels) or float32 vectors; text is left out.
    Images in another layout, or not of uint8, are recognized where that is certain; `choice` tells
    the others. One integer per step is a discrete action, unless `action_spec` says otherwise
    (`infer_action_spec`).

    Args:
        episodes: the episodes
        source: where they come from, for messages
        action_spec: kind and bounds of the actions, infinite ones from the data; None: all of it is
            inferred
        skipped: a list to which errors are added, while the episodes that have them are left out;
            None: any error raises
        folder: a folder for the arrays, which are then memory-mapped; None: in memory
        choice: the observations that are read, and the layouts and sizes of images
        offsets: vector -> (D,) what is taken off it; None: as `offsets.py` decides by the data
        environment: returns the actions of the environment, where integers may be classes or not

    Raises:
        DataError: lists every field whose type, shape or number of steps does not fit, by episode

    Example:
        >>> import numpy as np
        >>> from worldmodel.data import Episode, stack_episodes
        >>> flights = [Episode({"x": np.zeros((t + 1, 2))}, np.ones((t, 1)), None, terminated=False)
        ...            for t in (10, 20)]
        >>> stack_episodes(flights, "flights").observations["x"].shape
        (32, 2)
    """
    declared = action_spec is None or isinstance(action_spec, ActionSpec)
    require(declared, "action_spec", type(action_spec).__name__, "an ActionSpec or None")
    require(isinstance(episodes, Iterable), "episodes", type(episodes).__name__, "several Episode")
    if action_spec is not None and max(action_spec.classes) > MAX_CLASSES:
        raise DataError(
            f"{source}: declares {max(action_spec.classes):,} classes of actions; accepted: at "
            f"most {MAX_CLASSES:,}"
        )
    choice = choice or ObservationChoice()
    given = {observation_field(key): value for key, value in (offsets or {}).items()}
    columns, lengths, ends, names = OffsetWriter(ColumnWriter(folder), given), [], [], []
    errors: list[str] = []
    plan: ObservationPlan | None = None
    keys: tuple[str, ...] = ()
    first: tuple[str, dict[str, np.ndarray]] | None = None
    kinds: set[str] = set()
    for index, episode in enumerate(episodes):
        kind = type(episode).__name__
        known = isinstance(episode, Episode | UnreadableEpisode)
        require(known, f"episode {index}", kind, "an Episode")
        name = episode.name or f"episode {index}"
        if isinstance(episode, UnreadableEpisode):
            errors.append(f"{name}: {episode.error}")
            continue
        plan = plan or ObservationPlan.of(episode.observations, choice, source)
        try:
            observations = plan.convert(episode.observations)
        except DataError as error:
            errors.append(f"{name}: {error}")
            continue
        fields = _columns(observations, episode, action_spec)
        first = first or (name, {field: value[:0] for field, value in fields.items()})
        final_logged = bool(episode.final_logged)
        found = list(_inconsistencies(name, fields, *first))
        found = found or list(length_errors(name, fields, final_logged))
        found = found or list(time_errors(name, episode.observations, episode.time))
        errors += found
        if not found:
            fields = _padded(fields, final_logged)
            columns.append(fields, partial(_raw, observations, episode, len(fields["action"]) - 1))
            kinds.add(np.asarray(episode.actions).dtype.kind)
            lengths.append(len(fields["action"]))
            ends.append((bool(episode.terminated), final_logged))
            names.append(name)
            keys = keys or tuple(observations)
        elif len(names) == 0:
            first = plan = None  # not a reference for the others
    if skipped is None:
        raise_data_errors(errors, source)
    else:
        skipped += errors
    if not names:
        raise_data_errors(errors, source)
        raise DataError(f"{source}: no episodes; accepted: at least one")
    kind = "f" if "f" in kinds else "b" if kinds == {"b"} else "i"
    resolve = partial(resolve_actions, action_spec, source, kind, environment)
    return replace(
        _trajectories(columns, lengths, ends, names, keys, source, resolve),
        image_conversions={} if plan is None else plan.changes,
    )


def _trajectories(
    columns: OffsetWriter,
    lengths: list[int],
    ends: list[tuple[bool, bool]],
    names: list[str],
    keys: Iterable[str],
    source: str,
    resolve: Callable[[np.ndarray, np.ndarray], ActionSpec],
) -> Trajectories:
    flat, steps = columns.finish(), np.array(lengths, np.int64)
    plain = all(name == f"episode {i}" for i, name in enumerate(names))
    terminated, final_logged = np.array(ends, bool).T
    return Trajectories(
        observations={key: flat[observation_field(key)] for key in keys},
        actions=flat["action"],
        rewards=flat.get("reward"),
        lengths=steps,
        terminated=terminated.copy(),
        action_spec=resolve(flat["action"], steps),
        source=source,
        names=() if plain else tuple(names),
        final_logged=final_logged.copy(),
        vector_offsets={
            key: columns.offsets[field]
            for key in keys
            if (field := observation_field(key)) in columns.offsets
        },
        lost_digits=columns.lost_digits(),
    )


# ----------------------------------------------------------------------------- fields of an episode


def _columns(
    observations: Mapping[str, Any], episode: Episode, spec: ActionSpec | None
) -> dict[str, np.ndarray]:
    """The fields of an episode in their final types, by the names that messages use."""
    columns = {observation_field(key): _observation(value) for key, value in observations.items()}
    last = next(iter(columns.values()), np.zeros(0))
    transitions = len(last) - bool(episode.final_logged)
    columns["action"] = _action(episode.actions, spec, transitions)
    if episode.rewards is not None:
        reward = _numbers(episode.rewards)
        columns["reward"] = reward[:, 0] if reward.shape[1:] == (1,) else reward
    return columns


def _raw(
    observations: Mapping[str, Any], episode: Episode, transitions: int
) -> dict[str, np.ndarray]:
    """The numbers of an episode as they were logged, for the digits that a conversion loses."""
    raw = {observation_field(key): np.asarray(value) for key, value in observations.items()}
    raw["action"] = np.asarray(episode.actions)[:transitions]
    if episode.rewards is not None:
        raw["reward"] = np.asarray(episode.rewards)[:transitions]
    return raw


def _observation(value: Any) -> np.ndarray:
    """(T+1, ...) to a uint8 image (T+1, height, width, channels) or a float32 vector (T+1, D)."""
    if getattr(value, "dtype", None) == np.uint8 and value.ndim == 4:
        return value
    value = _numbers(value)
    return value.reshape(len(value), -1) if value.dtype == np.float32 and value.size else value


def _action(value: Any, spec: ActionSpec | None, transitions: int) -> np.ndarray:
    """(T,) int32 classes, or (T, A) float32. Integers (T,) are classes, unless the spec says
    otherwise; columns of as many classes, of which one is 1 in each of the transitions, too.
    """
    integers = spec is None or spec.discrete
    value = _numbers(value, integers)
    if spec is not None and spec.discrete and value.shape[1:] == (spec.size,) and spec.size > 1:
        rows = value[:transitions]
        if ((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all():
            return value.argmax(1).astype(np.int32)
    if value.dtype.kind in "iu" and value.shape[1:] == (1,):
        value = value[:, 0]
    if value.dtype.kind in "iu" and value.ndim > 1:  # several integers are columns
        value = value.astype(np.float32)
    if value.dtype != np.float32:
        return value
    if spec is not None and spec.discrete:  # classes that were stored as floats
        value = value.reshape(len(value), -1)
        whole = value.shape[1] == 1 and np.array_equal(value, np.round(value))
        return value[:, 0].astype(np.int32) if whole else value
    return value.reshape(len(value), -1) if value.size else value


def _numbers(value: Any, integers: bool = False) -> np.ndarray:
    """float32, or int32 if `integers` may stay; larger integers, and anything but an array of
    numbers, are unchanged.
    """
    try:
        value = np.atleast_1d(np.asarray(value))
    except ValueError:  # steps of different shapes
        return np.asarray(value, object)
    if value.dtype.kind in "iub" and integers:
        fits = value.max(initial=0) <= MAX_INTEGER and value.min(initial=0) >= -MAX_INTEGER
        return value.astype(np.int32) if fits else value
    if value.dtype.kind not in "fiub" or value.dtype == np.float32:
        return value
    value = value.astype(np.float32)
    if len(value) >= FIRST_ROWS:
        value.flags.writeable = False  # so that it need not be copied again
    return value


def _inconsistencies(
    name: str, columns: dict[str, np.ndarray], first_name: str, first: dict[str, np.ndarray]
) -> Iterator[str]:
    """Fields that are not numeric, or that differ from those of the first episode."""
    for field in (field for field in first if field not in columns):
        yield f"{name}: {field} is missing, {first_name} has it; accepted: the same fields in all"
    for field, value in columns.items():
        if value.dtype.kind not in "fiu":
            yield f"{name}: {field} is {value.dtype}; accepted: numbers, of one shape in every step"
        elif field == "action" and value.dtype.kind in "iu" and value.dtype != np.int32:
            step = int(np.argmax(np.abs(value.astype(np.float64)) > MAX_INTEGER))
            yield (
                f"{name}: {field} is {value[step]:,} at step {step}; accepted: classes 0 to "
                f"{MAX_CLASSES - 1:,}, or floats"
            )
        elif field not in first:
            yield f"{name}: {field} is new, {first_name} has none; accepted: the same fields in all"
        elif field == "action" and value.dtype != first[field].dtype:
            held, other = (
                "floats" if x.dtype.kind == "f" else "single integers"
                for x in (value, first[field])
            )
            yield (
                f"{name}: action holds {held}, {first_name} {other}; accepted: one type in all "
                "(data.classes=[0] reads a column as numbers, data.classes=[N] as N classes)"
            )
        elif value.shape[1:] != first[field].shape[1:]:
            shape = first[field].shape[1:]
            yield f"{name}: {field} has shape {value.shape[1:]}, {first_name} has {shape}"
        elif value.dtype != first[field].dtype:
            yield f"{name}: {field} is {value.dtype}, {first_name} has {first[field].dtype}"
        elif field == "reward" and value.ndim > 1:
            yield f"{name}: reward has shape {value.shape[1:]}; accepted: one number per step"


def _padded(columns: dict[str, np.ndarray], final_logged: bool) -> dict[str, np.ndarray]:
    """Action and reward with zeros in the last step. An observation that was not logged there
    repeats the one before it.
    """
    if not final_logged:
        columns = dict(columns)
        for field in [field for field in columns if field.startswith(OBSERVATION)]:
            columns[field] = np.concatenate([columns[field], columns[field][-1:]])
            columns[field].flags.writeable = False  # so that it need not be copied again
    steps = len(columns[next(iter(columns))])
    for field in columns.keys() & {"action", "reward"}:
        padded = np.zeros((steps, *columns[field].shape[1:]), columns[field].dtype)
        padded[:-1] = columns[field][: steps - 1]
        columns = {**columns, field: padded}
    return columns
