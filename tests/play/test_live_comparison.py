"""A dream compared with the real environment, step by step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.environments.real import RealEnvironment
from worldmodel.errors import ConfigError
from worldmodel.loading import LoadedRun
from worldmodel.play import observation_values
from worldmodel.play.action_sources import make_action_source
from worldmodel.play.live_comparison import compare_live


@pytest.fixture
def real(smoke: LoadedRun) -> Iterator[RealEnvironment]:
    environment = RealEnvironment("Pendulum-v1", smoke.spec)
    yield environment
    environment.close()


def test_the_true_dynamics_dream_what_happens(oracle: LoadedRun, real: RealEnvironment) -> None:
    steps = list(
        compare_live(
            oracle, real, make_action_source("random", oracle), context=4, steps=50, seed=3
        )
    )
    assert [s.step for s in steps] == list(range(1, 51))
    assert [s.dreamed is None for s in steps] == [True] * 3 + [False] * 47
    for step in steps[3:]:
        (real_value,), (dreamed,) = (x.observation.values() for x in (step, step.dreamed))
        np.testing.assert_allclose(dreamed, real_value, atol=1e-4)
        assert step.dreamed.reward == pytest.approx(step.reward, abs=1e-3)
        assert step.dreamed.error < 1e-4


def test_the_real_steps_are_gymnasiums_own_episode(smoke: LoadedRun, real: RealEnvironment) -> None:
    steps = list(
        compare_live(smoke, real, make_action_source("policy", smoke), context=2, steps=5, seed=7)
    )
    real.reset(7)
    for step in steps:
        observation, reward, *_ = real.step(step.action)
        np.testing.assert_array_equal(step.observation["observation"], observation["observation"])
        assert step.reward == reward


def test_a_seed_determines_the_dream_and_other_actions_change_it(
    smoke: LoadedRun, real: RealEnvironment
) -> None:
    first, again = (
        list(
            compare_live(smoke, real, make_action_source("zero", smoke), context=3, steps=6, seed=1)
        )
        for _ in range(2)
    )
    for one, other in zip(first[2:], again[2:], strict=True):
        np.testing.assert_array_equal(
            one.dreamed.observation["observation"], other.dreamed.observation["observation"]
        )
    random = list(
        compare_live(smoke, real, make_action_source("random", smoke), context=3, steps=6, seed=1)
    )
    assert not np.allclose(
        random[-1].dreamed.observation["observation"], first[-1].dreamed.observation["observation"]
    )


def test_it_ends_with_the_real_episode(oracle: LoadedRun, real: RealEnvironment) -> None:
    steps = list(
        compare_live(
            oracle, real, make_action_source("zero", oracle), context=199, steps=300, seed=0
        )
    )
    assert len(steps) == 200 and steps[-1].ended and steps[-1].done
    assert [s.dreamed is not None for s in steps[-3:]] == [False, True, True]


def test_steps_that_leave_nothing_to_dream_are_refused(
    oracle: LoadedRun, real: RealEnvironment
) -> None:
    with pytest.raises(ConfigError, match="steps=3: the model filters context=4 steps"):
        list(
            compare_live(
                oracle, real, make_action_source("zero", oracle), context=4, steps=3, seed=0
            )
        )


def test_a_family_without_steps_is_refused_before_the_first_step(
    whole: LoadedRun, real: RealEnvironment
) -> None:
    act = make_action_source("zero", whole)
    with pytest.raises(ConfigError, match="samples whole trajectories"):
        next(compare_live(whole, real, act, context=4, steps=9, seed=0))


# ----------------------------------------------------------------------------------------- values


def test_errors_are_in_standard_deviations_and_an_image_is_one_value() -> None:
    vector = ObservationSpec((2,), "float32", std=(2.0, 0.5))
    image = ObservationSpec((4, 4, 3), "uint8")
    spec = DataSpec({"state": vector, "image": image}, ActionSpec(True, 2))
    real = {"state": np.zeros(2), "image": np.full((4, 4, 3), 10, np.uint8)}
    dreamed = {"state": np.array([2.0, -0.5]), "image": np.full((4, 4, 3), 0, np.uint8)}
    assert observation_values.normalized_rmse(dreamed, real, spec) == 1.0
    assert observation_values.value_names(spec) == ["state.0", "state.1", "image"]
    np.testing.assert_array_equal(observation_values.flatten_observation(real, spec), [0, 0, 10])
    only = DataSpec({"image": image}, ActionSpec(True, 2))
    assert observation_values.normalized_rmse(dreamed, real, only) == pytest.approx(10 / 255)


@pytest.mark.parametrize(
    "value", [0.0, 1.0, -1.0, 3.14159, -1e-4, 12345.6, -99999.4, 1e7, -1e-30, 999.9, float("nan")]
)
def test_numbers_fit_their_column_and_keep_their_size(value: float) -> None:
    text = observation_values.format_number(value)
    assert len(text) == observation_values.WIDTH and text.startswith(" ")
    assert float(text) == pytest.approx(value, rel=0.05, nan_ok=True)
