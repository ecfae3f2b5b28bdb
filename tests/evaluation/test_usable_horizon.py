"""The usable horizon, from errors that are made by hand."""

import numpy as np
import pytest

from worldmodel.evaluation.sections.usable_horizon import usable_horizon
from worldmodel.evaluation.starts import PredictionStarts
from worldmodel.evaluation.statistics import Bootstrap

LAST = 20


def made(first_worse, left):
    """Errors (2, N, LAST): worse than persistence from a step on, NaN past the episode's end."""
    steps = np.arange(1, LAST + 1)
    model = np.where(steps >= np.asarray(first_worse)[:, None], 2.0, 0.5)
    errors = np.stack([model, np.ones_like(model)])
    errors[:, steps > np.asarray(left)[:, None]] = np.nan
    n = len(left)
    return errors, PredictionStarts(
        np.arange(n), np.ones(n, int), np.asarray(left), np.arange(n) // 2
    )


def test_percentiles_are_those_of_the_first_step_that_is_worse():
    first = np.arange(1, 41) % LAST + 1  # each of 1 to 20 twice
    found = usable_horizon(*made(first, [LAST] * 40), Bootstrap(200))
    expected = np.quantile(first, [0.05, 0.5, 0.95], method="inverted_cdf")
    assert [n.value for n in found.percentiles.values()] == expected.tolist()
    assert found.censored.value == 0 and found.max_horizon == LAST
    assert all(n.low <= n.value <= n.high and n.n == 40 for n in found.percentiles.values())


def test_what_never_gets_worse_counts_as_the_last_horizon():
    first = [5] * 4 + [99] * 6
    found = usable_horizon(*made(first, [LAST] * 10), Bootstrap(200))
    assert [n.value for n in found.percentiles.values()] == [5, LAST, LAST]
    assert found.censored.value == pytest.approx(0.6)


def test_equal_is_not_worse_and_what_is_not_a_number_is():
    errors, starts = made([99] * 4, [LAST] * 4)
    errors[0] = errors[1]
    assert usable_horizon(errors, starts, Bootstrap(200)).censored.value == 1
    errors[0, :, 2] = np.inf
    found = usable_horizon(errors, starts, Bootstrap(200))
    assert found.percentiles[50].value == 3 and found.censored.value == 0


def test_short_episodes_count_as_long_as_they_are_known():
    """Half of the starts are seen for 10 steps. Of those seen further, half fail at step 15: so do
    half of those that were usable until then (Kaplan and Meier)."""
    first = [99] * 10 + [15] * 5 + [99] * 5
    left = [10] * 10 + [LAST] * 10
    found = usable_horizon(*made(first, left), Bootstrap(200))
    assert found.censored.value == pytest.approx(0.5)
    assert found.percentiles[50].value == 15 and found.percentiles[5].value == 15


def test_every_percentile_has_a_name_in_results_json():
    found = usable_horizon(*made([5, 9], [LAST] * 2), Bootstrap(200)).numbers()
    assert found.keys() == {"p5", "p50", "p95", "censored", "max_horizon"}
    assert found["p50"].value == 5
