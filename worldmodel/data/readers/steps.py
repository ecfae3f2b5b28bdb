"""Episodes from named arrays whose rows are steps, in formats that keep each episode by itself: a
group of HDF5, an entry of a list, a file.

Observations have one row more than the actions, or as many. Then the observation after the last
action is the last row of the next observations, or it was not logged.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from worldmodel.config import DataOptions
from worldmodel.data.episodes import Episode, UnreadableEpisode
from worldmodel.data.image_layouts import default_name
from worldmodel.data.observations import ObservationChoice
from worldmodel.data.readers.arrays.padding import idle_rows, warn_of_padding
from worldmodel.data.readers.arrays.reading import are_counts, step_actions
from worldmodel.data.readers.files import reading
from worldmodel.data.readers.marks import (
    MARKS,
    NAMES,
    FieldNames,
    check_roles,
    discounts,
    read_marks,
    role_of,
    truths,
)
from worldmodel.data.readers.sizes import check_memory
from worldmodel.data.readers.step_finals import FinalSteps
from worldmodel.errors import DataError

logger = logging.getLogger(__name__)

Fields = Mapping[
    str, Any
]  # name -> (T, ...) or (T+1, ...), in memory or on disk; NAME/KEY if nested

SIMULATOR = ("env_states",)  # the observations of an episode that has no others


@dataclass(frozen=True)
class Names:
    """What the fields of an episode are.

    observations, following: name of an observation -> field; `following` after each action
    marks: fields that mark rows
    unread: fields of another or of no meaning
    """

    observations: dict[str, str]
    following: dict[str, str]
    action: str
    reward: str | None
    marks: tuple[str, ...]
    unread: tuple[str, ...]


def names_of(fields: Fields, roles: Mapping[str, str], accepted: str) -> Names:
    """Finds the fields by their names. Raises DataError without observations or actions."""
    observed = _chosen("observation", fields, roles) or _below(SIMULATOR, fields)
    actions = list(_chosen("action", fields, roles).values())
    missing = [key for key, found in (("obs", observed), ("actions", actions)) if not found]
    if missing:
        present = ", ".join(fields) or "none"
        raise DataError(f"has no {' and no '.join(missing)}; present: {present}; {accepted}")
    if len(actions) > 1:
        raise DataError(f"actions are {', '.join(actions)}; accepted: one array of actions")
    following = _chosen("next_observation", fields, roles)
    rewards = list(_chosen("reward", fields, roles).values())
    marks = tuple(name for name in fields if role_of(name, roles) in MARKS)
    read = {*observed.values(), *following.values(), *actions, *rewards[:1], *marks}
    ignored = {name for name in fields if _role(name, roles) == "ignore"}
    unread = tuple(name for name in fields if name not in read | ignored)
    return Names(observed, following, actions[0], next(iter(rewards), None), marks, unread)


def _role(path: str, roles: Mapping[str, str]) -> str | None:
    return roles.get(path) or role_of(path.partition("/")[0], roles)


def _chosen(role: str, fields: Fields, roles: Mapping[str, str]) -> dict[str, str]:
    """Name -> field: those to which `data.roles` gives a role, or those of its commonest name."""
    given = [key for key, value in roles.items() if value == role]
    names = [name for name in NAMES[role] if name not in roles]
    for keys in (given, *([name] for name in names)):
        if found := _below(keys, fields):
            return found
    return {}


def _below(keys: Sequence[str], fields: Fields) -> dict[str, str]:
    """Name -> field of the fields KEY and KEY/NAME."""
    found = {}
    for path, value in fields.items():
        key, _, name = path.partition("/")
        if path in keys and len(keys) > 1:
            found[path] = path
        elif path in keys:
            found[default_name(value.shape[1:], value.dtype)] = path
        elif key in keys:
            found[name] = path
    return found


# ---------------------------------------------------------------------------------- the episodes

# What was left out, after the number of episodes that it concerns.
AFTER_TERMINAL = (
    "have rows after their first terminal one ({}), which are left out; data.roles={{{}: ignore}} "
    "keeps them"
)
STATES_OBSERVED = "have no obs; {} are observed in their place"
NEXT_DIFFERS = "have next observations ({}) that are not those of the next row, which are used"
NEXT_MISSING = "lack {} after their last action, so that no observation of that step is used"


@dataclass
class _Rows:
    """What the marks say of an episode: its rows, how many of them belong to it, whether it ends in
    a terminal state, whether its last row holds the final observation alone, and whether its last
    next observation is none; and its actions if they are single integers.
    """

    marks: dict[str, np.ndarray]
    count: int
    stop: int
    terminal: bool = False
    final: bool = False
    unlogged: bool = False
    integers: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.int64))


def episodes(
    named: Mapping[str, Callable[[], Fields]],
    source: str,
    options: DataOptions,
    accepted: str,
) -> Iterator[Episode | UnreadableEpisode]:
    """Yields the episodes, or what is wrong with one; warns at the end about what was left out.

    Args:
        named: name of an episode -> a function that opens its fields, and may raise any exception
        source: the file, for warnings
        options: those of the dataset
        accepted: the format, for messages

    Raises:
        DataError: marks with two meanings, counted over all episodes
    """
    roles, choice = options.roles, ObservationChoice.of(options)
    rows: dict[str, _Rows | UnreadableEpisode] = {}
    present: dict[str, None] = {}
    for name, open_fields in named.items():
        try:
            with reading(accepted):
                fields = open_fields()
                present |= dict.fromkeys(path.partition("/")[0] for path in fields)
                rows[name] = _marked_rows(fields, roles, accepted)
        except DataError as error:
            rows[name] = UnreadableEpisode(name, str(error))
    check_roles(roles, present)
    _read_marks({name: r for name, r in rows.items() if isinstance(r, _Rows)}, rows, roles)
    _find_unlogged(named, rows, options, source, accepted)
    integers = [r.integers for r in rows.values() if isinstance(r, _Rows) and len(r.integers)]
    numbers = bool(integers) and are_counts(np.concatenate(integers), source)
    told, notes, idle = FieldNames(source), Counter[str](), list[np.ndarray]()
    for name, found in rows.items():
        if isinstance(found, UnreadableEpisode):
            yield found
            continue
        try:
            with reading(accepted):
                fields = named[name]()
                names = names_of(fields, roles, accepted)
                told.warn(_row_long(fields, names, found.count), found.count)
                kept = choice.among(names.observations)
                names = replace(names, observations={k: names.observations[k] for k in kept})
                episode = _episode(fields, names, found, name, notes, numbers)
                if episode.rewards is not None and not episode.final_logged:
                    idle.append(idle_rows(episode.actions, episode.rewards))
                yield episode
        except DataError as error:
            yield UnreadableEpisode(name, str(error))
    if idle:
        last = np.concatenate([np.arange(len(rows)) == len(rows) - 1 for rows in idle])
        warn_of_padding(np.concatenate(idle), last, source)
    for note, times in notes.items():
        logger.warning("%s: %d episodes %s", source, times, note)


def _find_unlogged(
    named: Mapping[str, Callable[[], Fields]],
    rows: Mapping[str, _Rows | UnreadableEpisode],
    options: DataOptions,
    source: str,
    accepted: str,
) -> None:
    """Notes the episodes whose last next observation is not what followed; warns about them."""
    finals, label, choice = FinalSteps(), "", ObservationChoice.of(options)
    for name, found in rows.items():
        if isinstance(found, UnreadableEpisode) or found.final:
            continue
        try:
            with reading(accepted):
                fields = named[name]()
                names = names_of(fields, options.roles, accepted)
                _check_lengths(fields, names, found.count)
                kept = choice.among(names.observations)
                now = {key: fields[names.observations[key]] for key in kept}
                if {*kept} - {*names.following} or any(len(v) > found.count for v in now.values()):
                    return
                then = {key: fields[names.following[key]] for key in kept}
                finals.add(name, now, then, found.stop, found.terminal)
                label = next(iter(names.following.values())).partition("/")[0]
        except DataError:  # is reported when the episode is read
            continue
        if not finals.possible:
            return
    unlogged, what = finals.unlogged()
    for name, found in rows.items():
        if isinstance(found, _Rows):
            found.unlogged = name in unlogged
    if unlogged:
        logger.warning(
            "%s: %s %s at the end of %d of %d episodes: the observations after these are taken as "
            "not logged",
            source, label, what, len(unlogged), len(rows),
        )  # fmt: skip


def _row_long(fields: Fields, names: Names, count: int) -> list[str]:
    """The fields, or groups of them, that have a row for each action and are not read."""
    long = [n for n in names.unread if fields[n].shape[:1] in ((count,), (count + 1,))]
    return list(dict.fromkeys(name.partition("/")[0] for name in long))


def _marked_rows(fields: Fields, roles: Mapping[str, str], accepted: str) -> _Rows:
    names = names_of(fields, roles, accepted)
    if not fields[names.action].shape or not len(fields[names.action]):
        raise DataError(f"{names.action} has no rows; accepted: at least one transition")
    count, marks = len(fields[names.action]), {}
    for name in names.marks:
        values = fields[name]
        if values.shape in ((), (1,)):  # of the episode: its last row
            whole, values = values[()], np.zeros(count, values.dtype)
            values[-1] = np.reshape(whole, ())
        if values.shape not in ((count,), (count, 1)):
            raise DataError(f"{name} has shape {values.shape}; accepted: ({count},), as actions")
        marks[name] = np.asarray(values[:]).reshape(count)
        check = discounts if role_of(name, roles) == "not_terminal" else truths
        check(marks[name], name)  # here, since a row of this episode is meant
    actions = fields[names.action]
    if actions.dtype.kind in "iu" and actions.shape[1:] == (1,):
        return _Rows(marks, count, count, integers=np.asarray(actions[:]))
    return _Rows(marks, count, stop=count)


def _read_marks(
    found: Mapping[str, _Rows],
    rows: dict[str, _Rows | UnreadableEpisode],
    roles: Mapping[str, str],
) -> None:
    """Reads the marks of all episodes together, since a question about them concerns all."""
    keys = dict.fromkeys(key for item in found.values() for key in item.marks)
    for name, item in found.items():
        if missing := [key for key in keys if key not in item.marks]:
            error = f"has no {', '.join(missing)}, which others have"
            rows[name] = UnreadableEpisode(name, error)
    whole = {name: item for name, item in found.items() if len(item.marks) == len(keys)}
    if not keys or not whole:
        return
    columns = {key: np.concatenate([item.marks[key] for item in whole.values()]) for key in keys}
    marks, begin = read_marks(columns, roles), 0
    for name, item in whole.items():
        part = slice(begin, begin := begin + item.count)
        terminal, inside = np.flatnonzero(marks.terminal[part]), marks.last[part][:-1]
        item.stop = int(terminal[0]) + 1 if len(terminal) else item.count
        item.terminal, item.final = bool(len(terminal)), marks.final
        if (early := np.flatnonzero(inside[: item.stop - 1])).size:
            key = next(iter(keys))
            error = (
                f"{' or '.join(keys)} marks an end in row {early[0]} of {item.count}, inside one "
                f"episode; accepted: marks in the last row, or data.roles={{{key}: ignore}}"
            )
            rows[name] = UnreadableEpisode(name, error)


def _episode(
    fields: Fields, names: Names, rows: _Rows, name: str, notes: Counter[str], numbers: bool
) -> Episode:
    _check_lengths(fields, names, rows.count)
    place = next(iter(names.observations.values())).partition("/")[0]
    if place in ("states", *SIMULATOR):
        notes[STATES_OBSERVED.format(place)] += 1
    stop, observations = rows.stop, {k: fields[path] for k, path in names.observations.items()}
    check_memory(sum(map(_row_bytes, observations.values())) * (stop + 1), name)
    if stop < rows.count:
        marks = ", ".join(names.marks)
        notes[AFTER_TERMINAL.format(marks, names.marks[0])] += 1
    values = {key: np.asarray(value[: stop + 1]) for key, value in observations.items()}
    complete = rows.final or len(next(iter(values.values()))) > stop
    if not complete and names.following and not rows.unlogged:
        following = {key: fields[path] for key, path in names.following.items()}
        if lost := [key for key in values if key not in following]:
            notes[NEXT_MISSING.format(", ".join(lost))] += 1
        else:
            if _differs(values, following, stop):
                notes[NEXT_DIFFERS.format(", ".join(names.following.values()))] += 1
            last = {key: np.asarray(following[key][stop - 1 : stop]) for key in values}
            values = {key: np.concatenate([value, last[key]]) for key, value in values.items()}
            complete = True
    return Episode(
        values,
        actions=step_actions(np.asarray(fields[names.action][:stop]), numbers),
        rewards=None if names.reward is None else np.asarray(fields[names.reward][:stop]),
        terminated=rows.terminal,
        name=name,
        final_logged=complete,
    )


def _check_lengths(fields: Fields, names: Names, count: int) -> None:
    """Raises DataError for fields of another number of rows than the actions have."""
    first = next(iter(names.observations.values()))
    observed = len(fields[first]) if fields[first].shape else 0
    accepted: dict[str, tuple[int, ...]] = {}
    accepted |= {path: (observed,) for path in names.observations.values()}
    accepted[first] = (count, count + 1)
    accepted |= {path: (count,) for path in names.following.values()}
    if names.reward is not None:
        accepted[names.reward] = (count,)
    for path, lengths in accepted.items():
        shape = fields[path].shape
        if not shape or shape[0] not in lengths:
            either = " or ".join(map(str, lengths))
            raise DataError(
                f"{path} has shape {shape} for {count} actions; accepted: {either} rows"
            )


def _row_bytes(values: Any) -> int:
    return math.prod(values.shape[1:]) * values.dtype.itemsize


def _differs(observations: Fields, following: Fields, stop: int) -> bool:
    """Whether the logged next observation of a row is not that of the next row; images are not
    compared.
    """
    for key, values in observations.items():
        if values.ndim <= 2 and values.dtype.kind in "fiub":
            after, row = np.asarray(following[key][: stop - 1]), values[1:stop]
            if not np.array_equal(after, row, equal_nan=values.dtype.kind == "f"):
                return True
    return False
