"""What becomes of a stage whose loss is no longer finite: it stops, or goes on from its last
checkpoint with other batches and other noise.

Going on is as reproducible as the rest: how many batches were skipped is part of the checkpoint.
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
    """A metric is no longer finite. `updates` are those of the call it was found in."""

    def __init__(self, metric: str, value: float, step: int, dispatch_end: int):
        super().__init__(f"{metric} is {value} at step {step}")
        self.metric, self.value, self.step, self.dispatch_end = metric, value, step, dispatch_end


def check_finite(step: int, metrics: dict[str, np.ndarray]) -> None:
    """Raises Diverged for the first update that is not finite; `metrics` (updates,) end at `step`.

    Of several metrics, that of the loss is named: it tells most.
    """
    bad = {name: np.flatnonzero(~np.isfinite(values)) for name, values in metrics.items()}
    bad = {name: int(where[0]) for name, where in bad.items() if len(where)}
    if bad:
        name = min(bad, key=lambda n: (bad[n], not n.startswith("loss/"), n))
        first = step - len(metrics[name]) + bad[name] + 1
        raise Diverged(name, float(metrics[name][bad[name]]), first, step)


class DivergenceEvent(NamedTuple):
    """A divergence: what was seen in which stage, in the batch of which windows, and the checkpoint
    that is left (0: the initial parameters).
    """

    stage: str
    divergence: Diverged
    windows: list[str]
    source: str
    checkpoint: int

    def note(self, directory: RunDirectory, outcome: str) -> None:
        """A line in divergences.jsonl, with every window of the batch; by one process for all."""
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
        """What the user is told; `group` holds the stage's options."""
        count = len(self.windows)
        more = count - MAX_ERRORS_SHOWN
        lines = self.windows[:MAX_ERRORS_SHOWN] + (
            [f"... and {more} more, in divergences.jsonl"] if more > 0 else []
        )
        tried = f" after {MAX_ROLLBACKS} rollbacks to it" if rollback else ""
        ways = "" if rollback else "training.on_divergence=rollback skips batches; "
        return DivergenceError(
            f"{self.stage}: {self.divergence}. Training stopped{tried}; "
            f"the last good checkpoint is {self.checkpoint or 'none yet'}.\n"
            f"{ways}a lower {group}.learning_rate, or float32, may help.\n"
            f"The batch of that step was, from {self.source}:\n  " + "\n  ".join(lines)
        )
