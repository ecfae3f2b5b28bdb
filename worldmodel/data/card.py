"""The data card: what a set of logs holds, as JSON for files and as a table for people."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table

from worldmodel.data.trajectories import Trajectories


def card(trajectories: Trajectories) -> dict[str, Any]:
    """Plain JSON. Lengths are in transitions; the statistics of actions leave padding out."""
    steps = trajectories.lengths - 1
    terminals = int(trajectories.terminated.sum())
    return {
        "source": trajectories.source,
        "episodes": trajectories.num_episodes,
        "transitions": trajectories.num_transitions,
        "lengths": {
            "min": int(steps.min()),
            "median": float(np.median(steps)),
            "max": int(steps.max()),
        },
        "terminals": terminals,
        "timeouts": trajectories.num_episodes - terminals,
        "returns": None if trajectories.rewards is None else _range(trajectories.returns()),
        "observations": {
            key: _observation(value) for key, value in trajectories.observations.items()
        },
        "action": _action(trajectories),
    }


def render(card: dict[str, Any]) -> Table:
    """A card as a table of two columns."""
    table = Table(title=card["source"], show_header=False)
    table.add_row(
        "episodes",
        f"{card['episodes']:,} ({card['terminals']:,} terminals, {card['timeouts']:,} time-outs)",
    )
    table.add_row("transitions", f"{card['transitions']:,}")
    table.add_row(
        "length", "{min:,} to {max:,} transitions, median {median:,g}".format(**card["lengths"])
    )
    returns = card["returns"]
    table.add_row(
        "return",
        "not logged"
        if returns is None
        else "{min:.1f} to {max:.1f}, mean {mean:.1f}".format(**returns),
    )
    for key, observation in card["observations"].items():
        table.add_row(
            f"observation {key}",
            f"{observation['dtype']} {_shape(observation)}, {_extent(observation)}",
        )
    action = card["action"]
    if action["kind"] == "discrete":
        counts = ", ".join(f"{count:,}" for count in action["counts"])
        table.add_row("action", f"{action['size']} classes, taken {counts} times")
    else:
        bounds = f"bounds {min(action['low']):g} to {max(action['high']):g}"
        table.add_row("action", f"continuous ({action['size']},), {bounds}, {_extent(action)}")
    return table


def _observation(value: np.ndarray) -> dict[str, Any]:
    description = {"shape": list(value.shape[1:]), "dtype": str(value.dtype)}
    return description | (_pixels(value) if value.ndim == 4 else _vectors(value))


def _vectors(value: np.ndarray) -> dict[str, list[float]]:
    """One number a dimension."""
    return {
        "min": value.min(0).tolist(),
        "max": value.max(0).tolist(),
        "mean": value.mean(0, dtype=np.float64).tolist(),
        "std": value.std(0, dtype=np.float64).tolist(),
    }


def _pixels(value: np.ndarray) -> dict[str, float]:
    """One number for all pixels, from their histogram: a float copy would take too much memory."""
    counts = sum(np.bincount(row.ravel(), minlength=256) for row in value)
    levels = np.arange(256)
    mean = np.average(levels, weights=counts)
    seen = np.flatnonzero(counts)
    return {
        "min": int(seen[0]),
        "max": int(seen[-1]),
        "mean": float(mean),
        "std": float(np.sqrt(np.average((levels - mean) ** 2, weights=counts))),
    }


def _action(trajectories: Trajectories) -> dict[str, Any]:
    spec = trajectories.action_spec
    taken = np.ones(trajectories.num_rows, bool)
    taken[np.cumsum(trajectories.lengths) - 1] = False
    actions = trajectories.actions[taken]
    if spec.discrete:
        return {
            "kind": "discrete",
            "size": spec.size,
            "counts": np.bincount(actions, minlength=spec.size).tolist(),
        }
    bounds = {"low": list(spec.low), "high": list(spec.high)}
    return {"kind": "continuous", "size": spec.size} | bounds | _vectors(actions)


def _range(values: np.ndarray) -> dict[str, float]:
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}


def _shape(observation: dict[str, Any]) -> str:
    return f"({' x '.join(map(str, observation['shape']))})"


def _extent(statistics: dict[str, Any]) -> str:
    """The smallest and the largest number of all dimensions."""
    return f"{np.min(statistics['min']):g} to {np.max(statistics['max']):g}"
