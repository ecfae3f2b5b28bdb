"""Normalized scores name their reference, and contested references are refused."""

import pytest

from worldmodel.config import EvaluationOptions
from worldmodel.config.references import REFERENCES, resolve_reference
from worldmodel.errors import ConfigError


def resolve(name=None, own=None):
    return resolve_reference(EvaluationOptions(reference=name, reference_range=own))


def test_published_returns_have_their_published_scores():
    # D4RL's README: the random and expert policies score 0 and 100.
    hopper = resolve("d4rl/hopper")
    assert hopper.score(-20.272305) == 0 and hopper.score(3234.3) == 100
    assert resolve("d4rl/kitchen").score(2) == 50
    assert resolve("minari/pointmaze-umaze").score(218.70) == pytest.approx(100)
    assert resolve(None) is None


def test_every_pair_has_a_range_a_source_and_a_limit():
    for reference in REFERENCES.values():
        assert reference.min < reference.max and reference.source and reference.episode_limit > 0


def test_another_episode_limit_is_reported():
    pen = resolve("d4rl/pen")
    assert "not comparable" in pen.note(200) and "100 steps" in pen.note(200)
    assert "not comparable" in pen.note(None)
    assert "not comparable" not in pen.note(100)


def test_a_range_of_ones_own():
    own = resolve(own=[-1500.0, 0.0])
    assert own.score(-750) == 50 and "not comparable" not in own.note(200)
    for wrong in ([1.0], [3.0, 1.0], [0.0, 1.0, 2.0]):
        with pytest.raises(ConfigError, match=r"accepts \[MIN,MAX\]"):
            resolve(own=wrong)
    with pytest.raises(ConfigError, match="set only one of them"):
        resolve("d4rl/hopper", [0.0, 1.0])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("minari/pen", "doubled the episodes"),
        ("minari/mujoco/hopper", "has none"),
        ("d4rl/maze2d-umaze", "often fails"),
        ("d4rl/hoper", "did you mean 'd4rl/hopper'"),
    ],
)
def test_contested_and_unknown_references_are_refused_with_advice(name, why):
    with pytest.raises(ConfigError, match=why) as error:
        resolve(name)
    assert "reference_range=[MIN,MAX]" in str(error.value)
