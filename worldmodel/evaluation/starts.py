"""The starts of predictions: places in held-out episodes, with the steps before and after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from worldmodel.config import EvaluationOptions
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import StepArrays, Window, gather_windows
from worldmodel.errors import DataError

MOST_EPISODES = 400  # evaluated; evenly spaced over the held-out ones
MOST_ENDS = 100  # terminated episodes whose termination is evaluated


@dataclass(frozen=True)
class PredictionStarts:
    """N places to predict from.

    rows: (N,) index of the last observed step
    context_lengths: (N,) observed steps up to it
    remaining_steps: (N,) steps of the episode after it
    episodes: (N,)
    """

    rows: np.ndarray
    context_lengths: np.ndarray
    remaining_steps: np.ndarray
    episodes: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray) -> PredictionStarts:
        return PredictionStarts(
            self.rows[index],
            self.context_lengths[index],
            self.remaining_steps[index],
            self.episodes[index],
        )


def prediction_starts(
    held_out: Trajectories, options: EvaluationOptions
) -> tuple[list[int], PredictionStarts, list[str]]:
    """Returns horizons, starts, and notes on what is left out."""
    chosen, taken = np.arange(held_out.num_episodes), []
    if len(chosen) > MOST_EPISODES:
        chosen = np.linspace(0, len(chosen) - 1, MOST_EPISODES).astype(int)
        taken.append(
            f"Prediction is evaluated on {MOST_EPISODES} of {held_out.num_episodes} held-out "
            "episodes."
        )
    horizons, notes = reachable_horizons(held_out.lengths[chosen], options)
    episodes = (held_out.lengths, held_out.offsets, chosen)
    return horizons, choose_starts(*episodes, options, horizons), notes + taken


def reachable_horizons(
    lengths: np.ndarray, options: EvaluationOptions
) -> tuple[list[int], list[str]]:
    """The horizons that an episode is long enough for, and a note on the others."""
    room = int(max(np.max(lengths - 1 - earliest(lengths, options)), 0))
    asked = sorted(set(options.horizons))
    kept = [h for h in asked if h <= room]
    if not kept:
        raise DataError(
            f"evaluation.horizons={asked}: the longest held-out episode leaves {room} steps "
            f"after evaluation.context={options.context} steps{_first(options)}; accepted: a "
            "horizon up to that"
        )
    left_out = ", ".join(str(h) for h in asked if h > room)
    note = f"Horizons left out, because no held-out episode is long enough: {left_out}."
    return kept, [note] if left_out else []


def earliest(lengths: np.ndarray, options: EvaluationOptions) -> np.ndarray:
    """(episodes,) the first step a prediction starts from: after the context, if there is room for
    it, and not before `options.first_start`.
    """
    return np.maximum(np.minimum(options.context - 1, lengths - 2), options.first_start or 0)


def _first(options: EvaluationOptions) -> str:
    asked = options.first_start
    return "" if asked is None else f" and evaluation.first_start={asked}"


def choose_starts(
    lengths: np.ndarray,
    offsets: np.ndarray,
    episodes: np.ndarray,
    options: EvaluationOptions,
    horizons: Sequence[int],
) -> PredictionStarts:
    """The starts in each of `episodes`, from the earliest on: up to `options.starts_per_episode`,
    evenly spaced, or one every `options.start_stride` steps.

    They leave room for the longest horizon that fits into the episode at all. An episode no longer
    than the context has one start, before its last step.
    """
    context, found = options.context, []
    for episode, first in zip(episodes, earliest(lengths[episodes], options), strict=True):
        last = int(lengths[episode]) - 1
        longest = max((h for h in horizons if first + h <= last), default=None)
        if longest is None:
            continue
        if options.start_stride is not None:
            rows = np.arange(first, last - longest + 1, options.start_stride)
        else:
            rows = (
                np.linspace(first, last - longest, options.starts_per_episode).round().astype(int)
            )
        for row in np.unique(rows):
            found.append((offsets[episode] + row, min(context, row + 1), last - row, episode))
    return PredictionStarts(*np.array(found, np.int64).T)


def starts_before_termination(
    held_out: Trajectories, context: int, horizons: Sequence[int]
) -> PredictionStarts | None:
    """Starts `horizons` before the end of terminated episodes; None without any.

    Few evenly spaced starts come before a termination; these have one within every horizon.
    """
    episodes = np.flatnonzero(held_out.terminated)
    if len(episodes) > MOST_ENDS:
        episodes = episodes[np.linspace(0, len(episodes) - 1, MOST_ENDS).astype(int)]
    found = []
    for episode in episodes:
        last = int(held_out.lengths[episode]) - 1
        for left in (h for h in horizons if h <= last):
            row = last - left
            seen = min(context, row + 1)
            found.append((held_out.offsets[episode] + row, seen, left, episode))
    return PredictionStarts(*np.array(found, np.int64).T) if found else None


def context_of(rows: StepArrays, starts: PredictionStarts, context: int) -> Window:
    """The observed steps before each start, (B, context, ...), padded at the end."""
    return gather_windows(
        rows, starts.rows - starts.context_lengths + 1, starts.context_lengths, context
    )


def take(rows: StepArrays, index: np.ndarray) -> StepArrays:
    return jax.tree.map(lambda x: x[index], rows)
