"""Handles a loss that is no longer finite: training stops, or rolls back to the last checkpoint and
continues with other batches and other noise.

Rollbacks are reproducible: the number of batches that were skipped is part of the checkpoint.
"""

from __future__ import annotations

import json
import time
from typing import NamedTuple

import numpy as np

from worldmodel.errors import MAX_ERRORS_SHOWN, DivergenceError
from worldmodel.runs.directory import RunDirectory
from worldmodel.system.storage import raise_storage_errors

MAX_ROLLBACKS = 3  # in a row, without a new checkpoint


class Diverged(Exception):
    """A metric is no longer finite.

    metric, value, step: the first one
    dispatch_end: the step after the call to the device that it was in
    """

    def __init__(self, metric: str, value: float, step: int, dispatch_end: int):
        super().__init__(f"{metric} is {value} at step {step}")
        self.metric, self.value, self.step, self.dispatch_end = metric, value, step, dispatch_end


def check_finite(step: int, metrics: dict[str, np.ndarray]) -> None:
    """Raises Diverged for the first update with a metric that is not finite. `metrics` (updates,)
    end at `step`. Of several metrics, a loss is named first.
    """
    indices = {name: np.flatnonzero(~np.isfinite(values)) for name, values in metrics.items()}
    first = {name: int(where[0]) for name, where in indices.items() if len(where)}
    if first:
        name = min(first, key=lambda n: (first[n], not n.startswith("loss/"), n))
        values, index = metrics[name], first[name]
        raise Diverged(name, float(values[index]), step - len(values) + index + 1, step)


class DivergenceEvent(NamedTuple):
    """A divergence of a stage.

    windows: descriptions of the windows in the batch
    source: of the data
    checkpoint: the last good one (0: the initial parameters)
    """

    stage: str
    divergence: Diverged
    windows: list[str]
    source: str
    checkpoint: int

    def write(self, directory: RunDirectory, outcome: str) -> None:
        """Adds a line to divergences.jsonl, with every window of the batch."""
        if not directory.is_writer:
            return
        line = {
            "time": time.time(), "stage": self.stage, "step": self.divergence.step,
            "metric": self.divergence.metric, "value": str(self.divergence.value),
            "checkpoint": self.checkpoint, "outcome": outcome, "windows": self.windows,
        }  # fmt: skip
        path = directory.path / "divergences.jsonl"
        with raise_storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def error(self, group: str, rollback: bool) -> DivergenceError:
        """The message for the user.

        group: where the options of the stage are set
        rollback: whether rollbacks were tried
        """
        lines, more = self.windows[:MAX_ERRORS_SHOWN], len(self.windows) - MAX_ERRORS_SHOWN
        if more > 0:
            lines = [*lines, f"... and {more} more, in divergences.jsonl"]
        attempts = f" after {MAX_ROLLBACKS} rollbacks to it" if rollback else ""
        remedy = "" if rollback else "training.on_divergence=rollback skips such batches; "
        return DivergenceError(
            f"{self.stage}: {self.divergence}. Training stopped{attempts}; "
            f"the last good checkpoint is {self.checkpoint or 'none yet'}.\n"
            f"{remedy}a lower {group}.learning_rate, or float32, may help.\n"
            f"The batch of that step, from {self.source}:\n  " + "\n  ".join(lines)
        )
