"""Compiled programs cached on disk, so that a second start does not compile."""

from __future__ import annotations

from pathlib import Path

import jax

from worldmodel.system.storage import make_directory


def enable_compilation_cache(folder: str | None) -> None:
    """Caches programs that take at least half a second to compile in `folder`; None: no cache."""
    if folder is None:
        return
    path = Path(folder).expanduser()
    make_directory(path)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
