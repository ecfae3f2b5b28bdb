"""Learn world models from logged trajectories, and policies in imagination.

    run = worldmodel.load("runs/NAME")                              # a trained run
    run.predict(...); run.evaluate(...); run.dream(...)
    worldmodel.imagine(run.model, start, run.policy, horizon, key)  # rollouts of its model
    worldmodel.register("model", "mine", MyOptions)                 # a family of your own

Names are imported when they are first used, so that reading options does not wait for JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldmodel.config.registry import register
    from worldmodel.data import ActionSpec, DataSpec, Episode, ObservationSpec, Trajectories
    from worldmodel.dream import Dream, DreamEnv, DreamVectorEnv
    from worldmodel.errors import UserError
    from worldmodel.imagination import Rollout, imagine
    from worldmodel.loading import LoadedRun, load
    from worldmodel.models import WorldModel

__version__ = "0.2.0"
__all__ = [
    "ActionSpec",
    "DataSpec",
    "Dream",
    "DreamEnv",
    "DreamVectorEnv",
    "Episode",
    "LoadedRun",
    "ObservationSpec",
    "Rollout",
    "Trajectories",
    "UserError",
    "WorldModel",
    "imagine",
    "load",
    "register",
]

_MODULES = {
    "worldmodel.config.registry": ("register",),
    "worldmodel.data": ("ActionSpec", "DataSpec", "Episode", "ObservationSpec", "Trajectories"),
    "worldmodel.dream": ("Dream", "DreamEnv", "DreamVectorEnv"),
    "worldmodel.errors": ("UserError",),
    "worldmodel.imagination": ("Rollout", "imagine"),
    "worldmodel.loading": ("LoadedRun", "load"),
    "worldmodel.models": ("WorldModel",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'worldmodel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
