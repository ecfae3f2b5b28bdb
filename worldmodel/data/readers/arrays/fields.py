"""Which of the named arrays of a file is what: observations, actions, rewards, marks of ends.

`marks.py` has the names. Several observations are `observations/NAME` each, or have the role
`observation` in `data.roles`; several actions are `actions/NAME` each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from worldmodel.data.image_layouts import default_name
from worldmodel.data.readers.arrays.joined_actions import JoinedActions
from worldmodel.data.readers.marks import MARKS, NAMES, role_of
from worldmodel.data.readers.sizes import check_memory
from worldmodel.errors import DataError, did_you_mean

Arrays = Mapping[str, Any]  # name -> (N, ...), anything that can be sliced, in memory or on disk

GROUPS = ("observation", "next_observation")  # roles that may be several arrays: NAME/KEY
LAST_NEXT = "last_next"  # (episodes, ...) the observations after each last action
EPISODE_NAMES = "episode_names"
EPISODE_IDS = (
    *("episode", "episode_id", "episode_ids", "episode_index", "episode_idx", "episode_number"),
    *("trajectory_id", "traj_id", "traj_idx"),
)
OGBENCH_VALIDS = "valids"  # 0 in rows that hold the final observation alone


@dataclass(frozen=True)
class Fields:
    """The arrays of a file by what they are.

    Attributes:
        observations: name -> (rows, ...)
        actions: (N, ...)
        rewards: (N,), or None
        next_observations: name -> (N, ...) the observation after each row; empty if not logged
        final_observations: name -> (episodes, ...) the one after each last action; likewise
        marks: name -> (N,) or (episodes,), in memory
        roles: name -> role, of every field that is read
        lengths: (episodes,) transitions or rows of each episode, or None
        episodes: (rows,) the episode of each row, or None
        names: (episodes,) names of the episodes, or None
        labels: role -> the name in the file, for messages
        told: the names that `data.roles` gives a role
    """

    observations: Arrays
    actions: Any
    rewards: Any | None = None
    next_observations: Arrays = field(default_factory=dict)
    final_observations: Arrays = field(default_factory=dict)
    marks: Mapping[str, np.ndarray] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    lengths: Any | None = None
    episodes: np.ndarray | None = None
    names: Any | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    told: frozenset[str] = frozenset()

    @property
    def logs_next(self) -> bool:
        return bool(self.next_observations or self.final_observations)

    def label(self, role: str) -> str:
        """The name of a role in the file, for messages."""
        return self.labels.get(role, role)

    def with_marks(self, marks: Mapping[str, np.ndarray], **roles: str) -> Fields:
        """The same with other marks, and other roles of some of them."""
        return replace(self, marks=dict(marks), roles={**self.roles, **roles})

    def marks_of(self, *roles: str) -> dict[str, np.ndarray]:
        """Those of the marks that have one of the `roles`."""
        return {name: value for name, value in self.marks.items() if self.roles[name] in roles}


def field_roles(names: Iterable[str], roles: Mapping[str, str]) -> dict[str, str]:
    """Returns name -> role, of the fields that are read; `last_next` and `episode_names` are
    roles of their own. Of several names for one thing, the first of `NAMES` is read.
    """
    names = list(names)
    found: dict[str, str] = {}
    for name in names:
        base = name.partition("/")[0]
        if name in roles or base in roles:
            found[name] = roles.get(name) or roles[base]
        elif (role := role_of(base)) and (base == name or role in (*GROUPS, "action")):
            found[name] = role
        elif base == LAST_NEXT or name == EPISODE_NAMES:
            found[name] = base
        elif name == OGBENCH_VALIDS:
            found[name] = "not_final"
        elif name in EPISODE_IDS:
            found[name] = "episode"
    for role in (*GROUPS, "action", "reward", "length", "episode"):
        named = [name for name, its in found.items() if its == role]
        told = [n for n in named if n in roles or n.partition("/")[0] in roles]
        bases = {name.partition("/")[0] for name in named if name not in told}
        best = [base for base in NAMES.get(role, EPISODE_IDS) if base in bases][:1]
        for name in named:
            known = name.partition("/")[0] in best and (role in GROUPS or not told)
            if name not in told and not known:
                del found[name]
    return {name: role for name, role in found.items() if role != "ignore"}


def fields_of(arrays: Arrays, roles: Mapping[str, str], told: Collection[str] = ()) -> Fields:
    """Sorts arrays by their roles, as `field_roles` gives them, and loads marks and lengths.

    `told` are the names in `data.roles`. Raises DataError for arrays that are not rows of numbers.
    """
    _check(arrays, roles)
    by_role = {
        role: {name: arrays[name] for name in arrays if roles[name] == role}
        for role in (*GROUPS, LAST_NEXT, "action", "reward", "length", "episode", EPISODE_NAMES)
    }
    actions = by_role["action"]
    joined = len(actions) > 1 and len({name.partition("/")[0] for name in actions}) == 1
    for role in ("action", "reward", "length", "episode"):
        if len(by_role[role]) > 1 and not (role == "action" and joined):
            raise DataError(
                f"{', '.join(by_role[role])} are {role} all; accepted: one of them, and "
                "data.roles={NAME: ignore} for the others"
            )
    lengths, ids = (
        next((_loaded(n, v) for n, v in by_role[role].items() if v.ndim), None)
        for role in ("length", "episode")
    )
    names = next(iter(by_role[EPISODE_NAMES].values()), None)
    observations, following = (_keyed(by_role[role]) for role in GROUPS)
    if len(observations) == len(following) == 1 and {*by_role["next_observation"]} <= {*told}:
        following = dict(zip(observations, following.values(), strict=True))
    return Fields(
        observations=observations,
        actions=JoinedActions(actions) if joined else next(iter(actions.values())),
        rewards=next(iter(by_role["reward"].values()), None),
        next_observations=following,
        final_observations=_keyed(by_role[LAST_NEXT]),
        marks={
            name: _loaded(name, value)
            for name, value in arrays.items()
            if roles[name] in (*MARKS, "not_final")
        },
        roles=roles,
        lengths=lengths,
        episodes=ids,
        names=None if names is None else names[:],
        labels={
            role: name.partition("/")[0] if role in GROUPS else name
            for role, named in by_role.items()
            for name in list(named)[:1]
        },
        told=frozenset(told),
    )


def require(roles: Mapping[str, str], names: Iterable[str], accepted: str) -> None:
    """Raises DataError if there are no observations or no actions among the fields of a file."""
    given, names = set(roles.values()), list(names)
    absent = [NAMES[role][0] for role in ("observation", "action") if role not in given]
    if absent:
        bases = list(dict.fromkeys(name.partition("/")[0] for name in names))
        hint = did_you_mean(absent[0], bases)
        raise DataError(
            f"has no {' and no '.join(absent)}{hint}; present: {', '.join(names) or 'none'}; "
            f"accepted: {accepted}. data.roles={{NAME: {absent[0].rstrip('s')}}} names another"
        )


def unread(
    shapes: Mapping[str, tuple[int, ...]], read: Iterable[str], rows: Collection[int]
) -> list[str]:
    """The names that are not `read` though they have as many rows as there are actions, or
    observations.
    """
    read = {*read}
    return [n for n, shape in shapes.items() if n not in read and shape and shape[0] in rows]


def _check(arrays: Arrays, roles: Mapping[str, str]) -> None:
    rows = (*GROUPS, LAST_NEXT, "action", "reward", "length", EPISODE_NAMES)
    if scalars := [k for k, v in arrays.items() if v.ndim == 0 and roles[k] in rows]:
        raise DataError(f"{', '.join(scalars)} is a single number; accepted: arrays of rows")
    for key, value in arrays.items():
        text = roles[key] in (
            *GROUPS,
            LAST_NEXT,
            *MARKS,
            "episode",
            EPISODE_NAMES,
        )  # judged by value, later
        if value.dtype.kind not in ("fiubSUO" if text else "fiub"):
            raise DataError(f"{key} is {value.dtype}; accepted: numbers")
    if next(len(v) for k, v in arrays.items() if roles[k] == "action") == 0:
        raise DataError("actions has no rows; accepted: at least one transition")


def _loaded(name: str, value: Any) -> np.ndarray:
    check_memory(value.dtype.itemsize * int(np.prod(value.shape)), name)
    return np.asarray(value[()] if value.ndim == 0 else value[:])


def _keyed(arrays: Arrays) -> dict[str, Any]:
    """The arrays NAME/KEY by KEY, and a single array by a default name."""
    keyed: dict[str, Any] = {}
    for name, value in arrays.items():
        base, slash, key = name.partition("/")
        if role_of(base) in GROUPS or base == LAST_NEXT:
            keyed[key if slash else default_name(value.shape[1:], value.dtype)] = value
        else:  # named by `data.roles`
            keyed[name.removeprefix("next_").removesuffix("_next")] = value
    return keyed
