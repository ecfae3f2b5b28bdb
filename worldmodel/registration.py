"""Gymnasium's id of the dream. Nothing heavy is imported here, and Gymnasium not before it is
asked for: that takes longer than all that a command needs to report a mistake.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ID = "worldmodel/Dream-v0"
MADE_BY = "worldmodel.loading:dreamed"  # of one and of many: `num_envs` tells


def register() -> None:
    """Makes the id known to Gymnasium: now if it is imported, else when it is."""
    if "gymnasium" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _OnceImported())


def _register() -> None:
    import gymnasium

    if ID not in gymnasium.registry:
        gymnasium.register(ID, entry_point=MADE_BY, vector_entry_point=MADE_BY)


class _OnceImported(MetaPathFinder):
    """Finds nothing itself; whoever finds Gymnasium also registers, after its import."""

    asking_others = False

    def find_spec(
        self, name: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "gymnasium" or self.asking_others:
            return None
        self.asking_others = True
        try:
            found = importlib.util.find_spec(name)
        finally:
            self.asking_others = False
        if found is None or found.loader is None:
            return found
        execute = found.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            sys.meta_path.remove(self)
            execute(module)
            _register()

        found.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return found
