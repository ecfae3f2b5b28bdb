"""Progress of a stage: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class StageProgress:
    """Shows step, rate, loss, remaining time and the share of time spent waiting for data.

    style: `bar`, `plain` (lines), `none`, or `auto` (a bar on a terminal)
    """

    def __init__(self, stage: str, total: int, first: int, style: str):
        self.stage, self.total, self.style = stage, total, style
        if style == "auto":
            self.style = "bar" if sys.stdout.isatty() else "plain"
        self.bar = None
        if self.style == "bar":
            self.bar = Progress(
                TextColumn("{task.description:12s}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=Console(),
            )
            self.task = self.bar.add_task(stage, total=total, completed=first, text="")

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar:
            self.bar.stop()

    def note(self, text: str) -> None:
        """Prints a line about the stage."""
        line = f"{self.stage:12s} {text}"
        if self.bar:
            self.bar.console.print(line)
        elif self.style != "none":
            print(line, flush=True)

    def advance(self, step: int) -> None:
        if self.bar:
            self.bar.update(self.task, completed=step)

    def row(self, step: int, loss: float, rate: float, waiting: float) -> None:
        """Shows a log interval: `rate` in updates per second, `waiting` as a share of the time."""
        text = f"{rate:7.1f}/s  loss {loss:9.3f}  waiting for data {waiting:.0%}"
        if self.bar:
            self.bar.update(self.task, completed=step, text=text)
        elif self.style == "plain":
            left = (self.total - step) / max(rate, 1e-9)
            print(
                f"{self.stage:12s} {step:6d}/{self.total}  {text}  {left:5.0f} s left", flush=True
            )
