"""The data card: a summary of a dataset, as JSON and as tables.

The dataset may be memory-mapped and larger than memory: vectors are read in chunks, images are
sampled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from worldmodel.data.moments import Moments, moments
from worldmodel.data.offsets import add_offset
from worldmodel.data.trajectories import Trajectories, check_dataset
from worldmodel.errors import check_count, printable, require

MAX_IMAGES = 2000  # for the pixel statistics, evenly spaced
MAX_PAIRS = 2000  # of consecutive steps that are compared, chosen at random
WINDOWS = (16, 32, 64)  # steps
MAX_COLUMNS = 16  # that a table shows one by one
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

    def chunks() -> Iterator[np.ndarray]:
        return trajectories.chunks(actions, padding=False)

    if spec.discrete:
        counts = np.sum([np.bincount(part, minlength=spec.size) for part in chunks()], axis=0)
        return {"kind": "discrete", "size": spec.size, "counts": counts.tolist()}
    low, high = np.asarray(spec.low), np.asarray(spec.high)
    near = AT_BOUND * (high - low)
    at_bounds = np.sum(
        [((part <= low + near) | (part >= high - near)).sum(0) for part in chunks()], axis=0
    )
    return (
        {"kind": "continuous", "size": spec.size, "low": list(spec.low), "high": list(spec.high)}
        | _named(columns, spec.size)
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


# ---------------------------------------------------------------------------------------- as tables


def render(card: dict[str, Any]) -> Group:
    """Renders a card as tables for `rich`: an overview, each observation, and the actions.

    Example:
        >>> import numpy as np
        >>> from rich.console import Console
        >>> from worldmodel.data import Episode, build_card, render, stack_episodes
        >>> episode = Episode({"x": np.zeros((9, 2))}, np.ones((8, 1)), np.ones(8), terminated=True)
        >>> Console().print(render(build_card(stack_episodes([episode], "one flight"))))
        one flight
          episodes ...
    """
    known = isinstance(card, Mapping) and "observations" in card
    require(known, "card", type(card).__name__, "what `build_card` returns")
    observations = [_observation_section(*item) for item in card["observations"].items()]
    overview = _section(card["source"], _overview(card))
    return Group(overview, *observations, _action_section(card["action"]))


def _section(title: str, table: Table) -> Group:
    """A table below a title, which may be wider than the table."""
    return Group(Text(printable(title), style="bold"), table, "")


def _overview(card: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 3))
    table.add_row(
        "  episodes",
        f"{card['episodes']:,} ({card['terminals']:,} terminal, {card['timeouts']:,} truncated)",
    )
    if unlogged := card.get("unlogged_finals"):
        table.add_row("  without the final observation", f"{unlogged:,}")
    table.add_row("  transitions", f"{card['transitions']:,}")
    table.add_row("  length", _length_words(**card["lengths"]))
    for window in card["windows"]:
        table.add_row(f"  windows of {window['length']:,} steps", _window_words(window))
    table.add_row("  return", _extent(card["returns"]))
    table.add_row("  reward", _extent(card["rewards"]))
    return table


def _length_words(min: int, median: float, max: int) -> str:
    if min == max:
        return f"{max:,} transitions in every episode"
    return f"{min:,} to {max:,} transitions, median {median:,g}"


def _window_words(window: dict[str, Any]) -> str:
    if not window["count"]:
        return "none, all episodes are shorter"
    if window["episode_fraction"] == 1:
        return f"{window['count']:,}, in all episodes"
    episodes, steps = _percent(window["episode_fraction"]), _percent(window["step_fraction"])
    return f"{window['count']:,}, in {episodes} of the episodes, {steps} of the steps"


def _observation_section(key: str, observation: dict[str, Any]) -> Group:
    table = _table(*STATISTICS)
    if len(observation["shape"]) == 1:
        _add_columns(table, observation)
    else:
        table.add_row("all pixels", *(_number(observation[name]) for name in STATISTICS))
    name = "observation" if key == "observation" else f"observation {key}"
    shape = " x ".join(map(str, observation["shape"]))
    return _section(f"{name}: {observation['dtype']} ({shape})", table)


def _action_section(action: dict[str, Any]) -> Group:
    if action["kind"] == "discrete":
        title, table = f"action: one of {action['size']} classes", _class_table(action["counts"])
        return _section(title, table)
    table = _table(*STATISTICS, "low", "high", "at a bound")
    low, high, at_bounds = action["low"], action["high"], action["at_bounds"]
    if action["size"] > MAX_COLUMNS:
        more = [(_number(min(low)), _number(max(high)), _percents(at_bounds))]
    else:
        each = zip(low, high, at_bounds, strict=True)
        more = [(_number(a), _number(b), _percent(share)) for a, b, share in each]
    _add_columns(table, action, more)
    return _section(f"action: continuous ({action['size']})", table)


def _class_table(counts: list[int]) -> Table:
    table, total = _table("count", "share", first="class"), sum(counts)
    if len(counts) > MAX_COLUMNS:
        shares = [count / total for count in counts]
        table.add_row("each", _to(counts, "{:,}".format), _percents(shares))
        return table
    for label, count in enumerate(counts):
        table.add_row(str(label), f"{count:,}", _percent(count / total))
    return table


STATISTICS = ("min", "mean", "max", "std")


def _table(*numbers: str, first: str = "column") -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _add_columns(
    table: Table, entry: dict[str, Any], more: Sequence[Sequence[str]] | None = None
) -> None:
    """Adds a row per column, with its statistics and `more` cells; many columns share one row."""
    size = len(entry["mean"])
    if size > MAX_COLUMNS:
        low, high = _number(min(entry["min"])), _number(max(entry["max"]))
        mean, std = (_to(entry[name], "{:.2g}".format) for name in ("mean", "std"))
        table.add_row(f"all {size:,}", low, mean, high, std, *(more or [()])[0])
        return
    for i, name in enumerate(entry.get("columns", range(size))):
        numbers = (_number(entry[statistic][i]) for statistic in STATISTICS)
        table.add_row(Text(printable(name)), *numbers, *(more[i] if more else ()))


def _extent(statistics: dict[str, float] | None) -> str:
    if statistics is None:
        return "not logged"
    low, mean, high = (_number(statistics[name]) for name in ("min", "mean", "max"))
    return f"always {low}" if low == high else f"{low} to {high}, mean {mean}"


def _to(values: Sequence[Any], words: Callable[[Any], str]) -> str:
    return f"{words(min(values))} to {words(max(values))}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _percent(share: float) -> str:
    """Never rounds to 0 % or 100 % what is between them."""
    if 0 < share < 5e-4:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 < share < 1 else f"{100 * share:.3g} %"


def _percents(shares: Sequence[float]) -> str:
    return f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %"
