"""A run's folder: its files, and when a command may resume in it.

config.yaml, spec.json, metrics.jsonl, summary.json, environment.json, heartbeat.json,
divergences.jsonl, checkpoints/STAGE/STEP/, evaluation/.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from worldmodel.config import Config
from worldmodel.config.io import differences, load_config, read_values, save_config
from worldmodel.data.spec import DataSpec
from worldmodel.errors import CheckpointError, ConfigError, StorageError, first_line
from worldmodel.runs.origin import mark_own
from worldmodel.system.storage import (
    check_writable,
    free_name,
    raise_storage_errors,
    write_json,
)

# What reading a file that holds anything but what was written there can raise.
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside a run's folder, and its small files.

    is_writer: whether this process writes them; of several that train together, one does
    opened: what `path` was when a run was opened there to train
    """

    path: Path
    is_writer: bool = True
    opened: os.stat_result | None = None

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    def checkpoints(self, stage: str) -> Path:
        return self.path / "checkpoints" / stage

    def latest_checkpoint(self) -> dict[str, Any] | None:
        """Stage, step and time of the last complete checkpoint."""
        steps = [p for p in self.path.glob("checkpoints/*/*") if p.name.isdigit()]
        times = {path: _modified(path) for path in steps}
        if not times:
            return None
        path = max(times, key=lambda p: (times[p], int(p.name)))
        return {"stage": path.parent.name, "step": int(path.name), "time": times[path]}

    def config(self) -> Config:
        return load_config(self.path / "config.yaml")

    def spec(self) -> DataSpec:
        """Of the data that the run is trained on."""
        return self._read("spec.json", lambda values: DataSpec.from_json(values["spec"]))

    def fingerprint(self) -> str:
        """Of the data that the run is trained on."""
        return self._read("spec.json", lambda values: _text(values["fingerprint"]))

    def summary(self) -> dict[str, Any]:
        """The contents of summary.json; empty before the first stage has ended."""
        if not (self.path / "summary.json").exists():
            return {}
        return self._read("summary.json", _checked_summary)

    def results(self, part: Callable[[Any], Any]) -> Any:
        """A `part` of the results of the last evaluation, given those of results.json."""
        read_values(self.path / "config.yaml")  # raises for a run of another version
        return self._read("evaluation/results.json", part)

    def episodes(self, part: Callable[[Any], Any]) -> Any:
        """A `part` of the last evaluation's episodes, given the rows of episodes.jsonl."""
        return self._read("evaluation/episodes.jsonl", part, _lines)

    def write_summary(self, stage: str, entry: dict[str, Any]) -> None:
        """Adds the entry of a stage to summary.json."""
        if not self.is_writer:
            return
        summary = self.summary()
        summary.setdefault("stages", {})[stage] = entry
        write_json(self.path / "summary.json", summary)

    def check_in_place(self) -> None:
        """Raises StorageError if the folder was moved or deleted since it was opened to train."""
        with contextlib.suppress(OSError):
            if self.opened is None or os.path.samestat(self.opened, self.path.stat()):
                return
        raise StorageError(
            f"{self.path} was moved or deleted while a run trained in it. Training stopped; where "
            "the folder is now, its last checkpoint is complete. To resume there, set runs_dir and "
            "name accordingly."
        )

    def validate(self) -> None:
        """Raises CheckpointError for files that are not readable, before hours of training."""
        if (self.path / "spec.json").exists():
            self.spec()
            self.fingerprint()
        self.summary()
        read_metrics(self.metrics)
        folder = self.path / "checkpoints"
        for path in (folder, *(folder.iterdir() if folder.is_dir() else ())):
            if path.exists() and not path.is_dir():
                raise CheckpointError(f"{path} is a file and not a folder; move it away")

    def check_dataset(
        self, spec: DataSpec, fingerprint: str, held_out: list[int] | None = None
    ) -> None:
        """Writes spec.json, or raises ConfigError if the run has started with other data.

        held_out: numbers of the episodes that are kept from training
        """
        if not (self.path / "spec.json").exists():
            values = {"spec": spec.to_json(), "fingerprint": fingerprint, "held_out": held_out}
            write_json(self.path / "spec.json", values)
        elif self.fingerprint() != fingerprint:
            raise ConfigError(
                f"{self.path}: the data differ from those that this run has started with.\n"
                "Give the run another name (name=...), or start over with fresh=true."
            )

    def _read(
        self, name: str, part: Callable[[Any], Any], parse: Callable[[str], Any] = json.loads
    ) -> Any:
        """A `part` of the contents of a JSON file."""
        path = self.path / name
        if path.exists() and not path.is_file():  # a pipe would never end
            raise CheckpointError(f"{path} is not a file")
        try:
            return part(parse(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from None
        except DAMAGE as error:
            raise CheckpointError(
                f"{path} is damaged: {type(error).__name__}, {first_line(error)}"
            ) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def _checked_summary(summary: Any) -> dict[str, Any]:
    for name, entry in summary["stages"].items():
        if not isinstance(entry["last_step"], int):
            raise ValueError(f"last_step of {name} is not a number")
    return summary


class MetricsRow(NamedTuple):
    """A row of metrics.jsonl, with its line as it is in the file."""

    stage: str
    step: int
    line: str


def read_metrics(path: Path) -> list[MetricsRow]:
    """The rows of a metrics.jsonl, without an incomplete last one, which a killed run leaves.

    Raises CheckpointError for any other line that is not a row.
    """
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append(MetricsRow(str(row["stage"]), int(row["step"]), line + "\n"))
        except (ValueError, LookupError, TypeError):
            raise CheckpointError(
                f"{path}: row {number} is damaged; delete that line, or start over with fresh=true"
            ) from None
    return rows


def check_resumable(config: Config) -> None:
    """Raises ConfigError if the run's folder contains anything but a run of this config."""
    path = Path(config.runs_dir) / config.name
    _check_path(path)
    if config.fresh or not path.exists():
        return
    if (path / "config.yaml").exists():
        directory = RunDirectory(path)
        changed = differences(directory.config(), config)
        if changed:
            raise ConfigError(
                f"{path} contains a run with other options (there -> here):\n  "
                + "\n  ".join(changed)
                + "\nGive this one another name (name=...), or start over with fresh=true."
            )
        directory.validate()
        for folder in (directory.evaluation, path / "checkpoints", *path.glob("checkpoints/*/")):
            check_writable(folder)
    elif not path.is_dir():
        raise ConfigError(f"{path} is not a folder; choose another name with name=...")
    elif any(path.iterdir()):
        raise ConfigError(f"{path} is not empty and not a run; choose another name with name=...")


def _check_path(path: Path) -> None:
    """Raises UserError if a run cannot be written at this path to its end."""
    try:
        str(path.absolute()).encode()
        (path.absolute() / "checkpoints" / ("x" * 100)).lstat()
    except UnicodeEncodeError:
        raise ConfigError(f"{str(path)!r}: accepts paths that are valid UTF-8") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError(f"{path}: too long; set a shorter runs_dir or name") from None
    check_writable(path, "set runs_dir to a folder that can be written")


def open_run(config: Config, is_writer: bool = True) -> RunDirectory:
    """The folder of a training run: new, or one whose config is the same (see `check_resumable`).

    With `fresh` an older run is moved aside, never deleted. Processes that do not write open the
    folder that the writer has created.
    """
    path = Path(config.runs_dir) / config.name
    if not is_writer:
        if not (path / "config.yaml").exists():
            raise ConfigError(
                f"{path}: not visible to every process; runs_dir has to be on a file system that "
                "all of them share"
            )
        check_resumable(replace(config, fresh=False))
        return RunDirectory(path, is_writer=False, opened=path.stat())
    check_resumable(config)
    if path.exists():
        with run_lock(RunDirectory(path)):
            pass
    if config.fresh and path.exists():
        aside = free_name(path)
        with raise_storage_errors(aside):
            path.rename(aside)
    save_config(config, path / "config.yaml")
    mark_own(path, config)
    return RunDirectory(path, opened=path.stat())


@contextmanager
def run_lock(directory: RunDirectory) -> Iterator[None]:
    """Locks the folder: no other process can train in it inside the block. A lock ends with its
    process, however that ends. On file systems without locks, nothing is locked.

    Raises ConfigError if another process has the lock: each would delete what the other writes.
    """
    if not directory.is_writer:
        yield
        return
    lock = os.open(directory.path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigError(
            f"{directory.path} is in use by another training process (see "
            f"`python -m worldmodel.status {directory.path}`); stop it first, or give this run "
            "another name (name=...)"
        ) from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(lock)


def find_run(path: str | Path) -> RunDirectory:
    """The folder of an existing run. Raises CheckpointError if there is none."""
    path = Path(path)
    if not os.path.isfile(path / "config.yaml"):  # False also for a name that no file can have
        siblings = path.parent.glob("*/config.yaml") if os.path.isdir(path.parent) else ()
        existing = ", ".join(sorted(str(p.parent) for p in siblings)) or "none"
        raise CheckpointError(
            f"{path} is not a run (config.yaml is missing); existing runs: {existing}"
        )
    return RunDirectory(path)


def _modified(path: Path) -> float:
    """When a file was last changed; 0 if it has just been deleted."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
