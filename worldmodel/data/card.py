"""The data card: a summary of a dataset as JSON; `card_tables.py` shows it.

The dataset may be memory-mapped and larger than memory: vectors are read in chunks, images are
sampled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from worldmodel.data.moments import Moments, moments
from worldmodel.data.offsets import add_offset
from worldmodel.data.trajectories import Trajectories, check_dataset
from worldmodel.errors import check_count, require

MAX_IMAGES = 2000  # for the pixel statistics, evenly spaced
MAX_PAIRS = 2000  # of consecutive steps that are compared, chosen at random
WINDOWS = (16, 32, 64)  # steps
AT_BOUND = 1e-3  # maximum distance of an action at its bound, as a share of the width


def build_card(
    trajectories: Trajectories,
    windows: Sequence[int] = WINDOWS,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Summarizes a dataset as plain JSON.

    Args:
        trajectories: the dataset
        windows: lengths of windows to count, in steps
        columns: names of the columns of vectors, by observation, and of `action`

    Returns:
        Counts of episodes, transitions, terminal and truncated episodes; `lengths` in transitions;
        `windows` in steps; and statistics of returns, rewards, observations and actions, all
        without padding.

    Example:
        >>> import numpy as np
        >>> from worldmodel.data import Episode, build_card, stack_episodes
        >>> episode = Episode({"x": np.zeros((9, 2))}, np.ones((8, 1)), np.ones(8), terminated=True)
        >>> card = build_card(stack_episodes([episode], "one flight"))
        >>> card["transitions"], card["returns"]["mean"], card["observations"]["x"]["std"]
        (8, 8.0, [0.0, 0.0])
    """
    check_dataset(trajectories)
    require(isinstance(windows, Sequence), "windows", type(windows).__name__, "integers")
    for length in windows:
        check_count("windows", length)
    t, columns = trajectories, columns or {}
    steps, terminals = t.lengths - 1, int(t.terminated.sum())
    longest = steps == steps.max()
    return {
        "source": t.source,
        "episodes": t.num_episodes,
        "transitions": t.num_transitions,
        "lengths": {
            "min": int(steps.min()),
            "median": float(np.median(steps)),
            "max": int(steps.max()),
        },
        "terminals": terminals,
        "timeouts": t.num_episodes - terminals,
        "unlogged_finals": len(t.placeholders),
        "lost_digits": list(t.lost_digits),
        "longest": {
            "episodes": int(longest.sum()),
            "terminals": int(t.terminated[longest].sum()),
        },
        "windows": [_window(t.lengths, length) for length in windows],
        "repeated_observations": _repeated(t),
        "repeated_episodes": t.num_episodes - len({_content(t, e) for e in range(t.num_episodes)}),
        "returns": None if t.rewards is None else _range(t.returns()),
        "rewards": _rewards(t),
        "observations": {key: _observation(t, key, columns.get(key)) for key in t.observations},
        "action": _action(t, columns.get("action")),
    }


def _window(lengths: np.ndarray, length: int) -> dict[str, Any]:
    """Which part of the dataset fills whole windows: a shorter episode gives one padded window."""
    usable = lengths >= length
    return {
        "length": length,
        "episode_fraction": float(usable.mean()),
        "step_fraction": float(lengths[usable].sum() / lengths.sum()),
        "count": int((lengths[usable] - length + 1).sum()),
    }


def _observation(
    trajectories: Trajectories, key: str, columns: Sequence[str] | None
) -> dict[str, Any]:
    value = trajectories.observations[key]
    description = {"shape": list(value.shape[1:]), "dtype": str(value.dtype)}
    if value.ndim == 4:
        steps = trajectories.step_indices()
        return description | _pixels(value, steps[:: max(1, len(steps) // MAX_IMAGES)])
    offset = trajectories.vector_offsets.get(key, ())
    found = moments(trajectories.chunks(value))
    if offset:
        mean, low, high = (add_offset(x, offset) for x in (found.mean, found.low, found.high))
        found = Moments(mean, found.std, low, high)
    return (
        description
        | _named(columns, value.shape[1])
        | _vectors(found)
        | ({"offset": list(offset)} if offset else {})
        | {"monotonic": _monotonic(trajectories, value).tolist()}
    )


def _vectors(found: Moments) -> dict[str, list[float]]:
    """One number per dimension."""
    return {
        "min": found.low.tolist(),
        "max": found.high.tolist(),
        "mean": found.mean.tolist(),
        "std": found.std.tolist(),
    }


def _pixels(value: np.ndarray, steps: np.ndarray) -> dict[str, float]:
    """One number for all pixels, from their histogram, since a float copy needs too much memory."""
    counts = sum(np.bincount(value[step].ravel(), minlength=256) for step in steps)
    levels = np.arange(256)
    mean = np.average(levels, weights=counts)
    present = np.flatnonzero(counts)
    return {
        "min": int(present[0]),
        "max": int(present[-1]),
        "mean": float(mean),
        "std": float(np.sqrt(np.average((levels - mean) ** 2, weights=counts))),
    }


def _monotonic(trajectories: Trajectories, value: np.ndarray) -> np.ndarray:
    """(D,) whether a column never decreases within an episode and increases in each, like time."""
    rising = np.ones(value.shape[1], bool)
    for change in trajectories.step_differences(value):
        rising &= (change >= 0).all(0)
        if not rising.any():
            return rising
    first, last = trajectories.offsets, trajectories.offsets + trajectories.observed_lengths - 1
    return rising & (value[last] > value[first])[first < last].all(0)


def _action(trajectories: Trajectories, columns: Sequence[str] | None) -> dict[str, Any]:
    spec, actions = trajectories.action_spec, trajectories.actions
    if spec.discrete:
        counts = _class_counts(trajectories, actions, spec.size)
        return {"kind": "discrete", "size": spec.size, "counts": counts}
    if spec.kind == "continuous":
        numbers = _bounded(trajectories, np.arange(spec.size))
        names = _named(columns, spec.size)
        return {"kind": "continuous", "size": spec.size} | names | numbers
    names = (_named(columns, spec.size) or {"columns": spec.column_names()})["columns"]
    places = np.flatnonzero(np.asarray(spec.classes) == 0)
    numbers = None
    if len(places):
        numbers = {"columns": [names[k] for k in places]} | _bounded(trajectories, places)
    choices = {
        names[k]: _class_counts(trajectories, actions[:, k], n)
        for k, n in enumerate(spec.classes)
        if n
    }
    return {"kind": "mixed", "size": spec.size, "choices": choices, "numbers": numbers}


def _class_counts(trajectories: Trajectories, classes: np.ndarray, size: int) -> list[int]:
    """How often each of `size` classes (N,) was taken."""
    counts = np.zeros(size, np.int64)
    for part in trajectories.chunks(classes, padding=False):
        counts += np.bincount(part.astype(np.int32), minlength=size)
    return counts.tolist()


def _bounded(trajectories: Trajectories, places: np.ndarray) -> dict[str, Any]:
    """Bounds and statistics of the columns of actions at `places`."""
    spec, whole = trajectories.action_spec, len(places) == trajectories.action_spec.size

    def chunks() -> Iterator[np.ndarray]:
        each = trajectories.chunks(trajectories.actions, padding=False)
        return each if whole else (part[:, places] for part in each)

    low, high = np.asarray(spec.low)[places], np.asarray(spec.high)[places]
    near = AT_BOUND * (high - low)
    at_bounds = np.sum(
        [((part <= low + near) | (part >= high - near)).sum(0) for part in chunks()], axis=0
    )
    return (
        {"low": low.tolist(), "high": high.tolist()}
        | _vectors(moments(chunks()))
        | {
            "at_bounds": (at_bounds / trajectories.num_transitions).tolist(),
            "integer_valued": all(np.array_equal(part, np.round(part)) for part in chunks()),
        }
    )


def _named(columns: Sequence[str] | None, size: int) -> dict[str, list[str]]:
    """The names of columns, if there is one for each."""
    return {"columns": list(columns)} if columns and len(columns) == size else {}


def _rewards(trajectories: Trajectories) -> dict[str, float] | None:
    if trajectories.rewards is None:
        return None
    found = moments(trajectories.chunks(trajectories.rewards[:, None], padding=False))
    return {key: value[0] for key, value in _vectors(found).items()}


def _repeated(trajectories: Trajectories) -> float:
    """Share of the transitions that do not change the observation."""
    steps = np.setdiff1d(trajectories.step_indices(), trajectories.last_steps, assume_unique=True)
    if trajectories.final_logged is not None:
        steps = np.setdiff1d(steps, trajectories.placeholders - 1, assume_unique=True)
    if len(steps) > MAX_PAIRS:  # at random, since repetitions may be periodic
        steps = np.sort(np.random.default_rng(0).choice(steps, MAX_PAIRS, replace=False))
    if not len(steps):
        return 0.0
    values = trajectories.observations.values()
    same = [all(np.array_equal(v[step], v[step + 1]) for v in values) for step in steps]
    return float(np.mean(same))


def _content(trajectories: Trajectories, episode: int) -> bytes:
    """A digest of an episode, with the first and the last of its images."""
    first, last = trajectories.offsets[episode], trajectories.last_steps[episode]
    digest = hashlib.blake2b(digest_size=16)
    for value in trajectories.fields().values():
        step = max(1, last - first) if value.ndim == 4 else 1
        digest.update(np.ascontiguousarray(value[first : last + 1 : step]).data)
    return digest.digest()


def _range(values: np.ndarray) -> dict[str, float]:
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}
