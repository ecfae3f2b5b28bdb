"""Scores of sampled futures: how near are they to what happened, and do they know how near?

All take samples (S, ...) of what became `truth` (...), and are fair: their expectation does not
depend on S, so that few samples are not mistaken for a model that is too sure, or not sure enough.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import digamma

LEVELS = (50, 80, 90, 95)  # per cent that an interval should hold


def fair_crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score (...) of samples (S, ...) of what became `truth` (...).

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
    """Energy score (...) of vectors (S, ..., D) of what became `truth` (..., D): the same with
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
    Meteorol. Soc. 2019, eq. 13). What is not normal is judged as if it were. S has to be 4 or more.
    """
    count = _enough(samples, 4)
    half = (count - 1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):  # no spread: infinitely surprised
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


def ensemble_spread_skill_ratio(samples: np.ndarray, truth: np.ndarray) -> float:
    """Spread of samples (S, ...) over the error of their mean, root mean squares over all else.

    1 where samples and truth are alike, less where the model is too sure.
    """
    return float(np.sqrt(spread(samples).mean() / np.square(samples.mean(0) - truth).mean()))


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
