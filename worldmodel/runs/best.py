"""Which checkpoints of a stage stay: the newest few, and the best by a metric of its rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo, PreservationContext

from worldmodel.config import StageOptions
from worldmodel.errors import ConfigError, did_you_mean
from worldmodel.runs import integrity

Values = dict[int, float | None]  # by step; None where it is not known


@dataclasses.dataclass(frozen=True)
class BestMetric:
    """How checkpoints are compared: by the last complete row of metrics.jsonl at each."""

    metric: str
    mode: str = "min"  # or max

    def value(self, metrics: dict[str, float]) -> float | None:
        value = metrics.get(self.metric)
        return value if value is not None and math.isfinite(value) else None

    def best_step(self, values: Values) -> int | None:
        """The step of the best, the newest of equals; None if no value is known."""
        sign = -1 if self.mode == "max" else 1
        known = {step: sign * value for step, value in values.items() if value is not None}
        return min(known, key=lambda step: (known[step], -step), default=None)

    def values(self, folder: Path) -> Values:
        """Of the checkpoints in `folder`."""
        return {
            step: self.value(_metrics(folder / str(step))) for step in integrity.checkpoint_steps(folder)
        }


def best_metric_from(options: StageOptions) -> BestMetric | None:
    """What a stage's options ask for, if anything."""
    return BestMetric(options.best_metric, options.best_mode) if options.best_metric else None


def check_metric(best: BestMetric | None, group: str, names: Collection[str]) -> None:
    """Raises ConfigError if the stage whose options are `group` has no such metric."""
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
    """Orbax's policy: the newest `max_to_keep` stay, and the best by `values`."""

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
        best = self.best and self.best.best_step({step: self.values.get(step) for step in steps})
        return [step in (*sorted(steps)[-self.max_to_keep :], best) for step in steps]
