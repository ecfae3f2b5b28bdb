"""Termination rules of MuJoCo environments."""

from __future__ import annotations

import numpy as np
import pytest

from worldmodel.models.termination import RULES, SIZES


def state(name: str, **numbers: float) -> np.ndarray:
    """Upright and at rest, except for the numbers given by their index: x0=1.5."""
    x = np.zeros(SIZES[name], np.float32)
    x[0] = 1.25
    for place, value in numbers.items():
        x[int(place[1:])] = value
    return x


@pytest.mark.parametrize(
    "name, numbers, ended",
    [
        ("hopper", {}, False),
        ("hopper", {"x0": 0.69}, True),
        ("hopper", {"x0": 300.0}, False),  # the height has no upper bound
        ("hopper", {"x1": 0.21}, True),
        ("hopper", {"x1": -0.21}, True),
        ("hopper", {"x1": -0.19}, False),
        ("hopper", {"x7": -101.0}, True),
        ("hopper", {"x7": np.nan}, True),
        ("hopper", {"x0": np.nan}, True),
        ("walker2d", {}, False),
        ("walker2d", {"x0": 0.79}, True),
        ("walker2d", {"x0": 2.01}, True),
        ("walker2d", {"x1": -1.01}, True),
        ("walker2d", {"x1": 0.99}, False),
        ("walker2d", {"x16": 101.0}, True),
        ("halfcheetah", {"x1": -90.0}, False),
        ("halfcheetah", {"x5": -101.0}, True),
        ("halfcheetah", {"x5": np.inf}, True),
    ],
)
def test_rules_follow_the_documented_limits(name: str, numbers: dict, ended: bool) -> None:
    assert bool(RULES[name](state(name, **numbers))) == ended


@pytest.mark.parametrize("name, identifier", [("hopper", "Hopper-v5"), ("walker2d", "Walker2d-v5")])
def test_rules_agree_with_gymnasium(name: str, identifier: str) -> None:
    """On random states near the limits of height and angle."""
    pytest.importorskip("mujoco")
    gymnasium = pytest.importorskip("gymnasium")
    environment = gymnasium.make(identifier).unwrapped
    environment.reset(seed=0)
    rng, actual = np.random.default_rng(0), []
    for _ in range(400):
        qpos, qvel = (
            rng.normal(0, 0.2, environment.model.nq),
            rng.normal(0, 5, environment.model.nv),
        )
        qpos[1] += rng.uniform(0.5, 2.2)
        qpos[2] *= 3
        environment.set_state(qpos, qvel)
        x = environment._get_obs()
        actual.append((bool(RULES[name](x)), not environment.is_healthy))
    rule, truth = np.array(actual).T
    assert 0.1 < truth.mean() < 0.9
    np.testing.assert_array_equal(rule, truth)
