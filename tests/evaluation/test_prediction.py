"""Open-loop errors are what a plain loop finds, for models whose error is known."""

import jax
import numpy as np
import pytest

from worldmodel.config import EvaluationOptions
from worldmodel.errors import DataError
from worldmodel.evaluation.prediction import open_loop, start_errors
from worldmodel.evaluation.starts import choose_starts

OPTIONS = EvaluationOptions(horizons=[1, 3, 8], context=4, starts=5, samples=3, resamples=100)
KEY = jax.random.key(0)


def judged(model, logs, options=OPTIONS):
    return open_loop(model, logs.spec(), logs, options, KEY)


def test_model_that_repeats_has_skill_exactly_0(worlds):
    found = judged(worlds.Repeat(), worlds.linear_logs([30, 25, 40])).keys["position"]
    for numbers in found.horizons.values():
        assert numbers.skill.value == numbers.skill.low == numbers.skill.high == 0
        assert numbers.error.value == numbers.persistence.value > 0


def test_model_that_knows_the_world_has_no_error(worlds):
    found = judged(worlds.Linear(), worlds.linear_logs([30, 25, 40])).keys["position"]
    for numbers in found.horizons.values():
        assert numbers.error.value < 1e-6
        assert numbers.skill.low > 0.999


def test_errors_are_those_of_a_plain_loop(worlds):
    logs = worlds.linear_logs([30, 6, 25, 3, 14])
    found = judged(worlds.Repeat(), logs).keys["position"]
    std = logs.observations["position"].std(0)
    episodes = np.split(logs.observations["position"], np.cumsum(logs.lengths)[:-1])
    for horizon, numbers in found.horizons.items():
        errors, climate = [], []
        for x in episodes:
            last, first = len(x) - 1, min(3, len(x) - 2)
            room = [h for h in (1, 3, 8) if first + h <= last]
            for s in {round(s) for s in np.linspace(first, last - max(room), 5)}:
                if s + horizon <= last:  # never a row of the next episode
                    errors.append(np.sqrt((((x[s] - x[s + horizon]) / std) ** 2).mean()))
                    off = (logs.observations["position"].mean(0) - x[s + horizon]) / std
                    climate.append(np.sqrt((off**2).mean()))
        assert numbers.error.n == len(errors)
        assert numbers.error.value == pytest.approx(np.median(errors), rel=1e-5)
        assert numbers.climatology.value == pytest.approx(np.median(climate), rel=1e-5)


def test_starts_stay_inside_their_episode(worlds):
    lengths = np.array([2, 3, 10, 200, 12])
    offsets = np.cumsum(lengths) - lengths
    starts = choose_starts(lengths, offsets, np.arange(5), context=4, count=5, horizons=[1, 5, 15])
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])[starts.episodes]
    last = first + lengths[starts.episodes] - 1
    assert (starts.rows - starts.seen + 1 >= first).all()
    assert (starts.rows + starts.left == last).all()
    assert (starts.left >= 1).all() and (starts.seen >= 1).all() and (starts.seen <= 4).all()
    assert (starts.left[starts.episodes == 3] >= 15).all()
    assert set(starts.episodes) == {0, 1, 2, 3, 4}


def test_a_horizon_uses_the_starts_for_which_it_exists(worlds):
    found = judged(worlds.Repeat(), worlds.linear_logs([30, 7, 7])).keys["position"]
    assert [numbers.episodes for numbers in found.horizons.values()] == [3, 3, 1]
    assert found.curve.starts[0] > found.curve.starts[-1] == 5


def test_models_are_compared_on_the_starts_that_their_numbers_come_from(worlds):
    logs = worlds.linear_logs([30, 7, 25])
    starts, errors = start_errors(worlds.Linear(0.3), logs.spec(), logs, OPTIONS, KEY)
    others, repeated = start_errors(worlds.Repeat(), logs.spec(), logs, OPTIONS, KEY)
    np.testing.assert_array_equal(starts.rows, others.rows)
    np.testing.assert_array_equal(errors["position"][1:], repeated["position"][1:])
    for horizon, numbers in judged(worlds.Linear(0.3), logs).keys["position"].horizons.items():
        at = errors["position"][:, starts.left >= horizon, horizon - 1]
        expected = [numbers.error, numbers.persistence, numbers.climatology]
        assert [n.value for n in expected] == pytest.approx(np.median(at, 1))


def test_horizons_that_no_episode_has_room_for_are_left_out_with_a_note(worlds):
    found = judged(worlds.Repeat(), worlds.linear_logs([8, 9, 7]))
    assert list(found.keys["position"].horizons) == [1, 3]
    assert "8" in found.notes[0]


def test_no_horizon_at_all_is_an_error_that_says_what_fits(worlds):
    options = EvaluationOptions(horizons=[50], context=4)
    with pytest.raises(DataError, match="leaves 5 steps"):
        judged(worlds.Repeat(), worlds.linear_logs([9, 9]), options)


def test_pieces_do_not_change_the_errors(worlds, monkeypatch):
    logs = worlds.linear_logs([30, 25, 40])
    whole = judged(worlds.Linear(), logs).keys["position"]
    monkeypatch.setattr("worldmodel.evaluation.futures.MOST_STARTS_AT_ONCE", 4)
    pieces = judged(worlds.Linear(), logs).keys["position"]
    np.testing.assert_allclose(whole.curve.model, pieces.curve.model, atol=1e-6)
    np.testing.assert_array_equal(whole.curve.persistence, pieces.curve.persistence)


def test_the_mean_of_more_futures_is_nearer_to_the_truth(worlds):
    logs = worlds.linear_logs([40] * 6)
    few, many = (
        judged(worlds.Linear(0.3), logs, EvaluationOptions([8], 4, 5, samples)).keys["position"]
        for samples in (1, 16)
    )
    assert many.horizons[8].error.value < 0.6 * few.horizons[8].error.value


def test_examples_hold_the_context_and_every_sampled_future(worlds):
    logs = worlds.linear_logs([30, 25, 40])
    for example in judged(worlds.Linear(), logs).keys["position"].examples:
        assert example.real.shape == (4 + 8, 2) and example.imagined.shape == (3, 8, 2)
        np.testing.assert_allclose(example.imagined[0], example.real[4:], atol=1e-5)
