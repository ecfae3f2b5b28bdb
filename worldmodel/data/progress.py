"""Progress of work on logs: a bar on a terminal, a line where it took long elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")
TOLD_AFTER_SECONDS = 5.0


def progress_bar(items: Iterable[Item], count: int | None, task: str) -> Iterator[Item]:
    """The same items; `count` is their number where it is known."""
    if sys.stderr.isatty():
        yield from track(items, task, total=count, console=Console(stderr=True), transient=True)
        return
    began = told = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - told > TOLD_AFTER_SECONDS:
            of = f" of {count}" if count else ""
            print(
                f"{task}: {number}{of} episodes, {now - began:.0f} s", file=sys.stderr, flush=True
            )
            told = now
