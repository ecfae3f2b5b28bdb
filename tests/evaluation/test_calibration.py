"""Calibration in worlds whose best forecast is known in closed form.

The linear world with normal noise in every step and in what is seen: the Kalman filter gives the
distribution of every observation to come.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import context_of

from worldmodel.config import Config, EvaluationOptions, NoPolicy, StageOptions, TrainingOptions
from worldmodel.data.loader import DeviceLoader
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.evaluation.scores import scores_of
from worldmodel.evaluation.sections.calibration import Calibration
from worldmodel.evaluation.sections.prediction import Prediction
from worldmodel.evaluation.starts import prediction_starts
from worldmodel.models.ensemble import EnsembleOptions
from worldmodel.nn.distributions import Normal
from worldmodel.training import mesh as meshes
from worldmodel.training.dispatch import make_dispatch, stage_keys
from worldmodel.training.learners import trained_modules
from worldmodel.training.plan import plan_stages

DECAY, PUSH = 0.9, 0.3  # of the world
NOISE, SEEN_NOISE = 0.2, 0.3  # in every step, and in what is seen
CONTEXT = 6
OPTIONS = EvaluationOptions([1, 3, 8], CONTEXT, 10, 39, resamples=200)
KEY = jax.random.key(0)


def filtered(seen, pushes):
    """Mean (..., D) and variance of x after `seen` (..., T, D) and `pushes` (..., T - 1, D), which
    is the same for all numbers. Before the first row x is spread as in the long run.
    """
    mean, variance = 0.0, (NOISE**2 + PUSH**2 * 4 / 3) / (1 - DECAY**2)
    for t in range(seen.shape[-2]):
        if t:
            mean = DECAY * mean + pushes[..., t - 1, :]
            variance = DECAY**2 * variance + NOISE**2
        gain = variance / (variance + SEEN_NOISE**2)
        mean, variance = mean + gain * (seen[..., t, :] - mean), (1 - gain) * variance
    return mean, variance


@pytest.fixture(scope="module")
def dataset(worlds):
    return worlds.linear_dataset([40] * 200, seed=3, noise=NOISE, seen_noise=SEEN_NOISE)


@pytest.fixture(scope="module")
def few_episodes(dataset):
    return dataset.select(np.arange(20))


@pytest.fixture(scope="module")
def kalman(worlds):
    class Kalman(worlds.Linear):
        """Draws x from what the filter knows of it; `noise_scale`: the noise of the observation
        that it assumes, as a share of the true one.
        """

        def __init__(self, noise_scale=1.0):
            super().__init__(NOISE)
            self.noise_scale = noise_scale

        def observe(self, window, key, state=None, action=None):
            pushes = PUSH * 2 * window.action[:, : CONTEXT - 1]
            mean, variance = filtered(window.observation["position"], pushes)
            drawn = mean + math.sqrt(variance) * jax.random.normal(key, mean.shape)
            return jnp.broadcast_to(drawn[:, None], window.observation["position"].shape)

        def observation(self, state):
            return {"position": Normal(state, jnp.full(state.shape, self.noise_scale * SEEN_NOISE))}

    return Kalman


def evaluated(model, dataset, options=OPTIONS):
    return Calibration.run(context_of(model, dataset, options)).observations["position"]


@pytest.fixture(scope="module")
def calibration_of(kalman, dataset):
    """By horizon, of the filter that assumes so much noise."""
    return functools.cache(lambda noise_scale: evaluated(kalman(noise_scale), dataset))


def surprise_of_the_filter(dataset, horizon):
    """Mean over starts and numbers of the negative log-likelihood, x in standard deviations."""
    _, starts, _ = prediction_starts(dataset, OPTIONS)
    std, found = dataset.observations["position"].std(0), []
    for row in starts.rows[starts.remaining_steps >= horizon]:
        seen = dataset.observations["position"][row - CONTEXT + 1 : row + 1].astype(float)
        pushes = PUSH * dataset.actions[row - CONTEXT + 1 : row + horizon]
        mean, variance = filtered(seen, pushes)
        for t in range(horizon):
            mean = DECAY * mean + pushes[CONTEXT - 1 + t]
            variance = DECAY**2 * variance + NOISE**2
        variance += SEEN_NOISE**2
        off = dataset.observations["position"][row + horizon] - mean
        found.append((np.log(2 * np.pi * variance / std**2) + off**2 / variance) / 2)
    return np.mean(found)


def test_the_likelihood_is_that_of_the_kalman_filter(calibration_of, dataset):
    """Within 2 %: so is then its logarithm, to 0.02."""
    for horizon, numbers in calibration_of(1.0).items():
        expected = surprise_of_the_filter(dataset, horizon)
        assert math.exp(expected - numbers.log_score.value) == pytest.approx(1, abs=0.02)


def test_the_kalman_filter_is_calibrated_at_every_horizon(calibration_of):
    for numbers in calibration_of(1.0).values():
        assert numbers.spread_skill_ratio.value == pytest.approx(1, abs=0.05)
        assert numbers.spread_skill_ratio.low < 1 < numbers.spread_skill_ratio.high
        for level, nominal in ((50, 0.5), (80, 0.8), (90, 0.9), (95, 0.95)):
            assert numbers.nominal[level] == pytest.approx(nominal)
        assert numbers.coverage[90].value == pytest.approx(0.9, abs=0.02)
        shares = [rank.value for rank in numbers.rank_histogram]
        assert len(shares) == 40 and sum(shares) == pytest.approx(1)
        assert max(shares) < 3 / 40


def test_each_dimension_of_a_vector_has_its_own_and_they_agree_with_the_whole(calibration_of):
    numbers = calibration_of(1.0)[3]
    for name in ("crps", "log_score"):
        whole, each = getattr(numbers, name), numbers.dimensions[name]
        assert len(each) == 2
        assert np.mean([n.value for n in each]) == pytest.approx(whole.value)
    inside = [n.value for n in numbers.dimensions["coverage_90"]]
    assert np.mean(inside) == pytest.approx(numbers.coverage[90].value)
    assert all(n.low < n.value < n.high for n in numbers.dimensions["spread_skill_ratio"])


@pytest.mark.parametrize(("noise_scale", "sure"), [(0.0, True), (2.0, False)])
def test_a_wrong_noise_is_overconfident_or_too_wide(calibration_of, noise_scale, sure):
    right, wrong = (calibration_of(x)[1] for x in (1.0, noise_scale))
    assert (
        wrong.crps.value > right.crps.value and wrong.energy_score.value > right.energy_score.value
    )
    assert wrong.log_score.value > right.log_score.value
    assert wrong.spread_skill_ratio.high < 0.95 if sure else wrong.spread_skill_ratio.low > 1.05
    assert (wrong.coverage[90].value < 0.88) == sure
    ends = wrong.rank_histogram[0].value + wrong.rank_histogram[-1].value
    assert ends > 3 / 40 if sure else ends < 1 / 40


def test_noise_of_the_observation_does_not_change_the_prediction(kalman, few_episodes):
    without, with_noise = (
        Prediction.run(context_of(kalman(x), few_episodes, OPTIONS)).observations["position"]
        for x in (0.0, 1.0)
    )
    assert without.horizons[1].error == with_noise.horizons[1].error


def test_sampled_rollouts_that_agree_have_no_calibration(worlds, few_episodes):
    found = Calibration.run(context_of(worlds.Linear(), few_episodes, OPTIONS))
    assert found.observations["position"] == {} and found.tables() == found.cards() == []
    assert any("All sampled rollouts of position are the same" in note for note in found.notes())


def test_few_samples_have_no_calibration(kalman, few_episodes):
    found = Calibration.run(
        context_of(kalman(), few_episodes, EvaluationOptions([1], CONTEXT, 2, 3))
    )
    assert found.observations["position"] == {}
    assert any("evaluation.num_samples of 4 or more" in note for note in found.notes())


def test_intervals_that_few_samples_cannot_have_are_left_out(kalman, few_episodes):
    options = EvaluationOptions([1], CONTEXT, 5, 8, resamples=100)
    numbers = evaluated(kalman(), few_episodes, options)[1]
    assert set(numbers.coverage) == {50, 80} and numbers.nominal[80] == pytest.approx(7 / 9)


def test_what_diverged_is_infinitely_wrong_and_not_missing(rng):
    samples, truth = rng.normal(size=(8, 6, 1, 2)), rng.normal(size=(6, 1, 2))
    samples[3, 2, 0, 1] = np.nan
    found = scores_of(samples, truth, each=True)
    for values in (found.crps, found.log_score, found.spread, found.squared_error):
        assert np.isposinf(values[2, 0, 1]) and np.isfinite(np.delete(values, 2, 0)).all()
    assert np.isposinf(found.energy_score[2, 0])


def test_an_image_is_evaluated_by_the_mean_of_its_pixels(rng):
    samples, truth = rng.normal(size=(8, 6, 2, 50)), rng.normal(size=(6, 2, 50))
    whole, each = (scores_of(samples, truth, each) for each in (False, True))
    assert whole.crps.shape == (6, 2, 1) and each.crps.shape == (6, 2, 50)
    np.testing.assert_allclose(whole.crps[..., 0], each.crps.mean(-1))
    np.testing.assert_array_equal(whole.rank, each.rank)


@pytest.mark.slow
def test_an_ensemble_learns_the_likelihood_of_a_linear_system(worlds):
    """All of x is seen: after one step it is normal around the known mean, after more steps too,
    with the noise of all of them. The likelihood is within 2 % of the best there is.
    """
    training, held_out = (worlds.linear_dataset([51] * n, n, NOISE) for n in (400, 60))
    spec = training.spec({"position": "standardize"})
    options = StageOptions(
        steps=4000,
        batch_size=64,
        window=16,
        learning_rate=3e-3,
        warmup_steps=50,
        lr_decay_fraction=0.7,
    )
    config = Config(
        data=GymnasiumData(),
        # The system is linear: a small network suffices, and has less to be unsure of.
        model=EnsembleOptions(
            num_members=3, num_elites=3, units=32, layers=1, layer_norm=False, termination="never"
        ),
        policy=NoPolicy(),
        training=TrainingOptions(world_model=options),
    )
    learner = plan_stages(config, spec)["world_model"].build_learner()
    batches = DeviceLoader.build(training, options.batch_size, options.window, 0)
    keys = stage_keys(0, "world_model")
    dispatch = make_dispatch(learner, batches, meshes.all_devices(), options.steps)
    state, _ = dispatch(learner.init(keys.init), batches.arrays(), batches.feed(0, 1), keys.steps)
    model = trained_modules(learner, state)["model"]

    found = Calibration.run(context_of(model, held_out, OPTIONS, spec)).observations["position"]
    _, starts, _ = prediction_starts(held_out, OPTIONS)
    x, std = held_out.observations["position"].astype(float), spec.observations["position"].std
    for horizon in OPTIONS.horizons:
        rows = starts.rows[starts.remaining_steps >= horizon]
        mean, variance = x[rows], 0.0
        for t in range(horizon):
            mean = DECAY * mean + PUSH * held_out.actions[rows + t]
            variance = DECAY**2 * variance + NOISE**2
        off = np.square(x[rows + horizon] - mean) / variance
        best = np.mean(np.log(2 * np.pi * variance / np.square(std)) + off) / 2
        reached = found[horizon].log_score.value
        print(f"{horizon} steps: {reached:.4f} nats a number, the best {best:.4f}")
        assert math.exp(best - reached) == pytest.approx(1, abs=0.02)
        assert found[horizon].spread_skill_ratio.value == pytest.approx(1, abs=0.05)
