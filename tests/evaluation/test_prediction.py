"""Open-loop errors are what a plain loop finds, for models whose error is known."""

import dataclasses
from dataclasses import replace

import jax
import numpy as np
import pytest
from contexts import context_of

from worldmodel.config import EvaluationOptions
from worldmodel.errors import DataError
from worldmodel.evaluation.sampled_rollouts import open_loop_errors
from worldmodel.evaluation.sections.prediction import Prediction
from worldmodel.evaluation.sections.rewards_and_termination import RewardsAndTermination
from worldmodel.evaluation.starts import choose_starts

OPTIONS = EvaluationOptions(
    horizons=[1, 3, 8], context=4, starts_per_episode=5, num_samples=3, resamples=100
)
KEY = jax.random.key(OPTIONS.seed)


def evaluated(model, dataset, options=OPTIONS):
    return Prediction.run(context_of(model, dataset, options))


def test_model_that_repeats_has_skill_exactly_0(worlds):
    found = evaluated(worlds.Repeat(), worlds.linear_dataset([30, 25, 40])).observations["position"]
    for numbers in found.horizons.values():
        assert numbers.skill.value == numbers.skill.low == numbers.skill.high == 0
        assert numbers.error.value == numbers.persistence.value > 0


def test_the_true_dynamics_have_no_error(worlds):
    found = evaluated(worlds.Linear(), worlds.linear_dataset([30, 25, 40])).observations["position"]
    for numbers in found.horizons.values():
        assert numbers.error.value < 1e-6
        assert numbers.skill.low > 0.999


def test_errors_are_those_of_a_plain_loop(worlds):
    dataset = worlds.linear_dataset([30, 6, 25, 3, 14])
    found = evaluated(worlds.Repeat(), dataset).observations["position"]
    std = dataset.observations["position"].std(0)
    episodes = np.split(dataset.observations["position"], np.cumsum(dataset.lengths)[:-1])
    for horizon, numbers in found.horizons.items():
        errors, climate = [], []
        for x in episodes:
            last, first = len(x) - 1, min(3, len(x) - 2)
            room = [h for h in (1, 3, 8) if first + h <= last]
            for s in {round(s) for s in np.linspace(first, last - max(room), 5)}:
                if s + horizon <= last:  # never a row of the next episode
                    errors.append(np.sqrt((((x[s] - x[s + horizon]) / std) ** 2).mean()))
                    off = (dataset.observations["position"].mean(0) - x[s + horizon]) / std
                    climate.append(np.sqrt((off**2).mean()))
        assert numbers.error.n == len(errors)
        assert numbers.error.value == pytest.approx(np.median(errors), rel=1e-5)
        assert numbers.climatology.value == pytest.approx(np.median(climate), rel=1e-5)


def test_starts_stay_inside_their_episode(worlds):
    lengths = np.array([2, 3, 10, 200, 12])
    offsets = np.cumsum(lengths) - lengths
    options = EvaluationOptions(context=4, starts_per_episode=5)
    starts = choose_starts(lengths, offsets, np.arange(5), options, horizons=[1, 5, 15])
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])[starts.episodes]
    last = first + lengths[starts.episodes] - 1
    assert (starts.rows - starts.context_lengths + 1 >= first).all()
    assert (starts.rows + starts.remaining_steps == last).all()
    assert (
        (starts.remaining_steps >= 1).all()
        and (starts.context_lengths >= 1).all()
        and (starts.context_lengths <= 4).all()
    )
    assert (starts.remaining_steps[starts.episodes == 3] >= 15).all()
    assert set(starts.episodes) == {0, 1, 2, 3, 4}


def test_starts_may_be_laid_by_first_row_and_spacing():
    lengths, offsets = np.array([30, 12, 5]), np.array([0, 30, 42])
    laid = EvaluationOptions(context=4, first_start=6, start_stride=5)
    starts = choose_starts(lengths, offsets, np.arange(3), laid, horizons=[1, 8])
    assert (starts.rows - offsets[starts.episodes]).tolist() == [6, 11, 16, 21, 6]
    assert starts.episodes.tolist() == [0, 0, 0, 0, 1]  # the third has no row 7
    early = EvaluationOptions(
        context=4, first_start=1, starts_per_episode=2
    )  # the context comes first
    starts = choose_starts(lengths, offsets, np.arange(1), early, horizons=[8])
    assert starts.rows.tolist() == [3, 21]


def test_starts_that_leave_no_room_are_refused(worlds):
    late = EvaluationOptions([5], context=4, first_start=20)
    with pytest.raises(DataError, match=r"leaves 3 steps.*and evaluation.first_start=20"):
        evaluated(worlds.Repeat(), worlds.linear_dataset([24, 7]), late)


def test_a_horizon_uses_the_starts_for_which_it_exists(worlds):
    found = evaluated(worlds.Repeat(), worlds.linear_dataset([30, 7, 7])).observations["position"]
    assert [numbers.error.episodes for numbers in found.horizons.values()] == [3, 3, 1]
    assert found.curve.starts[0] > found.curve.starts[-1] == 5


def test_models_are_compared_on_the_starts_that_their_numbers_come_from(worlds):
    dataset = worlds.linear_dataset([30, 7, 25])
    starts, errors = open_loop_errors(worlds.Linear(0.3), dataset.spec(), dataset, OPTIONS, KEY)
    others, repeated = open_loop_errors(worlds.Repeat(), dataset.spec(), dataset, OPTIONS, KEY)
    np.testing.assert_array_equal(starts.rows, others.rows)
    np.testing.assert_array_equal(errors["position"][1:], repeated["position"][1:])
    for horizon, numbers in (
        evaluated(worlds.Linear(0.3), dataset).observations["position"].horizons.items()
    ):
        at = errors["position"][:, starts.remaining_steps >= horizon, horizon - 1]
        expected = [numbers.error, numbers.persistence, numbers.climatology]
        assert [n.value for n in expected] == pytest.approx(np.median(at, 1))


def test_horizons_that_no_episode_has_room_for_are_left_out_with_a_note(worlds):
    found = evaluated(worlds.Repeat(), worlds.linear_dataset([8, 9, 7]))
    assert list(found.observations["position"].horizons) == [1, 3]
    assert "8" in found.notes()[0]


def test_no_horizon_at_all_is_an_error_with_what_fits(worlds):
    options = EvaluationOptions(horizons=[50], context=4)
    with pytest.raises(DataError, match="leaves 5 steps"):
        evaluated(worlds.Repeat(), worlds.linear_dataset([9, 9]), options)


def test_pieces_do_not_change_the_errors(worlds, monkeypatch):
    dataset = worlds.linear_dataset([30, 25, 40])
    whole = evaluated(worlds.Linear(), dataset).observations["position"]
    monkeypatch.setattr("worldmodel.evaluation.sampled_rollouts.MOST_STARTS_AT_ONCE", 4)
    pieces = evaluated(worlds.Linear(), dataset).observations["position"]
    np.testing.assert_allclose(whole.curve.model, pieces.curve.model, atol=1e-6)
    np.testing.assert_array_equal(whole.curve.persistence, pieces.curve.persistence)


def test_the_mean_of_more_sampled_rollouts_is_nearer_to_the_truth(worlds):
    dataset = worlds.linear_dataset([40] * 6)
    few, many = (
        evaluated(worlds.Linear(0.3), dataset, EvaluationOptions([8], 4, 5, samples)).observations[
            "position"
        ]
        for samples in (1, 16)
    )
    assert many.horizons[8].error.value < 0.6 * few.horizons[8].error.value


def test_examples_hold_the_context_and_every_sampled_rollout(worlds):
    dataset = worlds.linear_dataset([30, 25, 40])
    for example in evaluated(worlds.Linear(), dataset).observations["position"].examples:
        assert example.real.shape == (4 + 8, 2) and example.imagined.shape == (3, 8, 2)
        np.testing.assert_allclose(example.imagined[0], example.real[4:], atol=1e-5)


def test_quartiles_and_the_skill_over_the_training_mean_are_of_the_same_starts(worlds):
    dataset = worlds.linear_dataset([30, 7, 25, 40, 33])
    model = worlds.Linear(0.3)
    starts, errors = open_loop_errors(model, dataset.spec(), dataset, OPTIONS, KEY)
    for horizon, numbers in evaluated(model, dataset).observations["position"].horizons.items():
        at = errors["position"][:, starts.remaining_steps >= horizon, horizon - 1]
        expected = np.quantile(at[0], [0.25, 0.75], method="averaged_inverted_cdf")
        quartiles = (numbers.error_lower_quartile, numbers.error_upper_quartile)
        assert [n.value for n in quartiles] == pytest.approx(expected)
        skill = 1 - np.median(at[0]) / np.median(at[2])
        assert numbers.skill_climatology.value == pytest.approx(skill)


def test_each_number_of_a_vector_has_an_error_of_its_own(worlds):
    """A model that is off by 2 in the second number, and knows the first."""

    class Off(worlds.Linear):
        def observation(self, state):
            return super().observation(state + np.array([0.0, 2.0]))

    dataset = worlds.linear_dataset([30, 25, 40])
    std = dataset.observations["position"].std(0)
    for numbers in evaluated(Off(), dataset).observations["position"].horizons.values():
        first, second = (number.value for number in numbers.dimensions)
        assert first < 1e-5 and second == pytest.approx(2 / std[1], rel=1e-3)
        assert numbers.error.value == pytest.approx(2 / std[1] / np.sqrt(2), rel=1e-3)


def test_images_have_psnr_and_ssim_beside_those_of_persistence(worlds, rng):
    """Pictures that brighten at every step, and a model that brightens half as fast."""
    step = np.tile(np.arange(20), 3)
    noise = rng.integers(0, 20, (16, 16, 1))
    pictures = (noise + 10 * step[:, None, None, None]).astype(np.uint8)
    dataset = worlds.linear_dataset([20] * 3)
    dataset = dataclasses.replace(dataset, observations={"picture": pictures})

    class Brightens(worlds.Repeat):
        def observe(self, window, key, state=None, action=None):
            return window.observation["picture"].astype(np.float32)

        def step(self, state, action, key):
            return state + 5

        def observation(self, state):
            return {"picture": super().observation(state)["position"]}

        def reward(self, state):
            return super().reward(state[..., 0, 0, :])

        def terminal(self, state):
            return super().terminal(state[..., 0, 0, :])

    found = evaluated(Brightens(), dataset).observations["picture"]
    assert found.unit == "share of the pixel range"
    for horizon, numbers in found.horizons.items():
        assert numbers.error.value == pytest.approx(5 * horizon / 255, rel=1e-4)
        assert numbers.skill.value == pytest.approx(0.5, rel=1e-4)
        expected = 20 * np.log10(255 / (5 * horizon))
        assert numbers.psnr.value == pytest.approx(expected, rel=1e-4)
        assert numbers.psnr_persistence.value == pytest.approx(expected - 6.02, abs=0.01)
        ours, last = numbers.ssim.value, numbers.ssim_persistence.value
        assert 1 > ours > last > 0
        assert numbers.climatology is None and not numbers.dimensions


def test_horizons_are_those_of_the_episodes_that_are_evaluated(worlds):
    """Of more than 400 episodes some are left out: here the only long one."""
    dataset = worlds.linear_dataset([6] * 501 + [60] + [6] * 498)
    found = evaluated(worlds.Repeat(), dataset, EvaluationOptions([1, 20], 4, 1, 2, resamples=10))
    assert list(found.observations["position"].horizons) == [1]
    assert any("no held-out episode is long enough: 20" in note for note in found.notes())


def test_terminations_before_the_first_horizon_are_ignored(worlds):
    dataset = worlds.linear_dataset([30, 25, 4])
    dataset = replace(dataset, terminated=np.array([False, False, True]))
    options = EvaluationOptions([5, 8], 2, 3, 2, resamples=10)
    found = RewardsAndTermination.run(context_of(worlds.Repeat(), dataset, options))
    assert found.terminations == {}
