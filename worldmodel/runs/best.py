"""Which checkpoints of a stage are kept: the newest few, and the best by one of its metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo, PreservationContext

from worldmodel.errors import ConfigError, did_you_mean
from worldmodel.runs import integrity

Values = dict[int, float | None]  # step -> metric; None where it is missing or not finite


@dataclasses.dataclass(frozen=True)
class BestMetric:
    """How checkpoints are compared: by the last complete row of metrics.jsonl at each of them."""

    metric: str
    mode: str = "min"  # whether the lowest (`min`) or the highest (`max`) is best

    def value(self, metrics: dict[str, float]) -> float | None:
        value = metrics.get(self.metric)
        return value if value is not None and math.isfinite(value) else None

    def best_step(self, values: Values) -> int | None:
        """The step of the best one, the newest of equals; None without any value."""
        sign = -1 if self.mode == "max" else 1
        costs = {step: sign * value for step, value in values.items() if value is not None}
        return min(costs, key=lambda step: (costs[step], -step), default=None)

    def values(self, folder: Path) -> Values:
        """Of the checkpoints in `folder`."""
        return {
            step: self.value(_metrics(folder / str(step)))
            for step in integrity.checkpoint_steps(folder)
        }


def check_metric(best: BestMetric | None, group: str, names: Collection[str]) -> None:
    """Raises ConfigError unless the metric is one of `names`, those of the stage.

    group: where the stage's options are set
    """
    if best and best.metric not in names:
        raise ConfigError(
            f"{group}.best_metric={best.metric}: accepts one of {', '.join(sorted(names))}"
            f"{did_you_mean(best.metric, names)}"
        )


def _metrics(checkpoint: Path) -> dict[str, float]:
    try:
        return integrity.read_metadata(checkpoint).get("metrics", {})
    except integrity.CorruptCheckpoint:
        return {}


@dataclasses.dataclass
class KeepLatestAndBest:
    """Preservation policy of Orbax: keeps the newest `max_to_keep`, and the best by `values`."""

    max_to_keep: int
    best: BestMetric | None
    values: Values

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        if self.best:
            self.values[step] = self.best.value(metrics)

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> Sequence[bool]:
        steps = [int(info.step) for info in checkpoints]
        kept: list[int | None] = [*sorted(steps)[-self.max_to_keep :]]
        if self.best:
            kept.append(self.best.best_step({step: self.values.get(step) for step in steps}))
        return [step in kept for step in steps]
