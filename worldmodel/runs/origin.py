"""Whether this user trained a run on this machine: only then are the data sources that its config
names read unasked.

A mark in the run's folder, computed from these options with a key that never leaves the machine,
tells: a folder that came from elsewhere has none, or one that does not fit.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import pwd
import secrets
from dataclasses import asdict
from pathlib import Path

from worldmodel.config import Config
from worldmodel.system.storage import write_text_atomic

MARK, KEY_BYTES = "origin", 32


def mark_own(run: Path, config: Config) -> None:
    """Marks a run as this user's. Without a place for the key it stays unmarked."""
    if (key := _key(create=True)) is not None:
        write_text_atomic(run / MARK, _mark(key, config) + "\n")


def is_own(run: Path, config: Config) -> bool:
    """Whether this user has marked the run, with these options of its data."""
    key, mark = _key(create=False), run / MARK
    try:
        found = mark.read_bytes()[:100].strip() if mark.is_file() else b""
    except OSError:
        return False
    return key is not None and hmac.compare_digest(found, _mark(key, config).encode())


def _mark(key: bytes, config: Config) -> str:
    followed = json.dumps([asdict(config.data), config.evaluation.data], default=str)
    return hmac.new(key, followed.encode(), "sha256").hexdigest()


def _key(create: bool) -> bytes | None:
    """The key of this user, whatever HOME is; None where there is none."""
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
        state = os.environ.get("XDG_STATE_HOME") or os.path.join(home, ".local", "state")
        path = Path(state) / "worldmodel" / "key"
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(secrets.token_hex(8))
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.link(part, path)
            part.unlink()
        key = path.read_bytes()
    except (OSError, KeyError):
        return None
    return key if len(key) == KEY_BYTES else None
