"""Last rows without an action and a reward: a final observation alone, or a step at rest?"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

FEWEST = 3  # episodes
RARE = 0.01  # share of the other rows that may be like them

logger = logging.getLogger(__name__)


def idle_rows(*fields: Any) -> np.ndarray:
    """Returns (N,) bool: rows that are 0 in all of the fields (N, ...)."""
    flat = (np.asarray(values) for values in fields)
    return ~np.logical_or.reduce(
        [(v.reshape(len(v), math.prod(v.shape[1:])) != 0).any(1) for v in flat]
    )


def warn_of_padding(idle: np.ndarray, last: np.ndarray, source: str) -> None:
    """Warns if all last rows are idle and hardly any other is; (N,) bool each."""
    count = int(last.sum())
    others = idle[~last]
    if count < FEWEST or not others.size or not idle[last].all() or others.mean() > RARE:
        return
    logger.warning(
        "%s: the last rows of all %d episodes have no action and no reward (0), where %d of %d "
        "others have none: read as transitions. If they hold the final observation alone, "
        "data.roles={NAME: final} says so of a field NAME that is true in them",
        source, count, others.sum(), len(others),
    )  # fmt: skip
