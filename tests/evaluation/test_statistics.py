"""Intervals mean what they say."""

import json
import math
import re

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import t as student

from worldmodel.evaluation.sections.rewards_and_termination import area_under_curve
from worldmodel.evaluation.statistics import (
    LARGE,
    Bootstrap,
    Estimate,
    Statistic,
    format_number,
    means,
    median,
    quantiles,
    quotient,
    skill,
    wilson,
)


def ratio(error: np.ndarray, reference: np.ndarray) -> Statistic:
    return quotient(median(error), median(reference))


def test_interval_of_a_mean_is_close_to_students():
    values = np.random.default_rng(0).normal(3, 2, 100)
    number = Bootstrap().mean(values)
    half = student.ppf(0.975, 99) * values.std(ddof=1) / 10
    assert number.value == pytest.approx(values.mean())
    assert (number.low, number.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.08
    )
    assert number.n == 100


def test_same_seed_same_interval():
    values = np.random.default_rng(0).normal(size=30)
    assert Bootstrap(seed=4).mean(values) == Bootstrap(seed=4).mean(values)
    assert Bootstrap(seed=4).mean(values) != Bootstrap(seed=5).mean(values)


def test_interval_covers_the_mean_at_its_confidence():
    generator = np.random.default_rng(1)
    bootstrap = Bootstrap(resamples=500)
    hits = [
        n.low <= 0 <= n.high
        for n in (bootstrap.mean(generator.normal(size=40)) for _ in range(400))
    ]
    assert 0.90 <= np.mean(hits) <= 0.98


def test_large_samples_take_the_normal_interval():
    values = np.random.default_rng(2).exponential(size=LARGE + 1)
    normal, drawn = Bootstrap().mean(values), Bootstrap().mean(values[:-1])
    assert normal.high - normal.low == pytest.approx(drawn.high - drawn.low, rel=0.1)
    assert "normal" in normal.method and "bootstrap" in drawn.method


@pytest.mark.parametrize("n", [1, 2, 7, 10])
def test_median_of_drawn_values_is_that_of_their_copies(n):
    generator = np.random.default_rng(n)
    values = generator.normal(size=n)
    counts = generator.multinomial(n, np.full(n, 1 / n), size=50)
    copies = [np.median(np.repeat(values, row)) for row in counts]
    np.testing.assert_allclose(median(values)(counts), copies)


def test_clusters_are_drawn_whole():
    # Ten copies of each of 20 values tell no more than the 20 values.
    values = np.random.default_rng(3).normal(size=20)
    copies, episodes = np.repeat(values, 10), np.repeat(np.arange(20), 10)
    once = Bootstrap().clustered(median(values), np.arange(20), "median")
    clustered = Bootstrap().clustered(median(copies), episodes, "median")
    naive = Bootstrap().clustered(median(copies), np.arange(200), "median")
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high))
    assert naive.high - naive.low < 0.6 * (clustered.high - clustered.low)


def test_skill_is_0_for_the_reference_itself_and_1_for_no_error():
    errors, counts = np.array([1.0, 2.0, 4.0]), np.array([[1, 1, 1], [3, 0, 0]])
    assert (skill(errors, errors)(counts) == 0).all()
    assert (skill(0 * errors, errors)(counts) == 1).all()
    assert (skill(0 * errors, 0 * errors)(counts) == 0).all()


def test_ratio_of_errors_is_that_of_the_drawn_starts_medians():
    generator = np.random.default_rng(5)
    error, reference = generator.exponential(size=(2, 7))
    counts = generator.multinomial(7, np.full(7, 1 / 7), size=50)
    drawn = [
        np.median(np.repeat(error, row)) / np.median(np.repeat(reference, row)) for row in counts
    ]
    np.testing.assert_allclose(ratio(error, reference)(counts), drawn)


def test_ratio_is_1_where_neither_errs_and_infinite_where_the_reference_alone_does_not():
    once = np.ones((1, 3), int)
    assert ratio(np.zeros(3), np.zeros(3))(once) == 1
    assert ratio(np.ones(3), np.zeros(3))(once) == math.inf


def test_what_makes_starts_hard_for_both_does_not_widen_their_ratio():
    # Episodes differ a hundredfold; one model errs twice as much as the other in each of them.
    error = np.repeat(np.geomspace(0.01, 1, 20), 5)
    number = Bootstrap().clustered(ratio(2 * error, error), np.repeat(np.arange(20), 5), "ratio")
    assert (number.low, number.value, number.high) == pytest.approx((2, 2, 2))


def test_one_episode_states_how_its_interval_was_computed():
    number = Bootstrap().clustered(median(np.arange(9.0)), np.zeros(9), "median")
    assert number.low < number.value < number.high
    assert "within the only one" in number.method


def test_single_value_has_no_interval_and_is_valid_json():
    number = Bootstrap().mean(np.array([2.0]))
    assert number.value == 2 and math.isnan(number.low)
    assert json.loads(json.dumps(number.to_json(), allow_nan=False))["low"] is None
    assert str(number) == "2.00, n = 1"


def test_what_diverged_is_reported_and_not_dropped():
    number = Bootstrap().clustered(median(np.array([1.0, np.inf, np.inf])), np.arange(3), "median")
    assert number.value == math.inf
    assert number.to_json()["value"] is None
    still = Bootstrap().clustered(skill(np.ones(9), np.zeros(9)), np.arange(9), "skill")
    assert still.high == -math.inf


def test_numbers_are_shown_with_three_digits():
    said = [format_number(x) for x in (0, 0.0123, 0.5, 1.234, 12.34, -1234.5, 2e-4, math.inf)]
    assert said == ["0.000", "0.012", "0.500", "1.23", "12.3", "-1,234", "2.0e-04", "inf"]
    assert str(Estimate(1, 0.5, 2, 3, "")) == "1.00 [0.500, 2.00], n = 3"


def test_a_number_holds_its_counts_of_values_and_episodes():
    episodes = np.repeat(np.arange(4), 500)
    number = Bootstrap(10).clustered(median(np.arange(2000.0)), episodes, "median")
    assert (number.n, number.sample_unit, number.episodes) == (2000, "starts", 4)
    assert number.amount == "2,000 (4)" and number.counted == "2,000 starts in 4 episodes"
    assert Estimate.from_json(json.loads(json.dumps(number.to_json()))) == number
    alone = Bootstrap(10).mean(np.ones(1), "records")
    assert alone.counted == "1 record" and alone.amount == "1"


@pytest.mark.parametrize("level", [0.05, 0.25, 0.5, 0.95])
@pytest.mark.parametrize("n", [1, 4, 9])
def test_quantiles_of_drawn_values_are_those_of_their_copies(n, level):
    generator = np.random.default_rng(n)
    values = generator.normal(size=n)
    counts = generator.multinomial(n, np.full(n, 1 / n), size=50)
    copies = [
        np.quantile(np.repeat(values, row), level, method="averaged_inverted_cdf") for row in counts
    ]
    np.testing.assert_allclose(quantiles(values, [level])(counts), copies)
    both = quantiles(values, [0.5, level])(counts)
    np.testing.assert_allclose(both, np.stack([median(values)(counts), copies], 1))


def test_several_numbers_are_those_of_each_alone():
    values, episodes = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) // 3
    together = Bootstrap().clustered_many(means(values), episodes, "mean")
    alone = [Bootstrap().clustered(means(v), episodes, "mean") for v in values.T]
    for a, b in zip(together, alone, strict=True):
        assert (a.value, a.low, a.high, a.n) == pytest.approx((b.value, b.low, b.high, b.n))


def test_draws_that_are_kept_are_those_that_are_made_anew(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    kept = Bootstrap(300).mean(values)
    monkeypatch.setattr("worldmodel.evaluation.statistics.CHUNK", 1000)
    anew = Bootstrap(300).mean(values)
    assert (kept.low, kept.high) == pytest.approx((anew.low, anew.high))


def test_an_infinite_value_counts_only_where_it_was_drawn():
    found = means(np.array([1.0, np.inf, 3.0]))(np.array([[1, 0, 1], [1, 1, 1]]))
    assert found.tolist() == [2.0, np.inf]


def test_wilsons_interval_is_scipys():
    for successes, n in ((0, 10), (39, 50), (37, 50), (50, 50)):
        expected = binomtest(successes, n).proportion_ci(method="wilson")
        number = wilson(successes, n)
        assert (number.low, number.high) == pytest.approx((expected.low, expected.high))
        assert number.value == successes / n and number.n == n
    with pytest.raises(ValueError, match="11 successes of 10"):
        wilson(11, 10)


def test_pairs_are_compared_within():
    """Episodes differ a hundred times more than the two who act in them."""
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 100, 40)
    ours, theirs = hard + generator.normal(1, 1, 40), hard + generator.normal(0, 1, 40)
    number = Bootstrap().paired(ours, theirs)
    assert 0 < number.low < number.value < number.high < 2
    assert number.value == pytest.approx((ours - theirs).mean()) and number.n == 40
    assert number.method.startswith("mean difference of pairs over 40 episodes")
    with pytest.raises(ValueError, match="40 and 39"):
        Bootstrap().paired(ours, theirs[1:])


def test_what_is_infinite_keeps_its_sign() -> None:
    for worst in (np.inf, -np.inf):
        found = Bootstrap(200).mean(np.array([worst, 1.0, 2.0, 3.0]))
        assert found.value == worst
        assert (found.high if worst > 0 else found.low) == worst
        assert np.isfinite(found.low if worst > 0 else found.high)


def test_pairs_that_are_infinite_alike_do_not_differ():
    """Both fail in the same episode: neither is ahead by that."""
    earned = np.array([-np.inf, 2.0, 3.0, 5.0])
    same = Bootstrap(100).paired(earned, earned)
    assert same.low == same.value == same.high == 0
    assert Bootstrap(100).paired(earned + 1, earned).value == 0.75


def test_draws_that_do_not_define_a_statistic_are_left_out_and_counted():
    """One episode of six holds the only end: a third of the draws are without it."""
    happened = np.zeros(60, bool)
    happened[55:] = True
    episodes = np.repeat(np.arange(6), 10)
    score = np.where(happened, 1.0, np.random.default_rng(0).uniform(0, 2, 60))
    number = Bootstrap(500).clustered(area_under_curve(score, happened), episodes, "AUC")
    assert 0 < number.low <= number.value <= number.high < 1
    missing = int(re.search(r"of which (\d+) do not define it", number.method)[1])
    assert 0.25 < missing / 500 < 0.42  # (5/6)^6 = 0.335
    drawn = Bootstrap(500).clustered(lambda counts: np.full(len(counts), np.nan), episodes, "none")
    assert math.isnan(drawn.low) and drawn.method.endswith("500 do not define it: no interval")
