"""Hostile sources of data: ways to write them, and what reading them should say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldmodel.config import DataOptions

ROWS = 20
TEN_TB = 10**13

Write = Callable[[Path], DataOptions]


class Source(NamedTuple):
    """A way to write a source into an empty folder, and a part of its refusal; '' if accepted."""

    write: Write
    refusal: str


Kinds = dict[str, tuple[Write, str]]
SOURCES: dict[str, Source] = {}


def add(format: str, kinds: Kinds) -> None:
    SOURCES.update({f"{format}: {name}": Source(*kind) for name, kind in kinds.items()})


def source(name: str, refusal: str) -> Callable[[Write], Write]:
    def register(write: Write) -> Write:
        SOURCES[name] = Source(write, refusal)
        return write

    return register


PROOF = "proof.txt"  # is written by code that came with a dataset
CODE = f"open({PROOF!r}, 'w').write('was run')"


def good(**changes: Any) -> dict[str, Any]:
    """Two truncated episodes of T rows; a change of None leaves an array out."""
    arrays = {
        "observations": np.arange(2.0 * ROWS, dtype=np.float32).reshape(ROWS, 2),
        "actions": np.linspace(-1, 1, ROWS, dtype=np.float32)[:, None],
        "rewards": np.ones(ROWS, np.float32),
        "terminals": np.zeros(ROWS, bool),
        "timeouts": np.arange(ROWS) % 10 == 9,
    } | changes
    return {key: value for key, value in arrays.items() if value is not None}


def edited(file: str, change: Callable[[Any], Any]) -> Callable[[Path], Any]:
    """Replaces the JSON of a file; a change returns what is written, or None if in place."""

    def edit(place: Path) -> None:
        path = place / file
        content = json.loads(path.read_text()) if path.exists() else {}
        changed = change(content)
        path.write_text(json.dumps(content if changed is None else changed))

    return edit
