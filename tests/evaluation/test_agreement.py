"""Ranking measures against hand-worked examples and naive loops; two kinds of return stay apart."""

import operator

import numpy as np
import pytest
from scipy import stats

from worldmodel.evaluation.rank_metrics import (
    ImaginedReturn,
    RealReturn,
    bias,
    mmrv,
    pearson,
    rank_agreement,
    regret,
    spearman,
)
from worldmodel.evaluation.statistics import Bootstrap


def once(measure, m, r, **more):
    """A measure of all pairs, each counted once."""
    counts = np.ones((1, len(m)), int)
    return float(measure(ImaginedReturn(np.array(m)), RealReturn(np.array(r)), **more)(counts)[0])


def drawn(measure, m, r, index, **more):
    """The same of a draw, by its counts and by the pairs written out."""
    m, r = np.asarray(m), np.asarray(r)
    counts = np.bincount(index, minlength=len(m))[None]
    found = measure(ImaginedReturn(m), RealReturn(r), **more)(counts)[0]
    return float(found), once(measure, m[index], r[index], **more)


def naive_mmrv(m, r):
    worst = [
        max(abs(r[i] - r[j]) * ((m[i] > m[j]) != (r[i] > r[j])) for j in range(len(r)))
        for i in range(len(r))
    ]
    return sum(worst) / len(r)


def test_mmrv_by_hand():
    # The model swaps the last two: each is wrong by their real difference, 10; the first by none.
    assert once(mmrv, [1, 3, 2], [0, 50, 60]) == pytest.approx(20 / 3)
    assert once(mmrv, [1, 2, 3], [0, 50, 60]) == 0
    # All the wrong way round: the largest real differences are 60, 50 and 60.
    assert once(mmrv, [3, 2, 1], [0, 50, 60]) == pytest.approx(170 / 3)


def test_mmrv_is_that_of_naive_loops(rng):
    m, r = rng.normal(size=(2, 12))
    m[:4] = 0.5  # ties
    assert once(mmrv, m, r) == pytest.approx(naive_mmrv(m, r))


def test_regret_by_hand():
    m, r = [5, 4, 3, 2], [70, 90, 100, 0]  # the model's first is the world's third
    assert once(regret, m, r) == pytest.approx(0.30)
    assert once(regret, m, r, k=2) == pytest.approx(0.10)
    assert once(regret, m, r, k=3) == 0
    assert once(regret, [0, 1], [7, 0]) == 1
    assert np.isnan(once(regret, [0, 1], [7, 7]))


def test_a_tie_earns_no_luck():
    assert once(regret, [1, 1, 0], [10, 0, 5]) == 1


def test_spearman_with_ties_is_that_of_scipy():
    m, r = [1.0, 2.0, 2.0, 5.0, 0.0], [3.0, 3.0, 4.0, 9.0, 1.0]
    assert once(spearman, m, r) == pytest.approx(stats.spearmanr(m, r).statistic)
    # By hand: ranks 2, 3.5, 3.5, 5, 1 and 2.5, 2.5, 4, 5, 1: sums of squares 9.5, of products 8.75.
    assert once(spearman, m, r) == pytest.approx(8.75 / 9.5)


def test_a_model_that_holds_all_for_equal_ranks_nothing():
    assert once(spearman, [2, 2, 2], [1, 2, 3]) == once(pearson, [2, 2, 2], [1, 2, 3]) == 0
    assert np.isnan(once(spearman, [1, 2, 3], [2, 2, 2]))  # there was nothing to rank


def test_bias_is_optimism():
    assert once(bias, [3, 5], [1, 1]) == 3


@pytest.mark.parametrize("measure", [spearman, pearson, regret, mmrv, bias])
def test_a_draw_counts_policies_as_often_as_they_came(measure, rng):
    m, r = rng.normal(size=(2, 9))
    m[3] = m[5]
    for _ in range(20):
        counted, written_out = drawn(measure, m, r, rng.integers(9, size=9))
        assert counted == pytest.approx(written_out)


def test_what_is_not_a_number_is_chosen_last():
    assert once(regret, [np.nan, 1.0, 0.0], [100, 90, 0]) == pytest.approx(0.1)


def test_intervals_are_over_policies(rng):
    r = rng.normal(size=12)
    m = r + rng.normal(size=12)
    found = rank_agreement(ImaginedReturn(m), RealReturn(r), Bootstrap(seed=1))
    assert found.spearman.low < found.spearman.value < found.spearman.high <= 1
    assert found.spearman.n == 12 and "bootstrap over policies" in found.spearman.method
    assert vars(found).keys() == {"spearman", "pearson", "regret", "mmrv", "bias"}


OPERATIONS = [
    operator.add, operator.sub, operator.lt, operator.le, operator.gt, operator.ge, operator.eq,
    operator.ne,
]  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.__name__)
def test_imagined_and_real_returns_do_not_mix(operation):
    imagined, real = ImaginedReturn(np.ones(3)), RealReturn(np.ones(3))
    operation(imagined, ImaginedReturn(np.zeros(3)))
    for left, right in [(imagined, real), (real, imagined), (imagined, np.ones(3)), (1.0, real)]:
        with pytest.raises(TypeError, match="do not mix"):
            operation(left, right)


def test_measures_take_one_of_each():
    imagined, real = ImaginedReturn(np.arange(3.0)), RealReturn(np.arange(3.0))
    for pair in [(real, imagined), (imagined, imagined), (real, real)]:
        with pytest.raises(TypeError, match="is needed here"):
            rank_agreement(*pair, Bootstrap(100))
    with pytest.raises(ValueError, match="same n"):
        rank_agreement(imagined, RealReturn(np.arange(4.0)), Bootstrap(100))
