"""Scores of sampled futures against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worldmodel.evaluation.calibration import fair_crps, spread_over_skill


def crps_of_normal(z: float) -> float:
    """Of N(0, 1) at z (Gneiting and Raftery, JASA 2007, eq. 21)."""
    density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    below = (1 + math.erf(z / math.sqrt(2))) / 2
    return z * (2 * below - 1) + 2 * density - 1 / math.sqrt(math.pi)


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
    found = spread_over_skill(samples, centre + rng.normal(size=50_000))
    assert found == pytest.approx(expected, rel=0.02)
    if scale == 1.0:
        assert found == pytest.approx(1.0, rel=0.02)
