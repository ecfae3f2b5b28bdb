"""How many steps ahead a model can be used: until "nothing changes" would have been nearer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.starts import PredictionStarts
from worldmodel.evaluation.statistics import Bootstrap, Estimate, Statistic

PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class UsableHorizon:
    """Percentiles over starts of the first step at which the error is larger than persistence's,
    `last` where that is not within `last` steps, and the share of starts for which it is not.
    """

    percentiles: dict[int, Estimate]
    censored: Estimate
    max_horizon: int

    def to_json(self) -> dict[str, Any]:
        found = {f"p{p}": number.to_json() for p, number in self.percentiles.items()}
        return found | {"censored": self.censored.to_json(), "max_horizon": self.max_horizon}


def usable_horizon(
    errors: np.ndarray, starts: PredictionStarts, bootstrap: Bootstrap
) -> UsableHorizon:
    """From errors (K, N, H) of the model, persistence and others. PredictionStarts whose episode ends before
    the last horizon count as long as they are known (Kaplan and Meier, JASA 1958).
    """
    last = errors.shape[-1]
    with np.errstate(invalid="ignore"):
        worse = errors[0] > errors[1]  # never past the episode's end, where both are NaN
    failed = worse.any(1)
    until = np.where(failed, worse.argmax(1) + 1, np.minimum(starts.remaining_steps, last))
    what = f"steps until persistence is nearer, at most {last}, over {len(starts)} starts"
    numbers = bootstrap.clustered_many(_percentiles(until, failed, last), starts.episodes, what)
    what = f"share of {len(starts)} starts that after {last} steps are no worse than persistence"
    (censored,) = bootstrap.clustered_many(
        lambda counts: _usable(until, failed, last)(counts)[:, -1:], starts.episodes, what
    )
    return UsableHorizon(dict(zip(PERCENTILES, numbers, strict=True)), censored, last)


def _percentiles(until: np.ndarray, failed: np.ndarray, last: int) -> Statistic:
    """(R, 3) the first step at which so many per cent are no longer usable."""
    usable = _usable(until, failed, last)

    def statistic(counts: np.ndarray) -> np.ndarray:
        gone = 1 - usable(counts)
        found = [(gone >= p / 100 - 1e-9).argmax(1) + 1 for p in PERCENTILES]
        reached = [gone[:, -1] >= p / 100 - 1e-9 for p in PERCENTILES]
        return np.where(np.stack(reached, 1), np.stack(found, 1), last).astype(np.float64)

    return statistic


def _usable(until: np.ndarray, failed: np.ndarray, last: int) -> Statistic:
    """(R, H) the share that is usable after 1 to H steps: `until` (N,) is when a start `failed`, or
    else how long it was seen.
    """
    steps = np.arange(1, last + 1)
    known = (until[:, None] >= steps).astype(np.float64)
    lost = ((until[:, None] == steps) & failed[:, None]).astype(np.float64)

    def statistic(counts: np.ndarray) -> np.ndarray:
        return np.cumprod(1 - counts @ lost / np.maximum(counts @ known, 1), 1)

    return statistic


def usable_sheet(found: dict[str, UsableHorizon]) -> ResultTable:
    """A row an observation."""
    first = next(iter(found.values()))
    titles = ["median" if p == 50 else f"{p} %" for p in first.percentiles]
    header = ["observation", *titles, f"share after {first.max_horizon}"]
    rows = [[key, *u.percentiles.values(), u.censored] for key, u in found.items()]
    return ResultTable("Steps until persistence is nearer, percentiles", header, rows)
