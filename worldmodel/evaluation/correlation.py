"""How well an estimate of the error predicts the error, as statistics of N pairs, each as often
as it was drawn (see `statistics.Statistic`). Not a number where either of the two is constant.
"""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.statistics import Statistic

ROUNDING = 1e-13  # of a variance, as a share of all pairs': what is less does not vary
QUIETLY = np.errstate(divide="ignore", invalid="ignore")  # infinite errors have no linear relation


def pearson(x: np.ndarray, y: np.ndarray) -> Statistic:
    """Linear correlation of x and y (N,)."""
    x, y = _standardised(x), _standardised(y)
    moments = np.stack([x, y, x * x, y * y, x * y], 1)

    @QUIETLY
    def statistic(counts: np.ndarray) -> np.ndarray:
        mx, my, xx, yy, xy = (counts @ moments / counts.sum(1)[:, None]).T
        vary = np.minimum(xx - mx**2, yy - my**2) > ROUNDING
        return np.where(vary, share(xy - mx * my, np.sqrt((xx - mx**2) * (yy - my**2))), np.nan)

    return statistic


def spearman(x: np.ndarray, y: np.ndarray) -> Statistic:
    """Rank correlation of x and y (N,): the linear one of their ranks, the mean rank on ties."""
    ranks_of_x, ranks_of_y = ranks(x), ranks(y)

    @QUIETLY
    def statistic(counts: np.ndarray) -> np.ndarray:
        middle = (counts.sum(1, keepdims=True) + 1) / 2  # the mean rank
        rx, ry = ranks_of_x(counts) - middle, ranks_of_y(counts) - middle
        weighted = counts * rx
        covariance, variance = np.einsum("rn,rn->r", weighted, ry), (weighted * rx).sum(1)
        return share(covariance, np.sqrt(variance * np.einsum("rn,rn,rn->r", counts, ry, ry)))

    return statistic


def sparsification(uncertainty: np.ndarray, error: np.ndarray) -> Statistic:
    """Area under the sparsification error (Ilg et al., ECCV 2018) of N pairs, as a share.

    The most uncertain are left out one after the other; the curve is the root mean square error of
    those that are kept. Its area is compared with that of the best order, by the error itself: 0
    means as good as that, 1 as good as chance, whatever the unit. What ties is left out together.
    """
    by_uncertainty, best = _kept(uncertainty, error), _kept(error, error)

    @QUIETLY
    def statistic(counts: np.ndarray) -> np.ndarray:
        all_kept = np.sqrt(counts @ np.square(np.asarray(error, np.float64)) / counts.sum(1))
        least = best(counts)
        return share(by_uncertainty(counts) - least, all_kept - least)

    return statistic


def _kept(by: np.ndarray, error: np.ndarray) -> Statistic:
    """Mean, over all shares that are kept, of the root mean square error of the lowest `by`."""
    order, ends = _groups(by)
    squares = np.square(np.asarray(error, np.float64))[order]

    def statistic(counts: np.ndarray) -> np.ndarray:
        counts = counts[:, order]
        kept, total = counts.cumsum(1)[:, ends], (counts * squares).cumsum(1)[:, ends]
        share = np.diff(kept, prepend=0) / kept[:, -1:]
        return (share * np.sqrt(total / np.maximum(kept, 1))).sum(1)

    return statistic


def ranks(values: np.ndarray) -> Statistic:
    """Ranks (R, N) in each draw, from 1 on."""
    order, ends = _groups(values)
    group = np.empty(len(order), np.int64)
    group[order] = np.searchsorted(ends, np.arange(len(order)))

    def statistic(counts: np.ndarray) -> np.ndarray:
        upto = counts[:, order].cumsum(1)[:, ends]
        before = np.concatenate([np.zeros_like(upto[:, :1]), upto[:, :-1]], 1)
        return ((before + upto + 1) / 2)[:, group]

    return statistic


def _groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order (N,) of the values, and where in it each group of equal ones ends."""
    order = np.argsort(values, kind="stable")
    ordered = np.asarray(values)[order]
    return order, np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))


@QUIETLY
def _standardised(x: np.ndarray) -> np.ndarray:
    """So that sums of squares lose no digits. What is constant, up to rounding, becomes 0."""
    x = np.asarray(x, np.float64)
    off = x - x.mean()
    varies = off.std() > np.sqrt(ROUNDING) * np.abs(x).max()
    return off / np.where(varies, off.std(), np.inf)


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """A share of nothing is not a number."""
    return np.where(whole > 0, part / whole, np.nan)
