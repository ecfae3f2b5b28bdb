"""Where metrics go: always to metrics.jsonl, optionally to Weights & Biases. Nothing here blocks
training.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import netrc
import os
import queue
import re
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from worldmodel.config import LoggingOptions
from worldmodel.errors import first_line
from worldmodel.runs.directory import read_metrics
from worldmodel.system import signals
from worldmodel.system.storage import raise_storage_errors, write_text_atomic

SECRET = re.compile(r"token|passw|secret|credential|api_?key|access_?key", re.IGNORECASE)
URL_CREDENTIALS = re.compile(r"(\w://)[^/\s]+@")


class IntervalMean:
    """Means of per-step metrics over a log interval, which can be saved and restored.

    saved: what `to_json` returned, to continue an interval
    latest: means of the last complete interval
    """

    def __init__(self, saved: dict[str, Any] | None = None, latest: dict[str, float] | None = None):
        self.latest = latest or {}
        self.sums: dict[str, float] = dict(saved["sums"]) if saved else {}
        self.count: int = saved["count"] if saved else 0

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        """Adds the metrics of several steps, each (steps,)."""
        for name, values in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(np.sum(values, dtype=np.float64))
        self.count += len(next(iter(metrics.values())))

    def to_json(self) -> dict[str, Any]:
        return {"sums": self.sums, "count": self.count}

    def pop(self) -> dict[str, float]:
        """Returns the means, and starts a new interval."""
        self.latest = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return self.latest


class MetricsFile:
    """metrics.jsonl: one row per log interval, written by the process that `is_writer`."""

    def __init__(self, path: Path, is_writer: bool = True):
        self.path, self.is_writer = path, is_writer

    def write(self, row: dict[str, Any]) -> None:
        if not self.is_writer:
            return
        with raise_storage_errors(self.path), self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rewind(self, stage: str, step: int) -> None:
        """Removes the rows that a killed run wrote for `stage` after the checkpoint at `step`, and
        an incomplete last row.
        """
        if not self.is_writer or not self.path.exists():
            return
        rows = read_metrics(self.path)
        text = "".join(row.line for row in rows if row.stage != stage or row.step <= step)
        if text != self.path.read_text(encoding="utf-8"):
            write_text_atomic(self.path, text)


class WandB:
    """Sends rows to Weights & Biases from a process of its own: a slow, failing or unreachable
    service loses rows, and never blocks this process or its exit.

    run: folder of the run, whose name is also that of the W&B run
    config: shown there
    """

    def __init__(self, options: LoggingOptions, run: Path, config: dict[str, Any]):
        self.rows: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=10_000)
        self.process = None
        mode = wandb_mode(options)
        if mode == "disabled":
            return
        context = multiprocessing.get_context("spawn")
        receiver, self.sender = context.Pipe(duplex=False)
        arguments = (receiver, mode, options.project, run, without_secrets(config))
        self.process = context.Process(target=_report, args=arguments, daemon=True)
        self.process.start()
        receiver.close()  # only the other process has it, so its end is noticed here
        threading.Thread(target=self._send, name="wandb", daemon=True).start()

    def write(self, row: dict[str, Any]) -> None:
        if self.process is not None:
            with contextlib.suppress(queue.Full):
                self.rows.put_nowait(row)

    def finish(self) -> None:
        """Ends the rows; those that are queued are still sent in the background."""
        if self.process is not None:
            with contextlib.suppress(queue.Full):
                self.rows.put_nowait(None)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Waits for queued rows, but not for long: W&B keeps them in the run's folder."""
        if self.process is not None:
            self.finish()
            self.process.join(timeout_seconds)
            self.process.kill()

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # the other process has ended, and printed why
            while (row := self.rows.get()) is not None:
                self.sender.send(row)
            self.sender.close()


def _report(
    rows: Connection,
    mode: Literal["online", "offline"],
    project: str,
    run: Path,
    config: dict[str, Any],
) -> None:
    """The process of W&B: logs rows until there are no more."""
    signals.ignore()
    del sys.argv[1:]  # W&B would record the command line
    if not os.access(os.path.expanduser("~"), os.W_OK):  # where it would print its log instead
        os.environ.setdefault("WANDB_CACHE_DIR", str(run.absolute() / "wandb"))
    try:
        import wandb

        session = wandb.init(
            project=project, name=run.name, id=run.name, resume="allow", dir=str(run),
            config=config, mode=mode,
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        with contextlib.suppress(EOFError):
            while True:
                row = rows.recv()
                stage = row["stage"]
                session.log({f"{stage}/{name}": v for name, v in row.items() if name != "stage"})
        session.finish()
    except Exception as error:  # whatever W&B does, training continues
        print(f"warning: logging to W&B has stopped: {first_line(error)}", flush=True)


def without_secrets(value: Any, name: str = "") -> Any:
    """A config without what others must not see: credentials in URLs, and the texts of options with
    the name of a secret.
    """
    if isinstance(value, dict):
        return {key: without_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    return "***" if SECRET.search(name) else URL_CREDENTIALS.sub(r"\1***@", value)


def wandb_mode(options: LoggingOptions) -> Literal["online", "offline", "disabled"]:
    """Returns online, offline or disabled: `auto` is online where a key is configured, and disabled
    where wandb is not installed.
    """
    if options.wandb == "disabled" or importlib.util.find_spec("wandb") is None:
        return "disabled"
    online = options.wandb == "online" or options.wandb == "auto" and _has_key()
    return "online" if online else "offline"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
