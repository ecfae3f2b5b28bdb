"""How imagined returns agree with real ones, for the same policies or plans.

Imagined and real returns are two types, and no arithmetic mixes them: a plan that is scored by the
model's own rollouts flatters a bad model. The measures here take one of each.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.evaluation import correlation
from worldmodel.evaluation.statistics import (
    Bootstrap,
    Estimate,
    Measured,
    Statistic,
    estimates,
    means,
)


def _of_one_kind(operation: Callable[..., Any], wrap: bool = False) -> Any:
    """The operation on the values of two returns of the same type; of this type with `wrap`."""

    def method(self: _Return, other: Any) -> Any:
        if type(other) is not type(self):
            mine, theirs = type(self).__name__, type(other).__name__
            raise TypeError(
                f"{mine} and {theirs} do not mix: what a model imagines is no evidence of what "
                "is earned; `rank_agreement` compares the two"
            )
        found = operation(self.values, other.values)
        return type(self)(found) if wrap else found

    return method


@dataclass(frozen=True, eq=False)
class _Return:
    """Undiscounted returns (...). Arithmetic and comparison with another kind, or with bare
    numbers, raise TypeError.
    """

    values: np.ndarray
    __array_ufunc__ = None  # an array on the left leaves the operation to this class
    __hash__ = None  # type: ignore[assignment]  # Python's own idiom; typeshed has a method here
    __add__ = __radd__ = _of_one_kind(operator.add, wrap=True)
    __sub__ = __rsub__ = _of_one_kind(operator.sub, wrap=True)
    __lt__, __le__ = _of_one_kind(operator.lt), _of_one_kind(operator.le)
    __gt__, __ge__ = _of_one_kind(operator.gt), _of_one_kind(operator.ge)
    __eq__, __ne__ = _of_one_kind(operator.eq), _of_one_kind(operator.ne)


class ImaginedReturn(_Return):
    """Returns imagined by a model."""


class RealReturn(_Return):
    """Returns in the real environment."""


@dataclass(frozen=True)
class RankAgreement:
    """How the imagined returns of n policies agree with the real ones (SIMPLER, arXiv 2405.05941;
    DOPE, arXiv 2103.16596).

    spearman, pearson: correlation of ranks, and linear, 1 at best
    regret: what choosing by the model loses, as a share of the range of real returns, 0 at best
    mmrv: mean maximum rank violation: over policies, of the largest real difference that the model
    orders wrongly, in units of return, 0 at best
    bias: mean of imagined less real return: optimism
    """

    spearman: Estimate
    pearson: Estimate
    regret: Estimate
    mmrv: Estimate
    bias: Estimate


def rank_agreement(
    imagined: ImaginedReturn, real: RealReturn, bootstrap: Bootstrap
) -> RankAgreement:
    """From mean returns of n policies (n,); intervals over policies."""
    policies, of = np.arange(len(real.values)), f"of {len(real.values)} policies"
    measured = {
        measure.__name__: Measured(measure(imagined, real), policies, f"{what} {of}", "policies")
        for measure, what in {
            spearman: "rank correlation",
            pearson: "linear correlation",
            regret: "regret of the policy that the model prefers, as a share of the range,",
            mmrv: "mean maximum rank violation",
            bias: "mean of imagined less real return",
        }.items()
    }
    return RankAgreement(**estimates(measured, bootstrap))


# ---------------------------------------------------- measures, each as often as a pair was drawn


def spearman(imagined: ImaginedReturn, real: RealReturn) -> Statistic:
    """Rank correlation; 0 where a model predicts the same for all: it ranks nothing."""
    return _or_nothing(correlation.spearman, imagined, real)


def pearson(imagined: ImaginedReturn, real: RealReturn) -> Statistic:
    """Linear correlation; 0 where a model predicts the same for all."""
    return _or_nothing(correlation.pearson, imagined, real)


def regret(imagined: ImaginedReturn, real: RealReturn, k: int = 1) -> Statistic:
    """(max R - the best R of the k that the model ranks first) / (max R - min R), in [0, 1].

    Ties of the model are taken in the worst order.
    """
    m, r = _values(imagined, real)
    order = np.lexsort((r, -m))
    ordered = r[order]

    @correlation.QUIETLY
    def statistic(counts: np.ndarray) -> np.ndarray:
        drawn = counts[:, order] > 0
        first = np.cumsum(counts[:, order], 1) - counts[:, order] < k
        best, worst = _extreme(ordered, drawn, np.max), _extreme(ordered, drawn, np.min)
        chosen = _extreme(ordered, drawn & first, np.max)
        return correlation.share(best - chosen, best - worst)

    return statistic


def mmrv(imagined: ImaginedReturn, real: RealReturn) -> Statistic:
    """Mean maximum rank violation: (1/n) sum_i max_j |R_i - R_j| 1[(M_i > M_j) != (R_i > R_j)]."""
    m, r = _values(imagined, real)
    wrong = (m[:, None] > m) != (r[:, None] > r)
    size = np.where(wrong, np.abs(r[:, None] - r), 0.0)

    def statistic(counts: np.ndarray) -> np.ndarray:
        there = (counts > 0)[:, None]
        return (counts * np.where(there, size, 0.0).max(2)).sum(1) / counts.sum(1)

    return statistic


def bias(imagined: ImaginedReturn, real: RealReturn) -> Statistic:
    """mean(M - R)."""
    m, r = _values(imagined, real)
    return means(m - r)


def _or_nothing(
    of: Callable[..., Statistic], imagined: ImaginedReturn, real: RealReturn
) -> Statistic:
    m, r = _values(imagined, real)
    measured = of(m, r)

    def statistic(counts: np.ndarray) -> np.ndarray:
        found = measured(counts)
        drawn = counts > 0
        varies = _extreme(r, drawn, np.max) > _extreme(r, drawn, np.min)
        equal = _extreme(m, drawn, np.max) == _extreme(m, drawn, np.min)
        return np.where(varies & equal, 0.0, found)

    return statistic


def _extreme(values: np.ndarray, chosen: np.ndarray, extreme: Callable[..., Any]) -> np.ndarray:
    """The largest, or least, of values (n,) among those `chosen` (R, n): (R,)."""
    nothing = -np.inf if extreme is np.max else np.inf
    return extreme(np.where(chosen, values, nothing), 1)


def _values(imagined: ImaginedReturn, real: RealReturn) -> tuple[np.ndarray, np.ndarray]:
    for given, kind in ((imagined, ImaginedReturn), (real, RealReturn)):
        if type(given) is not kind:
            raise TypeError(f"a {kind.__name__} is needed here, not {type(given).__name__}")
    m, r = (np.asarray(x.values, np.float64) for x in (imagined, real))
    if m.ndim != 1 or m.shape != r.shape:
        raise ValueError(f"returns (n,) of the same n are needed, not {m.shape} and {r.shape}")
    return np.where(np.isnan(m), -np.inf, m), r  # NaN is chosen last
