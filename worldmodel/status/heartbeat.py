"""heartbeat.json: rewritten every few seconds by a thread of its own, so that it continues while
programs compile and data load. `python -m worldmodel.status` reads it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any

from worldmodel.errors import StorageError
from worldmodel.runs.directory import RunDirectory
from worldmodel.system.storage import write_json

EVERY_SECONDS = 5.0


class Heartbeat:
    """Writes what a run is doing: its state (running, finished, stopped on request, or failed),
    phase, stage, step, total steps, updates per second, and the time of the last progress.

    directory: of the run; None writes nothing
    """

    def __init__(self, directory: RunDirectory | None, every_seconds: float = EVERY_SECONDS):
        self.directory, self.every = directory, every_seconds
        self.facts: dict[str, Any] = {
            "state": "running", "phase": "start", "pid": os.getpid(), "host": socket.gethostname(),
            "started": time.time(), "every_seconds": every_seconds,
        }  # fmt: skip
        self.due, self.ended = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        if directory is not None:
            self.thread.start()

    def enter(self, phase: str, **facts: Any) -> None:
        """Starts a phase, and writes it at once."""
        self.update(phase=phase, **facts)
        self.due.set()

    def update(self, **facts: Any) -> None:
        """Sets what the next beat writes."""
        self.facts = self.facts | facts | {"last_progress": time.time()}

    def end(self, state: str, error: str | None = None) -> None:
        """Writes the last beat; later calls have no effect."""
        if self.directory is None or self.ended.is_set():
            return
        self.ended.set()
        self.due.set()
        if self.thread is not threading.current_thread():
            self.thread.join()
        self.facts = self.facts | {"state": state} | ({"error": error} if error else {})
        self._write()

    def _beat(self) -> None:
        while not self.ended.is_set():
            self.due.clear()
            self._write()
            self.due.wait(self.every)

    def _write(self) -> None:
        if self.directory is None:
            return
        facts = self.facts | {"time": time.time(), "checkpoint": self.directory.latest_checkpoint()}
        with contextlib.suppress(StorageError):  # writing checkpoints reports it
            write_json(self.directory.path / "heartbeat.json", facts)


NO_HEARTBEAT = Heartbeat(None)
