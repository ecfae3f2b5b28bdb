"""Correlations and sparsification beside naive NumPy, on values that are drawn again and again."""

import numpy as np
import pytest

from worldmodel.evaluation.correlation import pearson, sparsification, spearman


def ranks(x):
    """Mean ranks on ties, by counting."""
    return np.array([(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x])


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


def naive_sparsification(u, e):
    """Leaves out the largest `by`, one after the other (no ties)."""

    def area(by):
        order = np.argsort(by)
        return np.mean([rms(e[order[:kept]]) for kept in range(1, len(e) + 1)])

    return (area(u) - area(e)) / (rms(e) - area(e))


def naive_pearson(x, y):
    return np.corrcoef(x, y)[0, 1]


NAIVE = {
    pearson: naive_pearson,
    spearman: lambda x, y: naive_pearson(ranks(x), ranks(y)),
}


def pairs(count=40, seed=0):
    generator = np.random.default_rng(seed)
    error = generator.gamma(2.0, size=count)
    return error * np.exp(generator.normal(size=count)) + 1e3, error


@pytest.mark.parametrize("statistic", NAIVE)
def test_correlations_of_a_draw_are_those_of_the_repeated_pairs(statistic):
    x, y = pairs()
    x = np.round(x, 0)  # ties
    counts = np.random.default_rng(1).integers(0, 4, (20, len(x)))
    repeated = [(np.repeat(x, c), np.repeat(y, c)) for c in counts]
    expected = [NAIVE[statistic](*pair) for pair in repeated]
    np.testing.assert_allclose(statistic(x, y)(counts), expected, rtol=1e-9)


def test_rank_correlation_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    x, y = pairs()
    found = spearman(np.round(x), y)(np.ones((1, len(x)), int))
    np.testing.assert_allclose(found, stats.spearmanr(np.round(x), y).statistic, rtol=1e-9)


def test_sparsification_is_the_area_between_the_curves():
    u, e = pairs()
    drawn = np.random.default_rng(1).integers(0, 2, (20, len(u)))
    expected = [naive_sparsification(u[c == 1], e[c == 1]) for c in drawn]
    np.testing.assert_allclose(sparsification(u, e)(drawn), expected, rtol=1e-9)


def test_what_is_drawn_twice_counts_twice():
    """Unlike one by one, two that tie are left out together: e = 1 and 2, both twice, u in order:
    the curves coincide; u in reverse: sqrt(2.5), then 2, for a half each."""
    counts, e = np.array([[2, 2]]), np.array([1.0, 2.0])
    assert sparsification(e, e)(counts) == 0
    whole, best = np.sqrt(2.5), (1 + np.sqrt(2.5)) / 2
    expected = ((2 + whole) / 2 - best) / (whole - best)
    np.testing.assert_allclose(sparsification(-e, e)(counts), expected)


def test_an_uninformative_order_is_chance_and_any_unit_is_the_same():
    u, e = pairs(400)
    once = np.ones((1, 400), int)
    np.testing.assert_allclose(sparsification(np.zeros(400), e)(once), 1.0)
    np.testing.assert_allclose(sparsification(np.exp(0.01 * e), 5 * e)(once), 0.0, atol=1e-12)
    shuffled = np.random.default_rng(2).permutation
    found = [sparsification(shuffled(u), e)(once)[0] for _ in range(50)]
    assert np.mean(found) == pytest.approx(1.0, abs=0.05)
    assert sparsification(-e, e)(once) > 1


@pytest.mark.parametrize("statistic", [pearson, spearman, sparsification])
def test_what_never_changes_shows_nothing(statistic):
    """Neither in the pairs nor, where the same one was drawn again and again, in a draw."""
    once = np.ones((1, 7), int)
    assert np.isnan(statistic(np.arange(7.0), np.full(7, 0.1))(once)).all()
    x, y = pairs()
    assert np.isnan(statistic(x, y)(np.eye(40, dtype=int) * 40)).all()


def test_an_infinite_error_still_has_a_rank():
    x = np.arange(7.0)
    y = np.where(x < 6, x, np.inf)
    assert spearman(x, y)(np.ones((1, 7), int)) == pytest.approx(1.0)
    for statistic in (pearson, sparsification):
        assert np.isnan(statistic(x, y)(np.ones((1, 7), int))).all()
