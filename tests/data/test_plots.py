"""Plots show the right episodes, for all kinds of datasets and for selections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from worldmodel.data import ActionSpec, Episode, Trajectories, stack_episodes
from worldmodel.data.plots import draw, over_time, representative_episodes

LENGTHS = (30, 12, 50, 20)  # transitions


def logs(
    channels: int = 3, discrete: bool = False, rewards: bool = True, size: int = 2
) -> Trajectories:
    """Four episodes with a camera and `size` numbers; the reward of episode e is always e."""
    rng = np.random.default_rng(0)

    def episode(e: int, steps: int) -> Episode:
        actions = rng.integers(0, 3, steps) if discrete else rng.uniform(-1, 1, (steps, 2))
        observations = {
            "state": rng.normal(size=(steps + 1, size)),
            "front/camera": rng.integers(0, 256, (steps + 1, 8, 12, channels), np.uint8),
        }
        return Episode(observations, actions, np.full(steps, e) if rewards else None, e == 1)

    spec = ActionSpec(True, 3) if discrete else ActionSpec(False, 2, (-1.0,) * 2, (1.0,) * 2)
    return stack_episodes((episode(e, n) for e, n in enumerate(LENGTHS)), "logs", spec)


def test_the_worst_the_median_and_the_best_episode_are_drawn() -> None:
    # Returns are 0, 12, 100 and 60.
    assert [episode for episode, _ in representative_episodes(logs())] == [0, 1, 2]
    assert [title.split("\n")[1] for _, title in representative_episodes(logs())] == [
        "worst, return 0", "median, return 12", "best, return 100",
    ]  # fmt: skip
    by_length = representative_episodes(logs(rewards=False))
    assert [episode for episode, _ in by_length] == [1, 3, 2]
    assert len(representative_episodes(logs().select(np.array([2])))) == 1


@pytest.mark.parametrize("channels", [1, 4])
def test_every_kind_of_dataset_can_be_drawn(tmp_path: Path, channels: int) -> None:
    made = logs(channels, discrete=channels == 1, rewards=channels == 1)
    made = made.select(np.array([3, 1])) if channels == 4 else made
    drawn = draw(made, tmp_path, "logs")
    assert [path.name for path in drawn] == [
        "episodes.png", "over-time.png", "frames-front-camera.png",
    ]  # fmt: skip
    for path in drawn:
        image = imread(path)
        assert image.std() > 0.02  # not empty


def test_lines_show_their_own_episode_without_padding() -> None:
    made = logs(size=20)
    figure = over_time(made, representative_episodes(made), "logs", {"action": ["left", "right"]})
    labels = [axes.get_ylabel() for axes in figure.axes[:: len(representative_episodes(made))]]
    assert labels[0] == "state [0]" and labels[-3:] == ["action\nleft", "action\nright", "reward"]
    assert "8 of 20 columns of state" in figure.get_suptitle()
    best = figure.axes[-1].lines[0].get_ydata()
    np.testing.assert_array_equal(best, np.full(50, 2))
    first, last = made.offsets[2], made.last_steps[2]
    np.testing.assert_array_equal(
        figure.axes[2].lines[0].get_ydata(), made.observations["state"][first : last + 1, 0]
    )


def test_names_are_text_and_never_paths(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    odd = ["$a_b_c$", "\x1b[31mred\x07", "[bold]x", "y" * 5000, "\u6f22\udc80", ""]
    observations = {"../../x": np.zeros((9, 4, 4, 1), np.uint8), "state": np.zeros((9, len(odd)))}
    observations["../..?x"] = observations["../../x"]
    made = stack_episodes([Episode(observations, np.ones((8, 1)), None, False, odd[0])], "logs")
    drawn = draw(made, tmp_path / "plots", odd[0], {"state": odd, "action": odd[:1]})
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "episodes.png", "frames-..-..-x-2.png", "frames-..-..-x.png", "over-time.png", "plots",
    ]  # fmt: skip
    assert len(drawn) == 4 and not recwarn.list


def test_many_series_are_drawn_in_part() -> None:
    rows = {f"key {i}": np.zeros((9, 1)) for i in range(300)}
    made = stack_episodes([Episode(rows, np.ones((8, 1)), np.zeros(8), False)], "logs")
    figure = over_time(made, representative_episodes(made), "logs", {})
    assert len(figure.axes) == 48 and "48 of 302 series" in figure.get_suptitle()
    assert figure.axes[-1].get_ylabel() == "reward"
