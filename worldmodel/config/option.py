"""One option: a typed field with a line of help and what it accepts."""

from __future__ import annotations

import dataclasses
from typing import Any


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    sampling: bool = False,
) -> Any:
    """A dataclass field with one line of help and what it accepts (`low`, `high`: inclusive).

    On a list, limits and choices hold for every element. `sampling` marks options of a model that
    change how it imagines and not what it learns: a trained model may be used with other values.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "sampling": sampling}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
