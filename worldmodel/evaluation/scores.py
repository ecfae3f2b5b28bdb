"""Scores of sampled rollouts: how close are they to the truth, and is their spread right?

All take samples (S, ...) and a `truth` (...), and are fair: their expectation does not depend on S,
so few samples are not mistaken for overconfidence or underconfidence.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import digamma

LEVELS = (50, 80, 90, 95)  # nominal coverage of intervals, in %
FEWEST_SAMPLES = 4  # with fewer, the log score has no expectation


class Scores(NamedTuple):
    """Scores of N starts at h horizons; D is 1 for an image, whose pixels are averaged.

    crps, log_score: (N, h, D)
    energy_score: (N, h), with norms that are root mean squares over dimensions
    spread: (N, h, D) expected, and squared_error: (N, h, D) actual, of the samples' mean
    rank: (N, h, P) of the truth among the samples, dimension by dimension
    """

    crps: np.ndarray
    log_score: np.ndarray
    energy_score: np.ndarray
    spread: np.ndarray
    squared_error: np.ndarray
    rank: np.ndarray


def scores_of(samples: np.ndarray, truth: np.ndarray, each: bool) -> Scores | None:
    """Scores samples (S, N, h, P) of a `truth` (N, h, P), for `each` dimension or averaged.

    Returns None without a spread: too few samples, or all of them the same.
    """
    if len(samples) < FEWEST_SAMPLES or (samples == samples[0]).all():
        return None
    # NaN counts as infinitely far off.
    samples = np.where(np.isfinite(samples), samples, np.inf).astype(np.float64)
    kept = (lambda x: x) if each else (lambda x: x.mean(-1, keepdims=True))
    with np.errstate(invalid="ignore", over="ignore"):
        found = Scores(
            crps=kept(fair_crps(samples, truth)),
            log_score=kept(log_score(samples, truth)),
            energy_score=fair_energy(samples, truth) / np.sqrt(truth.shape[-1]),
            spread=kept(spread(samples)),
            squared_error=kept(np.square(samples.mean(0) - truth)),
            rank=rank(samples, truth).astype(np.int32),
        )
    worst = {name: np.where(np.isnan(x), np.inf, x) for name, x in found._asdict().items()}
    return Scores(**worst)._replace(rank=found.rank)


def fair_crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score (...) of samples (S, ...) for a `truth` (...).

    In the unit of the truth; lower is better, and the best is the distribution that the truth is
    drawn from, whatever S is: the plain estimate favours too little spread when S is small (Ferro,
    Q. J. R. Meteorol. Soc. 2014). S has to be 2 or more.
    """
    count = _enough(samples, 2)
    off = np.abs(samples - truth).mean(0)
    # The sum of |x_i - x_j| over all pairs, from sorted samples: each is counted by its rank.
    weight = 2 * np.arange(count) - count + 1
    pairs = np.tensordot(weight, np.sort(samples, 0), 1) * 2
    return off - pairs / (2 * count * (count - 1))


def fair_energy(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Energy score (...) of vectors (S, ..., D) for a `truth` (..., D): the same with
    Euclidean norms, so that how dimensions go together counts too (Gneiting and Raftery, JASA 2007,
    eq. 22). S has to be 2 or more.
    """
    count = _enough(samples, 2)
    off = np.linalg.norm(samples - truth, axis=-1).mean(0)
    later = (np.linalg.norm(samples[i + 1 :] - samples[i], axis=-1).sum(0) for i in range(count))
    return off - sum(later) / (count * (count - 1))


def log_score(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Negative log-likelihood (...), in nats, of the normal distribution that the samples (S, ...)
    are drawn from: estimated without bias by their mean and variance (Siegert et al., Q. J. R.
    Meteorol. Soc. 2019, eq. 13). Other distributions are scored as if normal. S has to be 4 or
    more.
    """
    count = _enough(samples, 4)
    half = (count - 1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):  # no spread: an infinite score
        variance = samples.var(0, ddof=1)
        size = np.log(variance) + math.log(half) - digamma(half)
        off = (count - 3) / (count - 1) * np.square(truth - samples.mean(0)) / variance
        return (math.log(2 * math.pi) + size + off - 1 / count) / 2


def spread(samples: np.ndarray) -> np.ndarray:
    """(...) the mean square error that the mean of samples (S, ...) would have if the truth were
    one more sample (Fortin et al., J. Hydrometeorol. 2014). S has to be 2 or more.
    """
    count = _enough(samples, 2)
    return samples.var(0, ddof=1) * (count + 1) / count


def rank(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many of the samples (S, ...) are below the truth (...), from 0 to S; half of those that
    equal it. Where samples and truth are alike every rank is as frequent (Hamill, Mon. Weather Rev.
    2001).
    """
    return (samples < truth).sum(0) + (samples == truth).sum(0) // 2


def interval_of(level: int, count: int) -> tuple[int, float] | None:
    """The interval between the k-th smallest and the k-th largest of `count` samples that holds
    `level` per cent as nearly as one can: k, and the share it holds if samples and truth are alike,
    (S + 1 - 2 k) / (S + 1). None where even the widest one is too narrow.

    39 samples have exactly 50, 80, 90 and 95 per cent.
    """
    k = round((count + 1) * (1 - level / 100) / 2 - 1e-9)
    return (k, (count + 1 - 2 * k) / (count + 1)) if k else None


def is_inside(ranks: np.ndarray, k: int, count: int) -> np.ndarray:
    """Whether the truth lies between the k-th smallest and the k-th largest of `count` samples, by
    its rank among them.
    """
    return (ranks >= k) & (ranks <= count - k)


def _enough(samples: np.ndarray, least: int) -> int:
    if len(samples) < least:
        raise ValueError(f"{len(samples)} samples: this score needs {least} or more")
    return len(samples)
