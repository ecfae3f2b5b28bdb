"""Faults in logs, found before anything trains on them, by source, episode, row and field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import DataError

MOST_FAULTS = 10  # lines in one message
MOST_ROWS = 3  # rows named in one line
BOUND_TOLERANCE = 1e-4  # how far outside its bounds an action may lie, as a share of their width


# ---------------------------------------------------------------------------------------- validate


def validate(trajectories: Trajectories) -> None:
    """Raises DataError with every fault in the logs; values are looked at if the layout fits."""
    faults = list(_layout_faults(trajectories)) or list(_value_faults(trajectories))
    raise_faults(faults, trajectories.source)


def raise_faults(faults: list[str], source: str) -> None:
    """Raises DataError that lists the faults, the first MOST_FAULTS of them, if there are any."""
    if not faults:
        return
    more = len(faults) - MOST_FAULTS
    lines = faults[:MOST_FAULTS] + ([f"... and {more} more"] if more > 0 else [])
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    raise DataError("\n  - ".join([f"{source}: {count} in the logs", *lines]))


def _layout_faults(trajectories: Trajectories) -> Iterator[str]:
    t = trajectories
    if t.num_episodes == 0:
        yield "no episodes; accepted: at least one"
        return
    if len(t.terminated) != t.num_episodes:
        yield f"terminated has {len(t.terminated)} entries; accepted: {t.num_episodes}, the lengths"
    for episode in np.flatnonzero(t.lengths < 2):
        yield f"episode {episode} has {t.lengths[episode]} row(s); accepted: at least 2"
    if not t.observations:
        yield "no observations; accepted: at least one named observation"
    for field, value in _fields(t):
        if len(value) != t.num_rows:
            yield f"{field} has {len(value)} rows; accepted: {t.num_rows}, the sum of lengths"
    for key, value in t.observations.items():
        if not _is_observation(value):
            yield (
                f"observation {key!r} is {value.dtype} of shape {value.shape}; "
                "accepted: float32 (rows, D) or uint8 images (rows, height, width, channels)"
            )
    if t.rewards is not None and not (t.rewards.dtype == np.float32 and t.rewards.ndim == 1):
        yield f"reward is {t.rewards.dtype} of shape {t.rewards.shape}; accepted: float32 (rows,)"
    yield from _action_layout_faults(t.actions, t.action_spec)


def _action_layout_faults(actions: np.ndarray, spec: ActionSpec) -> Iterator[str]:
    if spec.size < 1:
        yield f"action size is {spec.size}; accepted: at least 1"
    described = f"{actions.dtype} of shape {actions.shape}"
    if spec.discrete:
        if actions.dtype != np.int32 or actions.ndim != 1:
            yield f"action is {described}; accepted: int32 classes (rows,)"
        return
    if actions.dtype != np.float32 or actions.shape[1:] != (spec.size,):
        yield f"action is {described}; accepted: float32 (rows, {spec.size})"
    if not len(spec.low) == len(spec.high) == spec.size:
        yield f"action has {len(spec.low)} low, {len(spec.high)} high bounds; accepted: {spec.size}"
    for dimension, (low, high) in enumerate(zip(spec.low, spec.high, strict=False)):
        if not (np.isfinite([low, high]).all() and low < high):
            yield f"action {dimension} has low {low} and high {high}; accepted: finite, low < high"


def _value_faults(trajectories: Trajectories) -> Iterator[str]:
    t, spec = trajectories, trajectories.action_spec
    for field, value in _fields(t):
        if value.dtype.kind == "f":
            finite = np.isfinite(value.reshape(len(value), -1)).all(axis=1)
            yield from _row_faults(t, ~finite, f"{field} is not finite", "finite numbers")
    last = np.zeros(t.num_rows, bool)
    last[np.cumsum(t.lengths) - 1] = True
    if t.rewards is not None:
        yield from _row_faults(
            t, last & (t.rewards != 0), "reward after the last transition", "0, it is padding"
        )
    if spec.discrete:
        outside = (t.actions < 0) | (t.actions >= spec.size)
        yield from _row_faults(t, outside & ~last, "action is no class", f"0 to {spec.size - 1}")
        return
    low, high = np.asarray(spec.low), np.asarray(spec.high)
    slack = BOUND_TOLERANCE * (high - low)
    outside = (t.actions < low - slack) | (
        t.actions > high + slack
    )  # False for NaN, which is named above
    accepted = f"low {list(spec.low)} to high {list(spec.high)}"
    yield from _row_faults(t, outside.any(axis=1) & ~last, "action is outside its bounds", accepted)


def _row_faults(
    trajectories: Trajectories, bad: np.ndarray, fault: str, accepted: str
) -> Iterator[str]:
    """One line for all rows where `bad` (N,) holds, with the first few of them."""
    rows = np.flatnonzero(bad)
    if len(rows) == 0:
        return
    offsets = trajectories.offsets
    episodes = np.searchsorted(offsets, rows[:MOST_ROWS], side="right") - 1
    named = [
        f"episode {e} row {r - offsets[e]}" for e, r in zip(episodes, rows[:MOST_ROWS], strict=True)
    ]
    more = f", and {len(rows) - len(named)} more rows" if len(rows) > len(named) else ""
    yield f"{fault}: {', '.join(named)}{more}; accepted: {accepted}"


def _fields(trajectories: Trajectories) -> Iterator[tuple[str, np.ndarray]]:
    for key, value in trajectories.observations.items():
        yield _observation_field(key), value
    yield "action", trajectories.actions
    if trajectories.rewards is not None:
        yield "reward", trajectories.rewards


def _is_observation(value: np.ndarray) -> bool:
    vector = value.dtype == np.float32 and value.ndim == 2
    image = value.dtype == np.uint8 and value.ndim == 4
    return (vector or image) and 0 not in value.shape[1:]


# ------------------------------------------------------------------------------------------- stack


@dataclass(frozen=True)
class Episode:
    """One episode of T transitions, as a reader found it.

    observations: name -> (T+1, ...) numbers
    actions: (T, ...) or (T+1, ...); a last row is padding, and whatever it holds is dropped
    rewards: (T,) or (T+1,) likewise, or None
    terminated: whether the environment really ended here
    name: how messages call it, with its file where there are several; 'episode 7' if empty
    """

    observations: dict[str, ArrayLike]
    actions: ArrayLike
    rewards: ArrayLike | None
    terminated: bool
    name: str = ""


def stack_episodes(
    episodes: Iterable[Episode], source: str, action_spec: ActionSpec | None = None
) -> Trajectories:
    """Episodes end to end: uint8 images, other observations as float32 vectors, padding zero.

    Without `action_spec`, it is inferred. Raises DataError that lists every field whose type, shape
    or number of rows does not fit.
    """
    stacked: list[dict[str, np.ndarray]] = []
    terminated: list[bool] = []
    faults: list[str] = []
    first: tuple[str, dict[str, np.ndarray]] | None = None
    keys: list[str] = []
    for index, episode in enumerate(episodes):
        name, columns = episode.name or f"episode {index}", _columns(episode)
        if first is None:
            first, keys = (name, columns), list(episode.observations)
        found = list(_misfits(name, columns, *first)) or list(_uneven_rows(name, columns))
        faults += found
        if not found:
            stacked.append(_padded(columns))
            terminated.append(bool(episode.terminated))
    raise_faults(faults, source)
    if not stacked:
        raise DataError(f"{source}: no episodes; accepted: at least one")
    lengths = np.array([len(columns["action"]) for columns in stacked], np.int64)
    flat = {
        field: np.concatenate([columns.pop(field) for columns in stacked])
        for field in list(stacked[0])
    }
    spec = action_spec or infer_action_spec(flat["action"], lengths)
    return Trajectories(
        observations={key: flat[_observation_field(key)] for key in keys},
        actions=_actions(flat["action"], spec.discrete),
        rewards=flat["reward"].reshape(len(flat["reward"])) if "reward" in flat else None,
        lengths=lengths,
        terminated=np.array(terminated, bool),
        action_spec=spec,
        source=source,
    )


def infer_action_spec(actions: np.ndarray, lengths: np.ndarray) -> ActionSpec:
    """What the data say: integers (N,) are classes, others lie between their minimum and maximum.

    A dimension that never changes gets a width of 1, since bounds of no width cannot be normalised.
    """
    real = np.ones(len(actions), bool)
    real[np.cumsum(lengths) - 1] = False  # padding says nothing about bounds
    if actions.ndim == 1 and actions.dtype.kind == "i":
        return ActionSpec(discrete=True, size=int(actions[real].max(initial=0)) + 1)
    actions = _actions(actions[real], discrete=False)
    low, high = actions.min(0, initial=np.inf), actions.max(0, initial=-np.inf)
    high = np.where(low == high, low + 1, high)
    return ActionSpec(False, actions.shape[1], tuple(low.tolist()), tuple(high.tolist()))


def _columns(episode: Episode) -> dict[str, np.ndarray]:
    """The fields of an episode as they are kept, under the names that messages give them."""
    columns = {
        _observation_field(key): _observation(value) for key, value in episode.observations.items()
    }
    columns["action"] = _numbers(episode.actions, integers=True)
    if episode.rewards is not None:
        columns["reward"] = _numbers(episode.rewards)
    return columns


def _observation(value: ArrayLike) -> np.ndarray:
    """(T+1, ...) to a uint8 image (T+1, height, width, channels) or a float32 vector (T+1, D)."""
    if getattr(value, "dtype", None) == np.uint8 and value.ndim == 4:
        return value
    value = _numbers(value)
    return value.reshape(len(value), -1) if value.dtype == np.float32 and value.size else value


def _numbers(value: ArrayLike, integers: bool = False) -> np.ndarray:
    """float32, or int64 where `integers` may stay; what is no array of numbers stays as it is."""
    try:
        value = np.atleast_1d(np.asarray(value))
    except ValueError:  # rows of different shapes
        return np.asarray(value, object)
    if value.dtype.kind in "iub" and integers:
        return value.astype(np.int64)
    return value.astype(np.float32) if value.dtype.kind in "fiub" else value


def _actions(actions: np.ndarray, discrete: bool) -> np.ndarray:
    """(N,) int32 classes, or (N, A) float32."""
    if discrete:
        return actions.astype(np.int32)
    return actions.astype(np.float32).reshape(len(actions), -1)


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


def _uneven_rows(name: str, columns: dict[str, np.ndarray]) -> Iterator[str]:
    """Fields whose rows do not match those of the first observation."""
    reference = next(iter(columns))
    rows = len(columns[reference])
    for field, value in columns.items():
        accepted = (rows,) if field.startswith("observation") else (rows - 1, rows)
        if len(value) not in accepted:
            yield (
                f"{name}: {field} has {len(value)} rows, {reference} has {rows}; "
                f"accepted: {' or '.join(map(str, accepted))}"
            )


def _padded(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Action and reward with a last row of zeros, whatever they had there."""
    rows = len(columns[next(iter(columns))])
    for field in columns.keys() & {"action", "reward"}:
        padded = np.zeros((rows, *columns[field].shape[1:]), columns[field].dtype)
        padded[:-1] = columns[field][: rows - 1]
        columns = {**columns, field: padded}
    return columns


def _observation_field(key: str) -> str:
    return f"observation {key!r}"
