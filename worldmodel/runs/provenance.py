"""environment.json: the software and the devices a run was made with.

A list: a run that goes on with other ones gets one more entry.
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
    """Adds an entry, with the checkpoint the run goes on from, unless the last one is the same."""
    path = directory.path / "environment.json"
    entries, now = _entries(path), environment()
    if entries and {key: entries[-1].get(key) for key in now} == now:
        return
    write_json(path, [*entries, {"time": time.time(), "checkpoint": directory.latest_checkpoint()} | now])


def _entries(path: Path) -> list[dict[str, Any]]:
    """What is there; a damaged file is begun anew, since no result depends on it."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    whole = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    return entries if whole else []


def revision(package: Path) -> str | None:
    """The git revision of the checkout that `package` is tracked in, with `+changes` if files that
    are tracked were changed; None where it was installed.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None  # the package lies in the folder of someone else's repository, or in none
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
