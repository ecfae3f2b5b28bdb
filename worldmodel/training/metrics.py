"""Where metrics go: metrics.jsonl always, Weights & Biases where it is wanted. Nothing here blocks
training.
"""

from __future__ import annotations

import importlib.util
import json
import netrc
import os
import queue
import threading
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.config import LoggingOptions
from worldmodel.run_directory import whole_rows
from worldmodel.storage import write_text, writing


class IntervalMean:
    """Means of per-step metrics over a log interval. Its sums can be saved and taken up again.

    `latest` are the means of the last complete interval.
    """

    def __init__(self, saved: dict[str, Any] | None = None, latest: dict[str, float] | None = None):
        self.latest = latest or {}
        self.sums: dict[str, float] = dict(saved["sums"]) if saved else {}
        self.count: int = saved["count"] if saved else 0

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        """Adds the metrics of some steps, each (steps,)."""
        for name, values in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(np.sum(values, dtype=np.float64))
        self.count += len(next(iter(metrics.values())))

    def saved(self) -> dict[str, Any]:
        return {"sums": self.sums, "count": self.count}

    def take(self) -> dict[str, float]:
        """The means; begins a new interval."""
        self.latest = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return self.latest


class MetricsFile:
    """metrics.jsonl: one row a log interval, whole rows only."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, row: dict[str, Any]) -> None:
        with writing(self.path), self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rewind(self, stage: str, step: int) -> None:
        """Drops what a killed run wrote of `stage` after the checkpoint of `step`, and a half-
        written last row.
        """
        if not self.path.exists():
            return
        rows = whole_rows(self.path)
        kept = "".join(line for name, at, line in rows if name != stage or at <= step)
        if kept != self.path.read_text(encoding="utf-8"):
            write_text(self.path, kept)


class WandB:
    """Sends rows to Weights & Biases from a thread of its own; a slow or failing service only loses
    rows.
    """

    def __init__(self, options: LoggingOptions, run: Path, config: dict[str, Any]):
        self.rows: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=10_000)
        self.thread: threading.Thread | None = None
        mode = wandb_mode(options)
        if mode != "disabled":
            arguments = (mode, options.project, run, config)
            self.thread = threading.Thread(target=self._send, args=arguments, daemon=True)
            self.thread.start()

    def write(self, row: dict[str, Any]) -> None:
        if self.thread is not None and not self.rows.full():
            self.rows.put_nowait(row)

    def close(self, timeout_seconds: float = 10.0) -> None:
        if self.thread is not None:
            self.rows.put(None)
            self.thread.join(timeout_seconds)

    def _send(self, mode: str, project: str, run: Path, config: dict[str, Any]) -> None:
        try:
            import wandb

            session = wandb.init(
                project=project, name=run.name, id=run.name, resume="allow", dir=str(run),
                config=config, mode=mode, settings=wandb.Settings(silent=True, console="off"),
            )  # fmt: skip
            while (row := self.rows.get()) is not None:
                stage = row["stage"]
                session.log({f"{stage}/{name}": v for name, v in row.items() if name != "stage"})
            session.finish()
        except Exception as error:  # whatever W&B does, training goes on
            print(f"W&B is off from here: {error}")


def wandb_mode(options: LoggingOptions) -> str:
    """online, offline or disabled; `auto` is online where a key is configured, and nothing if wandb
    is missing.
    """
    if options.wandb == "disabled" or importlib.util.find_spec("wandb") is None:
        return "disabled"
    if options.wandb != "auto":
        return options.wandb
    return "online" if _has_key() else "offline"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
