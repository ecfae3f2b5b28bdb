"""Does a model that samples futures know how wrong it is?"""

from __future__ import annotations

import numpy as np


def fair_crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score (...) of samples (S, ...) of what became `truth` (...).

    In the unit of the truth; lower is better, and the best is the distribution that the truth is
    drawn from, whatever S is: the plain estimate favours too little spread when S is small (Ferro,
    Q. J. R. Meteorol. Soc. 2014). S has to be 2 or more.
    """
    count = len(samples)
    if count < 2:
        raise ValueError(f"{count} samples: spread needs 2 or more")
    off = np.abs(samples - truth).mean(0)
    # The sum of |x_i - x_j| over all pairs, from sorted samples: each is counted by its rank.
    weight = 2 * np.arange(count) - count + 1
    pairs = np.tensordot(weight, np.sort(samples, 0), 1) * 2
    return off - pairs / (2 * count * (count - 1))


def spread_over_skill(samples: np.ndarray, truth: np.ndarray) -> float:
    """Spread of samples (S, ...) over the error of their mean, root mean squares over all else.

    1 where samples and truth are alike, less where the model is too sure (Fortin et al., J.
    Hydrometeorol. 2014).
    """
    count = len(samples)
    spread = samples.var(0, ddof=1).mean() * (count + 1) / count
    return float(np.sqrt(spread / np.square(samples.mean(0) - truth).mean()))
