"""A line a step, at most 100 columns wide: what was done, what followed, and what was dreamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.play.live_comparison import ComparedStep
from worldmodel.play.observation_values import (
    WIDTH,
    flatten_observation,
    format_heading,
    format_number,
    value_names,
)

STEP_WIDTH = 6
MOST_OBSERVED = 3  # numbers of an observation, real and dreamed
MOST_NUMBERS = 7  # of observations and action: with two rewards and the error, 96 columns


class Table:
    """Of what has `spec`."""

    def __init__(self, spec: DataSpec):
        self.spec = spec
        self.names = value_names(spec)[:MOST_OBSERVED]
        size = 1 if spec.action.discrete else spec.action.size
        self.actions = min(size, MOST_NUMBERS - 2 * len(self.names))
        self.every = len(value_names(spec)), size

    def header(self) -> Iterator[str]:
        observed = len(self.names)
        cut = [
            f"{shown} of {every} numbers {what}"
            for shown, every, what in (
                (observed, self.every[0], "observed"),
                (self.actions, self.every[1], "of an action"),
            )
            if shown < every
        ]
        if cut:
            yield f"shown: {', '.join(cut)}; errors are those of all"
        groups = [
            ("", STEP_WIDTH),
            ("action", self.actions * WIDTH),
            ("observed", observed * WIDTH),
            ("dreamed", observed * WIDTH),
            ("reward", 2 * WIDTH),
        ]
        yield "".join(_over(title, width) for title, width in groups).rstrip()
        acted = [str(i) for i in range(self.actions)] if self.actions > 1 else [""]
        columns = [*acted, *self.names, *self.names, "real", "dreamed", "error"]
        yield "step".rjust(STEP_WIDTH) + "".join(map(format_heading, columns))

    def line(self, moment: ComparedStep) -> str:
        dreamed = moment.dreamed
        action = np.atleast_1d(moment.action)[: self.actions]
        cells = [*action.tolist(), *self._observed(moment.observation)]
        if dreamed is None:
            cells += [None] * len(self.names) + [moment.reward, None, None]
        else:
            cells += self._observed(dreamed.observation)
            cells += [moment.reward, dreamed.reward, dreamed.error]
        return str(moment.step).rjust(STEP_WIDTH) + "".join(map(format_number, cells))

    def _observed(self, observation: dict[str, np.ndarray]) -> Sequence[float]:
        return flatten_observation(observation, self.spec)[: len(self.names)].tolist()


def _over(title: str, width: int) -> str:
    """A title over columns, with a rule to their left and right ends."""
    return f" {title.center(width - 1, '-') if title else ' ' * (width - 1)}"
