"""Progress of long work: a bar on a terminal, or else a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from worldmodel.errors import printable

Item = TypeVar("Item")
REPORT_INTERVAL_SECONDS = 5.0


def progress_bar(items: Iterable[Item], count: int | None, task: str) -> Iterator[Item]:
    """Yields the items; `count` is their number if known."""
    task = printable(task)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, task, total=count, console=Console(stderr=True), transient=True)
        return
    began = reported = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - reported > REPORT_INTERVAL_SECONDS:
            of = f" of {count}" if count else ""
            print(
                f"{task}: {number}{of} episodes, {now - began:.0f} s", file=sys.stderr, flush=True
            )
            reported = now
