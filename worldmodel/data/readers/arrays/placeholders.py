"""Next observations of ends that are placeholders: the observation before, or zeros."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

FEWEST = 3  # ends, since one may be at rest
RARE = 0.01  # share of the other rows that may be like them

REPEATS, ZEROS = "repeats the observation before it", "is 0"


class Placeholders:
    """Counts the rows whose next observation is a placeholder, over parts of a log.

    Example:
        >>> counted = Placeholders()
        >>> now = np.arange(1.0, 9.0)[:, None]
        >>> ends = np.arange(8) % 2 == 1
        >>> counted.add({"x": now}, {"x": np.where(ends[:, None], now, now + 1)}, ends)
        >>> counted.kind()
        'repeats the observation before it'
    """

    def __init__(self) -> None:
        self.ends = self.others = 0
        self.like = {kind: np.zeros(2, np.int64) for kind in (REPEATS, ZEROS)}  # others, ends

    def add(
        self, now: Mapping[str, np.ndarray], then: Mapping[str, np.ndarray], ends: np.ndarray
    ) -> None:
        """Counts rows: name -> (N, ...) the observations before and after, and (N,) which end."""
        numeric = [key for key, values in now.items() if values.dtype.kind in "fiub"]
        repeats, zeros = np.full((2, len(ends)), bool(numeric))
        for key in numeric:
            flat, after = (
                v.reshape(len(ends), math.prod(v.shape[1:])) for v in (now[key], then[key])
            )
            repeats &= flat.shape == after.shape and (flat == after).all(1)
            zeros &= ~after.any(1)
        for kind, rows in ((REPEATS, repeats), (ZEROS, zeros)):
            self.like[kind] += (rows & ~ends).sum(), (rows & ends).sum()
        self.ends += int(ends.sum())
        self.others += int((~ends).sum())

    def kind(self) -> str | None:
        """What the next observations of all ends are, if hardly any others are; in words."""
        for kind, (others, ends) in self.like.items():
            every = ends == self.ends and self.ends >= FEWEST
            if every and self.others and others <= RARE * self.others:
                return kind
        return None

    def is_like(self, kind: str) -> bool:
        """Whether all ends are of a `kind`, however few."""
        return self.like[kind][1] == self.ends

    @property
    def possible(self) -> bool:
        """Whether more rows can still make a `kind`."""
        return any(self.is_like(kind) for kind in self.like)
