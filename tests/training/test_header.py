"""What training prints before its first stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldmodel.data.episodes import Episode, stack_episodes
from worldmodel.training.run import Dataset, _print_header


@pytest.mark.parametrize("largest, warned", [(4.8e8, False), (-1e12, True)])
def test_rewards_that_heads_cannot_tell_apart_are_named(
    largest: float, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rewards = np.array([0.0, largest, 1.0], np.float32)
    episode = Episode({"x": np.zeros((4, 1))}, np.ones((3, 1)), rewards, False)
    trajectories = stack_episodes([episode, episode], "two flights")
    dataset = Dataset(
        training=trajectories.select(np.array([0])), held_out=trajectories.select(np.array([1])),
        spec=trajectories.spec(), fingerprint="", held_out_episodes=[1],
    )  # fmt: skip
    _print_header(dataset, Path("runs/x"), holdout=0.5)
    printed = capsys.readouterr().out
    assert ("warning: rewards of up to 1e+12" in printed and "4.85e+08" in printed) == warned
    assert "two flights: 1 episodes, 3 transitions; 1 episodes held out" in printed
