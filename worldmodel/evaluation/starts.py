"""The starts of predictions: places in held-out episodes, with the steps before and after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from worldmodel.config import EvaluationOptions
from worldmodel.data.horizons import earliest, evaluated_episodes, reachable_horizons
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import StepArrays, Window, gather_windows

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
    episodes, notes = evaluated_episodes(held_out), []
    if len(episodes) < held_out.num_episodes:
        notes.append(
            f"Prediction is evaluated on {len(episodes)} of {held_out.num_episodes} held-out "
            "episodes."
        )
    lengths = held_out.observed_lengths
    horizons, left_out = reachable_horizons(lengths[episodes], options)
    starts = choose_starts(lengths, held_out.offsets, episodes, options, horizons)
    return horizons, starts, left_out + notes


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

    Few evenly spaced starts come before a termination; these have one within every horizon. Their
    remaining steps include one whose observation was not logged.
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
