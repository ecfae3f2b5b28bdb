"""Scores of samples against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from worldmodel.evaluation.scores import (
    fair_crps,
    fair_energy,
    interval_of,
    is_inside,
    log_score,
    rank,
    spread,
)


def crps_of_normal(z: float) -> float:
    """Of N(0, 1) at z (Gneiting and Raftery, JASA 2007, eq. 21)."""
    density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    below = (1 + math.erf(z / math.sqrt(2))) / 2
    return z * (2 * below - 1) + 2 * density - 1 / math.sqrt(math.pi)


def spread_skill_ratio(samples: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square spread / root mean square error of the mean."""
    return math.sqrt(spread(samples).mean() / np.square(samples.mean(0) - truth).mean())


@pytest.mark.parametrize("count", [2, 5, 50])
def test_the_score_of_a_normal_is_found_with_any_number_of_samples(
    count: int, rng: np.random.Generator
) -> None:
    """Fair: unlike the plain estimate, with two samples as well."""
    for z in (-1.0, 0.0, 2.0):
        samples = rng.normal(size=(count, 100_000))
        found = fair_crps(samples, np.full(100_000, z)).mean()
        assert found == pytest.approx(crps_of_normal(z), abs=0.01)


def test_the_score_agrees_with_all_pairs(rng: np.random.Generator) -> None:
    samples, truth = rng.normal(size=(7, 4, 3)), rng.normal(size=(4, 3))
    pairs = np.abs(samples[:, None] - samples[None]).sum((0, 1)) / (2 * 7 * 6)
    expected = np.abs(samples - truth).mean(0) - pairs
    np.testing.assert_allclose(fair_crps(samples, truth), expected)


def test_one_sample_has_no_spread() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        fair_crps(np.zeros((1, 3)), np.zeros(3))


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_spread_over_skill_is_one_where_samples_and_truth_are_alike(
    scale: float, rng: np.random.Generator
) -> None:
    """Samples spread `scale` times as wide as what happens, around the same mean."""
    count, centre = 8, rng.normal(size=50_000)
    samples = centre + scale * rng.normal(size=(count, 50_000))
    expected = scale * math.sqrt((count + 1) / count) / math.sqrt(1 + scale**2 / count)
    found = spread_skill_ratio(samples, centre + rng.normal(size=50_000))
    assert found == pytest.approx(expected, rel=0.02)
    if scale == 1.0:
        assert found == pytest.approx(1.0, rel=0.02)


def test_the_score_of_a_perfect_forecast_is_that_of_the_closed_form(
    rng: np.random.Generator,
) -> None:
    """N(0, 1) forecasts N(0, 1): 1 / sqrt(pi), to 1e-3."""
    truth = rng.normal(size=1_000_000)
    samples = rng.normal(size=(10, 1_000_000))
    assert fair_crps(samples, truth).mean() == pytest.approx(1 / math.sqrt(math.pi), abs=1e-3)


def test_the_score_of_many_samples_is_that_of_the_closed_form_at_each_truth(
    rng: np.random.Generator,
) -> None:
    """Quantiles stand for a million samples of N(0, 1)."""
    samples = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)[:, None]
    for z in (-2.0, -0.3, 0.0, 1.0):
        assert fair_crps(samples, np.array([z]))[0] == pytest.approx(crps_of_normal(z), abs=1e-3)


def test_the_energy_score_agrees_with_all_pairs_and_with_the_other_in_one_dimension(
    rng: np.random.Generator,
) -> None:
    samples, truth = rng.normal(size=(7, 4, 3)), rng.normal(size=(4, 3))
    pairs = np.linalg.norm(samples[:, None] - samples[None], axis=-1).sum((0, 1)) / (2 * 7 * 6)
    expected = np.linalg.norm(samples - truth, axis=-1).mean(0) - pairs
    np.testing.assert_allclose(fair_energy(samples, truth), expected)
    flat = fair_energy(samples[..., :1], truth[..., :1])
    np.testing.assert_allclose(flat, fair_crps(samples[..., 0], truth[..., 0]))


def test_only_the_energy_score_sees_how_dimensions_go_together(rng: np.random.Generator) -> None:
    """The truth's two numbers are one and the same; one forecast knows, the other does not."""
    truth = np.repeat(rng.normal(size=(20_000, 1)), 2, 1)
    together = np.repeat(rng.normal(size=(10, 20_000, 1)), 2, 2)
    apart = rng.normal(size=(10, 20_000, 2))
    single = [fair_crps(samples, truth).mean() for samples in (together, apart)]
    assert single[0] == pytest.approx(single[1], abs=0.01)
    energy = [fair_energy(samples, truth).mean() for samples in (together, apart)]
    assert energy[0] < energy[1] - 0.02


@pytest.mark.parametrize("count", [4, 8, 39])
def test_the_log_score_is_that_of_the_normal_with_any_number_of_samples(
    count: int, rng: np.random.Generator
) -> None:
    """Fair: few samples score what the distribution itself does. (Four have a heavy tail.)"""
    samples = 1 + 2 * rng.normal(size=(count, 400_000))
    for truth in (1.0, 2.0):
        expected = -stats.norm.logpdf(truth, 1, 2)
        found = log_score(samples, np.full(400_000, truth)).mean()
        assert found == pytest.approx(expected, abs=0.05 if count == 4 else 0.01)


@pytest.mark.parametrize("count", [19, 39])
def test_a_perfect_ensemble_is_calibrated(count: int, rng: np.random.Generator) -> None:
    samples, truth = rng.normal(size=(count, 50_000)), rng.normal(size=50_000)
    ranks = rank(samples, truth)
    assert spread_skill_ratio(samples, truth) == pytest.approx(1.0, abs=0.05)
    k, nominal = interval_of(90, count)
    assert nominal == 0.9
    assert is_inside(ranks, k, count).mean() == pytest.approx(0.9, abs=0.02)
    shares = np.bincount(ranks, minlength=count + 1) / len(ranks)
    np.testing.assert_allclose(shares, 1 / (count + 1), atol=0.005)


def test_intervals_are_those_between_order_statistics(rng: np.random.Generator) -> None:
    samples, truth = rng.normal(size=(39, 1000)), rng.normal(size=1000)
    ordered = np.sort(samples, 0)
    for level, k in ((50, 10), (80, 4), (90, 2), (95, 1)):
        assert interval_of(level, 39) == (k, level / 100)
        inside = (ordered[k - 1] < truth) & (truth < ordered[39 - k])
        np.testing.assert_array_equal(is_inside(rank(samples, truth), k, 39), inside)
    assert interval_of(95, 8) is None  # the widest interval of 8 holds 7 / 9
    assert interval_of(80, 8) == (1, 7 / 9)


def test_equal_samples_share_the_rank() -> None:
    assert rank(np.zeros((8, 1)), np.zeros(1)) == 4
    assert rank(np.zeros((8, 1)), np.ones(1)) == 8
