"""Warnings about valid datasets: each mistake is detected, and a good dataset has none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from worldmodel.data import ActionSpec, Episode, Trajectories, build_card, stack_episodes
from worldmodel.data.quality import quality_warnings

BOUNDS = ActionSpec(False, 1, (-1.0,), (1.0,))
Change = Callable[[int, Episode], Episode]


def logs(change: Change = lambda e, episode: episode, count: int = 10) -> Trajectories:
    """Ten good episodes of 80 transitions, each changed by `change`."""
    rng = np.random.default_rng(0)

    def good(e: int) -> Episode:
        x, u = rng.normal(size=(81, 2)), rng.uniform(-1, 1, (80, 1))
        return change(e, Episode({"x": x}, u, rng.normal(size=80), terminated=False))

    return stack_episodes(map(good, range(count)), "logs", BOUNDS)


def put(**fields: Callable[[int, Episode], object]) -> Change:
    return lambda e, episode: dataclasses.replace(
        episode, **{name: make(e, episode) for name, make in fields.items()}
    )


def column(values: Callable[[int], np.ndarray]) -> Change:
    """A third column of observations."""
    return put(
        observations=lambda e, episode: {
            "x": np.column_stack([episode.observations["x"], values(e)])
        }
    )


def first(steps: int) -> Change:
    return put(
        observations=lambda e, episode: {"x": episode.observations["x"][: steps + 1]},
        actions=lambda e, episode: episode.actions[:steps],
        rewards=lambda e, episode: episode.rewards[:steps],
    )


def warnings(trajectories: Trajectories, scaling: str = "standardize") -> str:
    return "\n".join(quality_warnings(build_card(trajectories), {"x": scaling}))


def test_a_good_dataset_has_no_warnings() -> None:
    assert warnings(logs()) == "" == warnings(logs(), "none")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (column(lambda e: np.full(81, 7.0)), "x, column 2: constant"),
        (column(lambda e: np.arange(81.0)), "x, column 2: never decreasing within an episode"),
        (first(20), "no episode has 32 steps"),
        (put(terminated=lambda e, episode: True), "are terminal. If that length is a time limit"),
        (lambda e, episode: first(40 + 4 * e)(e, episode), "differ in length and none is terminal"),
        (put(observations=lambda e, p: {"x": np.ones((81, 2)) * e}), "equal the previous one"),
        (
            put(observations=lambda e, p: p.observations | {"y": np.ones((81, 2))}),
            "y: constant. data.observations=[x] leaves it out",
        ),
        (put(actions=lambda e, p: np.full((80, 1), 0.5)), "action: constant"),
        (put(actions=lambda e, p: np.sign(p.actions)), "at a bound in 100% of the steps"),
        (put(actions=lambda e, p: p.actions / 1000), "standard deviation below 1% of the width"),
        (put(rewards=lambda e, p: np.zeros(80)), "reward: always 0"),
    ],
)
def test_each_mistake_has_a_warning(change: Change, expected: str) -> None:
    assert expected in warnings(logs(change))


def test_few_and_repeated_episodes_have_warnings() -> None:
    assert "data.max_episode_steps=4" in warnings(logs(count=1))
    whole = logs()
    twice = whole.select(np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]))
    assert "1 of 11 episodes are copies of another one" in warnings(twice)


def test_different_scales_have_a_warning_unless_they_are_normalized() -> None:
    wide = logs(column(lambda e: np.random.default_rng(e).normal(size=81) * 1e5))
    assert "data.normalize=[x:standardize]" in warnings(wide, "none")
    assert warnings(wide) == ""
