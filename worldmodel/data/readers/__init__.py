"""One file a format. A reader turns its options into `Trajectories`; `load` finds and checks it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldmodel.config import DataOptions, GymnasiumData, TFDSData
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.validation import validate
from worldmodel.errors import DataError

# Options -> "module:function", imported on use: a format's library may be slow, or not installed.
READERS: dict[type[DataOptions], str] = {
    GymnasiumData: "worldmodel.data.readers.gymnasium:read",
    TFDSData: "worldmodel.data.readers.tfds:read",
}


def load(options: DataOptions) -> Trajectories:
    """Reads the logs that `options` describe, and checks them. Raises DataError."""
    trajectories = _reader(options)(options)
    validate(trajectories)
    return trajectories


def existing_path(options: DataOptions, accepted: str) -> Path:
    """`options.path`, if something is there. Raises DataError, which says what is `accepted`."""
    if not options.path:
        raise DataError(f"data.path is not set; data={options.name} reads {accepted}")
    path = Path(options.path).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist; data={options.name} reads {accepted}")
    if path.is_dir() and not any(path.iterdir()):
        raise DataError(f"{path} is empty; data={options.name} reads {accepted}")
    return path


def _reader(options: DataOptions) -> Callable[[Any], Trajectories]:
    for kind in type(options).__mro__:
        if kind in READERS:
            module, function = READERS[kind].split(":")
            return getattr(importlib.import_module(module), function)
    known = ", ".join(kind.__name__ for kind in READERS)
    raise DataError(f"no reader takes {type(options).__name__}; accepted: {known}")
