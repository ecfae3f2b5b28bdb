"""Compiled programs cached on disk, so that a second start does not compile."""

from __future__ import annotations

import contextlib
import glob
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from worldmodel.errors import StorageError, first_line
from worldmodel.system.storage import make_directory, user_path

DEFAULT_CACHE = "~/.cache/worldmodel/xla"
CACHE_WARNING = r"Error (reading|writing) persistent compilation cache entry for '(.*?)': (.*)"


def enable_compilation_cache(folder: str | None) -> None:
    """Caches programs that take at least half a second to compile in `folder`; None: no cache. A
    folder that cannot be used is reported, and the process continues without a cache.
    """
    import jax

    jax.config.update("jax_enable_compilation_cache", folder is not None)
    if folder is None:
        return
    try:
        path = user_path(folder)
        make_directory(path)
    except StorageError as error:
        jax.config.update("jax_enable_compilation_cache", False)
        _warn(
            f"compiled programs are not cached: {first_line(error)}; "
            "training.compilation_cache=FOLDER names another folder, null none"
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _report_once(path)


def enable_default_compilation_cache() -> None:
    """As `enable_compilation_cache`, for a process that reads runs: in the folder of this user, and
    not in one that a run names, unless this process has chosen one or turned it off.
    """
    import jax

    config: Any = jax.config
    if config.jax_enable_compilation_cache and config.jax_compilation_cache_dir is None:
        enable_compilation_cache(DEFAULT_CACHE)


def _report_once(folder: Path) -> None:
    """In place of JAX's warning for every program that cannot be read or written: one line, and
    entries that are damaged are deleted, since JAX never writes over one.
    """
    show, reported = warnings.showwarning, set()

    def showwarning(message: Warning | str, *rest: Any, **options: Any) -> None:
        match = re.match(CACHE_WARNING, str(message))
        if match is None:
            show(message, *rest, **options)
            return
        action, program, reason = match.groups()
        if action == "reading":
            for entry in folder.glob(f"{glob.escape(program)}-*"):
                with contextlib.suppress(OSError):
                    entry.unlink()
            reason += "; it is compiled again and replaced"
        if action not in reported:
            _warn(f"{action} a compiled program in {folder} has failed: {reason}")
        reported.add(action)

    warnings.filterwarnings("always", message=CACHE_WARNING)
    warnings.showwarning = showwarning


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
