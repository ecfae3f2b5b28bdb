"""What stacked data say about themselves that no single value shows: missed resets, actions that
belong to another step, last observations that were not logged.

Every check looks at a sample of bounded size, so that its cost does not depend on the dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from worldmodel.data.trajectories import Trajectories

MAX_STEPS = 20_000  # that are looked at, in whole stretches of episodes
MAX_COLUMNS = 64  # of all observations
MAX_EPISODES = 400
RIDGE = 1e-3  # relative to the variance of the standardized inputs
MIN_TRANSITIONS = 100  # to compare two alignments
MIN_EXPLAINED = 0.02  # share of the change that actions must explain at all
JUMP = 30.0  # times the largest step that the rest of the data makes
MIN_JUMP_STEPS = 30  # of the column, to know what is usual


def notes(trajectories: Trajectories) -> list[str]:
    """What a user should know of a valid dataset, one text each."""
    return [*unlogged_finals(trajectories), *jumps(trajectories), *alignment(trajectories)]


# ------------------------------------------------------------------------- final observations


def unlogged_finals(trajectories: Trajectories) -> Iterator[str]:
    """What is left out where the observation after the last action was not logged."""
    t = trajectories
    if t.final_logged is None:
        return
    missing = ~t.final_logged
    text = (
        f"{missing.sum():,} of {t.num_episodes:,} episodes end without the observation after their "
        "last action: the last action, its reward and the end are learned, where it led is not"
    )
    open_ended = missing & ~t.terminated
    if open_ended.any():
        text += (
            f". {open_ended.sum():,} of them are not terminal, so that value learning leaves out "
            "their last transition"
        )
        if t.rewards is not None:
            lost = t.rewards[t.last_steps[open_ended] - 1].astype(np.float64)
            text += f", {np.count_nonzero(lost):,} of which earned a reward ({lost.sum():g} in all)"
    yield text
