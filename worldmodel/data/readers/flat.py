"""Splits rows of many episodes that lie end to end, as in D4RL, without mixing episodes.

A row is an observation, the action taken there and its reward. A format has to specify where
episodes end, and where the observation after the last action of each episode is. If that was not
logged, the last transition has no next observation and is left out, and with it a terminal state.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.data.episodes import Episode
from worldmodel.errors import DataError

logger = logging.getLogger(__name__)

Arrays = Mapping[str, Any]  # name -> (N, ...), anything that can be sliced, in memory or on disk


@dataclass(frozen=True)
class FlatDataset:
    """N rows of episodes, and what follows the last row of each.

    observations: name -> (N, ...); actions: (N, ...); rewards: (N,) or None
    last: (episodes,) last row of each episode, ascending; the final one is N - 1
    terminated: (episodes,) whether the episode is terminal
    names: (episodes,) names of the episodes in messages
    next_observations: name -> (N, ...) the observation after each row, if logged
    final_observations: name -> (episodes, ...) the observation after each last row, if logged
    last_is_observation_only: the last row of an episode is its final observation, without action
    """

    observations: Arrays
    actions: Any
    rewards: Any | None
    last: np.ndarray
    terminated: np.ndarray
    names: Sequence[str]
    next_observations: Arrays | None = None
    final_observations: Arrays | None = None
    last_is_observation_only: bool = False


def episodes(rows: FlatDataset, source: str) -> Iterator[Episode]:
    """Yields the episodes; warns at the end about what was left out."""
    begins = np.concatenate([[0], rows.last[:-1] + 1])
    lost_terminals = short = 0
    for index, (begin, last) in enumerate(zip(begins.tolist(), rows.last.tolist(), strict=True)):
        part = slice(begin, last + 1)
        final = _final(rows, index, last)
        observations = {key: np.asarray(value[part]) for key, value in rows.observations.items()}
        if final:
            observations = {k: np.concatenate([v, final[k]]) for k, v in observations.items()}
        if len(next(iter(observations.values()))) < 2:
            short += 1
            continue
        complete = bool(final) or rows.last_is_observation_only
        lost_terminals += bool(rows.terminated[index]) and not complete
        yield Episode(
            observations,
            actions=flat_classes(np.asarray(rows.actions[part])),
            rewards=None if rows.rewards is None else np.asarray(rows.rewards[part]),
            terminated=bool(rows.terminated[index]) and complete,
            name=rows.names[index],
        )
    if lost_terminals:
        logger.warning(
            "%s: %d terminal episodes lack the observation after their last action; they count as "
            "truncated, and nothing is learned from their terminal states",
            source, lost_terminals,
        )  # fmt: skip
    if short:
        logger.warning("%s: %d episodes without a complete transition left out", source, short)


def _final(rows: FlatDataset, index: int, last: int) -> dict[str, np.ndarray] | None:
    """The observation after the last row of an episode, (1, ...) each, if logged."""
    if rows.next_observations is not None:
        return {
            key: np.asarray(value[last : last + 1]) for key, value in rows.next_observations.items()
        }
    if rows.final_observations is not None:
        return {
            key: np.asarray(value[index : index + 1])
            for key, value in rows.final_observations.items()
        }
    return None


def flat_classes(actions: np.ndarray) -> np.ndarray:
    """Turns (T, 1) integers into classes (T,); leaves everything else unchanged."""
    single = actions.dtype.kind in "iu" and actions.shape[1:] == (1,)
    return actions[:, 0] if single else actions


def episode_ends(count: int, *marks: Any) -> np.ndarray:
    """(episodes,) the rows where any of `marks` (N,) is set, and the last row, ascending."""
    ends = np.zeros(count, bool)
    for mark in marks:
        ends |= np.asarray(mark).reshape(-1).astype(bool)
    ends[-1:] = True
    return np.flatnonzero(ends)


def find_discontinuities(
    observations: Arrays, next_observations: Arrays, rows_at_once: int = 65_536
) -> np.ndarray:
    """(N,) bool: rows whose logged next observation is not that of the next row, so an episode ends
    there.
    """
    count = len(next(iter(observations.values())))
    ends = np.zeros(count, bool)
    for key, value in observations.items():
        for begin in range(0, count - 1, rows_at_once):
            end = min(begin + rows_at_once, count - 1)
            after = np.asarray(next_observations[key][begin:end]).reshape(end - begin, -1)
            next_row = np.asarray(value[begin + 1 : end + 1]).reshape(end - begin, -1)
            both_nan = (after != after) & (next_row != next_row)
            ends[begin:end] |= ~((after == next_row) | both_nan).all(1)
    return ends


def check_lengths(expected: int, of: str, **fields: Any) -> None:
    """Raises DataError for fields that have another number of rows; None is an absent field."""
    for name, value in fields.items():
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, part in parts:
            if part is not None and (part.ndim == 0 or len(part) != expected):
                rows = "no" if part.ndim == 0 else len(part)
                label = f"{name}/{key}" if key and len(parts) > 1 else name
                raise DataError(f"{label} has {rows} rows; accepted: {expected}, as {of} has")
