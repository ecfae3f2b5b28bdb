"""The output of `python -m worldmodel.data list`: formats with their options, and datasets."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from worldmodel.config import DataOptions
from worldmodel.config.option import format_value, iter_options
from worldmodel.config.registry import entries
from worldmodel.data.sources import PREFIX


def catalogue(folder: Path) -> Iterator[str]:
    """Yields lines: the formats with their options, and what each format lists about `folder`."""
    common = {option.key for option, _ in iter_options(DataOptions())}
    yield "Formats (data=NAME) and their own options"
    for name, entry in entries("data").items():
        yield f"  {name:10s} {entry.options.__doc__}"
        lines = describe_options(entry.options(), leave_out=common)
        yield from (f"      {line}" for line in lines)
    yield "\nOptions of all formats"
    yield from (f"      {line}" for line in describe_options(DataOptions(), leave_out={"name"}))
    for entry in entries("data").values():
        if listing := entry.details.get("listing"):
            yield ""
            yield from listing(folder)


def describe_options(
    options: Any, prefix: str = PREFIX, leave_out: Container[str] = ()
) -> Iterator[str]:
    """Yields a line per option: its value, what it does and what it accepts."""
    for option, value in iter_options(options):
        if option.key not in leave_out:
            default = "(required)" if value == MISSING else format_value(value)
            yield f"{prefix}{option.key} = {default}: {option.help} ({option.accepts})"
