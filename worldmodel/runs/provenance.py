"""environment.json: the software and the devices that a run used.

It is a list: a run that resumes with others gets one more entry.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import jax

import worldmodel
from worldmodel.runs.directory import RunDirectory
from worldmodel.system.storage import write_json

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
GIT_SECONDS = 10.0


def environment() -> dict[str, Any]:
    """Versions, revision, devices and processes of this process."""
    devices = jax.devices()
    return {
        "worldmodel": worldmodel.__version__,
        "revision": revision(Path(worldmodel.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": {"kind": devices[0].device_kind, "count": len(devices)},
        "processes": jax.process_count(),
    }


def note_environment(directory: RunDirectory) -> None:
    """Adds an entry, with the checkpoint that the run resumes from, unless the last is equal."""
    path = directory.path / "environment.json"
    entries, now = _entries(path), environment()
    if entries and {key: entries[-1].get(key) for key in now} == now:
        return
    entry = {"time": time.time(), "checkpoint": directory.latest_checkpoint()} | now
    write_json(path, [*entries, entry])


def _entries(path: Path) -> list[dict[str, Any]]:
    """The entries of the file; none if it is damaged, since no result depends on it."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    valid = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    return entries if valid else []


def revision(package: Path) -> str | None:
    """The git revision of the checkout that tracks `package`, with `+changes` if tracked files were
    changed; None if it is installed elsewhere.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None  # not tracked by the repository that contains it, if any
    head = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return f"{head}+changes" if changes else head


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
