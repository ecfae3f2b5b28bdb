"""Cuts long episodes into pieces, as a time limit would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from worldmodel.data.episodes import Episode, UnreadableEpisode


def split_long_episodes(
    episodes: Iterable[Episode | UnreadableEpisode], max_steps: int | None
) -> Iterator[Episode | UnreadableEpisode]:
    """Cuts episodes into pieces of at most `max_steps` transitions, as a time limit would.

    The last observation of a piece is the first of the next one.
    """
    for index, episode in enumerate(episodes):
        if isinstance(episode, UnreadableEpisode) or max_steps is None:
            yield episode
            continue
        observed = len(next(iter(episode.observations.values()), ()))
        transitions = observed - bool(episode.final_logged)
        if transitions <= max_steps:
            yield episode
            continue
        name = episode.name or f"episode {index}"
        for begin in range(0, transitions, max_steps):
            last = begin + max_steps >= transitions
            yield _piece(episode, f"{name} from step {begin}", begin, max_steps, last)


def _piece(episode: Episode, name: str, begin: int, max_steps: int, last: bool) -> Episode:
    def part(values: Any) -> Any:
        return np.asarray(values)[begin : begin + max_steps + 1]

    return Episode(
        observations={key: part(value) for key, value in episode.observations.items()},
        actions=part(episode.actions),
        rewards=None if episode.rewards is None else part(episode.rewards),
        terminated=episode.terminated and last,
        name=name,
        time=None if episode.time is None else part(episode.time),
        final_logged=bool(episode.final_logged) or not last,
    )
