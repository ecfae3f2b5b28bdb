"""Next observations of last steps that are not what followed, in logs that keep each episode by
itself: those of the next episode, or placeholders, in all episodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.data.readers.arrays.next_observations import FURTHER, JUMPS
from worldmodel.data.readers.arrays.placeholders import FEWEST, Placeholders

Arrays = Mapping[str, Any]

SHIFTED = "is the first observation of the next episode"


@dataclass
class FinalSteps:
    """Compares the last next observation of each episode with the observations around it.

    Attributes:
        names: of the episodes that were added
        terminal: those of them that are terminal
    """

    names: list[str] = field(default_factory=list)
    terminal: set[str] = field(default_factory=set)
    placeholders: Placeholders = field(default_factory=Placeholders)
    shifted: bool = True
    first: dict[str, np.ndarray] = field(default_factory=dict)
    now: dict[str, np.ndarray] = field(default_factory=dict)
    then: dict[str, np.ndarray] = field(default_factory=dict)
    largest: dict[str, np.ndarray] = field(default_factory=dict)
    steps: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @property
    def possible(self) -> bool:
        """Whether more episodes can still tell of anything."""
        return self.shifted or self.placeholders.possible

    def add(self, name: str, now: Arrays, then: Arrays, stop: int, terminal: bool) -> None:
        """Adds the first `stop` steps of an episode: name -> (T, ...) each."""
        flat = [key for key, value in now.items() if value.ndim <= 2] or list(now)
        before, after = ({k: np.asarray(v[k][: stop - 1]) for k in flat} for v in (now, then))
        end = slice(stop - 1, stop)
        last, following = ({k: np.asarray(v[k][end]) for k in now} for v in (now, then))
        begin = {key: np.asarray(now[key][:1]) for key in now}
        self.placeholders.add(before, after, np.zeros(stop - 1, bool))
        self.placeholders.add(last, following, np.ones(1, bool))
        if self.names:
            self.shifted = self.shifted and _same(self.then, begin)
        else:
            self.first = begin
        if self.shifted:
            for key in flat:
                self._measure(key, np.concatenate([before[key], last[key]]), following[key])
        self.now, self.then = last, following
        self.names.append(name)
        if terminal:
            self.terminal.add(name)

    def _measure(self, key: str, rows: np.ndarray, following: np.ndarray) -> None:
        """Notes the largest steps inside an episode, and the one at its end."""
        if rows.dtype.kind not in "fiub":
            return
        flat = np.concatenate([rows, following]).astype(np.float64)
        step = np.abs(np.diff(flat.reshape(len(flat), math.prod(flat.shape[1:])), axis=0))
        largest = self.largest.get(key, np.zeros(step.shape[1]))
        self.largest[key] = np.fmax(largest, step[:-1].max(0, initial=0.0))
        self.steps.setdefault(key, []).append(step[-1])

    def unlogged(self) -> tuple[set[str], str]:
        """Returns the episodes whose last next observation is none, and what it is; in words."""
        if kind := self.placeholders.kind():
            return {*self.names}, kind
        if not self.shifted or len(self.names) < FEWEST:
            return set(), ""
        *ends, last = self.names
        jumped = np.zeros(len(ends), bool)
        for key, steps in self.steps.items():
            jumped |= (np.array(steps[:-1]) > FURTHER * self.largest[key]).any(1)
        found = {*ends} if jumped.mean() >= JUMPS else {*ends} & self.terminal
        if found and (_same(self.then, self.now) or _same(self.then, self.first)):
            found.add(last)
        return found, SHIFTED if found else ""


def _same(some: Arrays, others: Arrays) -> bool:
    return some.keys() == others.keys() and all(
        np.array_equal(some[key], others[key]) for key in some
    )
