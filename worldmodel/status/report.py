"""`python -m worldmodel.status [RUN...]`: what runs are doing, from their folders alone.

A RUN is a run's folder, or a folder of runs (default: runs/). Nothing is written, and JAX is not
imported, so the command is fast and can be repeated (`watch -n 5 ...`).
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from worldmodel.config.arguments import HELP_FLAGS, Arguments
from worldmodel.errors import CheckpointError, ConfigError, printable

MISSED_BEATS = 6  # after which a run whose process cannot be checked counts as dead
MAX_BYTES = 2**20  # of a heartbeat; a longer file is none
COLUMNS = ("run", "state", "stage", "step", "rate", "checkpoint", "since", "")


def main(words: Sequence[str]) -> int:
    arguments = Arguments.parse(words, positional=True)
    if arguments.has(HELP_FLAGS):
        print(__doc__)
        return 0
    if arguments.options:
        raise ConfigError(f"{arguments.options[0]}: unexpected option; accepts run directories")
    rows = [row_of(run, time.time()) for run in runs_in(arguments.positional or ["runs"])]
    for line in table(rows):
        print(line)
    return 0


def runs_in(words: Iterable[str]) -> list[Path]:
    """The folders of runs that `words` name. Raises CheckpointError where there are none."""
    return [run for word in words for run in _runs(Path(word))]


def _runs(path: Path) -> Iterator[Path]:
    if os.path.isfile(path / "config.yaml"):  # False also for a name that no file can have
        yield path
        return
    below = sorted(p.parent for p in path.glob("*/config.yaml") if os.path.isfile(p))
    if not below:
        raise CheckpointError(f"{path} is not a run (config.yaml is missing) and contains no runs")
    yield from below


def row_of(run: Path, now: float) -> tuple[str, ...]:
    """The cells of one run, as a terminal shows them. Damaged files give a row too."""
    beat = read_heartbeat(run)
    state, note = run_state(beat, now)
    checkpoint = _dict(beat.get("checkpoint"))
    step, total, rate = (_number(beat.get(key)) for key in ("step", "total", "rate"))
    saved = _number(checkpoint.get("step"))
    progress = _number(beat.get("last_progress")) or _number(beat.get("time"))
    cells = (
        run,
        state,
        beat.get("stage", "-"),
        f"{step:.0f}/{total:.0f}" if step is not None and total else "-",
        f"{rate:.1f}/s" if rate is not None else "-",
        f"{checkpoint.get('stage')}/{saved:.0f}" if saved is not None else "-",
        _ago(now - progress) if progress is not None else "-",
        note,
    )
    return tuple(map(printable, cells))


def read_heartbeat(run: Path) -> dict[str, Any]:
    """The contents of heartbeat.json; empty if it is missing or damaged."""
    file = run / "heartbeat.json"
    try:
        if not file.is_file() or file.stat().st_size > MAX_BYTES:  # a pipe would never end
            return {}
        return _dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def run_state(beat: dict[str, Any], now: float) -> tuple[str, str]:
    """alive, stopped, finished, failed, dead or unknown, and a note about it."""
    state, written = beat.get("state"), _number(beat.get("time"))
    if state in ("finished", "stopped", "failed"):
        return state, str(beat.get("error", ""))
    if state != "running" or written is None:
        return "unknown", "heartbeat.json is missing or damaged"
    phase = beat.get("phase", "")
    where = f"pid {beat.get('pid')} on {beat.get('host')}"
    if _is_gone(beat):
        return "dead", f"{where} has ended; last phase: {phase}"
    silent = now - written
    if silent > MISSED_BEATS * (_number(beat.get("every_seconds")) or 5.0):
        return "dead", f"no heartbeat for {_ago(silent)} from {where}; last phase: {phase}"
    return "alive", f"{phase}; {where}"


def _is_gone(beat: dict[str, Any]) -> bool:
    """Whether the process ran on this machine and has ended."""
    pid = _number(beat.get("pid"))
    if beat.get("host") != socket.gethostname() or pid is None or not 0 < pid < 2**31:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Lines with aligned columns."""
    lines = [COLUMNS, *rows]
    widths = [max(len(row[i]) for row in lines) for i in range(len(COLUMNS))]
    for row in lines:
        yield "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _number(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and abs(value) < 1e15 else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
