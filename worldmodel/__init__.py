"""worldmodel: learn latent dynamics from logged trajectories, imagine with them, judge them.

`load` gives a trained run; `imagine` rolls a world model out. Both import JAX when they are first
used, so that reading options stays fast.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"
__all__ = ["imagine", "load"]

_HOMES = {"load": "worldmodel.loading", "imagine": "worldmodel.imagination"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'worldmodel' has no attribute {name!r}")
