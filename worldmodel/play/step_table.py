"""One line per step, at most 100 columns wide: action, observation, dream, rewards and error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
MAX_OBSERVED = 3  # values of an observation, real and dreamed
MAX_VALUES = 7  # of observations and action: with two rewards and the error, 96 columns


class StepTable:
    """The lines of a live comparison on data like `spec`."""

    def __init__(self, spec: DataSpec):
        self.spec = spec
        self.names = value_names(spec)[:MAX_OBSERVED]
        size = 1 if spec.action.discrete else spec.action.size
        self.actions = min(size, MAX_VALUES - 2 * len(self.names))
        self.totals = len(value_names(spec)), size

    def header(self) -> Iterator[str]:
        observed = len(self.names)
        cut = [
            f"{count} of {total} {name}"
            for count, total, name in (
                (observed, self.totals[0], "observed values"),
                (self.actions, self.totals[1], "action dimensions"),
            )
            if count < total
        ]
        if cut:
            yield f"showing {' and '.join(cut)}; errors are over all of them"
        groups = [
            ("", STEP_WIDTH),
            ("action", self.actions * WIDTH),
            ("observed", observed * WIDTH),
            ("dreamed", observed * WIDTH),
            ("reward", 2 * WIDTH),
        ]
        yield "".join(_group_title(title, width) for title, width in groups).rstrip()
        actions = [str(i) for i in range(self.actions)] if self.actions > 1 else [""]
        columns = [*actions, *self.names, *self.names, "real", "dreamed", "error"]
        yield "step".rjust(STEP_WIDTH) + "".join(map(format_heading, columns))

    def line(self, step: ComparedStep) -> str:
        dreamed = step.dreamed
        action = np.atleast_1d(step.action)[: self.actions]
        cells = [*action.tolist(), *self._values(step.observation)]
        if dreamed is None:
            cells += [None] * len(self.names) + [step.reward, None, None]
        else:
            cells += self._values(dreamed.observation)
            cells += [step.reward, dreamed.reward, dreamed.error]
        return str(step.step).rjust(STEP_WIDTH) + "".join(map(format_number, cells))

    def _values(self, observation: Mapping[str, np.ndarray]) -> Sequence[float]:
        return flatten_observation(observation, self.spec)[: len(self.names)].tolist()


def _group_title(title: str, width: int) -> str:
    """A title centered over its columns, with a rule on both sides."""
    return f" {title.center(width - 1, '-') if title else ' ' * (width - 1)}"
