"""A run's folder: what lies where, and when a command may go on in it.

config.yaml, spec.json, metrics.jsonl, summary.json, checkpoints/STAGE/STEP/, evaluation/.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.config import Config
from worldmodel.config_io import differences, load_config, save_config
from worldmodel.data.spec import DataSpec
from worldmodel.errors import CheckpointError, ConfigError
from worldmodel.storage import write_text, writing


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside one run, and its small files."""

    path: Path

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    def checkpoints(self, stage: str) -> Path:
        return self.path / "checkpoints" / stage

    def config(self) -> Config:
        return load_config(self.path / "config.yaml")

    def spec(self) -> DataSpec:
        return DataSpec.from_json(self._read("spec.json")["spec"])

    def summary(self) -> dict[str, Any]:
        """What is known of the stages so far; empty before the first has ended."""
        return self._read("summary.json") if (self.path / "summary.json").exists() else {}

    def write_summary(self, stage: str, entry: dict[str, Any]) -> None:
        summary = self.summary()
        summary.setdefault("stages", {})[stage] = entry
        write_json(self.path / "summary.json", summary)

    def bind_data(
        self, spec: DataSpec, fingerprint: str, held_out: list[int] | None = None
    ) -> None:
        """Notes what the run is trained on, or refuses other data than it began with.

        `held_out` are the numbers of the episodes that are kept from training.
        """
        if not (self.path / "spec.json").exists():
            noted = {"spec": spec.to_json(), "fingerprint": fingerprint, "held_out": held_out}
            write_json(self.path / "spec.json", noted)
        elif self._read("spec.json")["fingerprint"] != fingerprint:
            raise ConfigError(
                f"{self.path}: the logs are not those this run began with.\n"
                "Give the run another name (name=...), or start over with fresh=true."
            )

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{self.path / name} cannot be read: {error}") from None


def check_run(config: Config) -> None:
    """Raises ConfigError if a run's folder holds anything but a run of this config."""
    path = Path(config.runs_dir) / config.name
    if config.fresh or not path.exists():
        return
    if (path / "config.yaml").exists():
        changed = differences(RunDirectory(path).config(), config)
        if changed:
            raise ConfigError(
                f"{path} holds a run with other options (there -> here):\n  "
                + "\n  ".join(changed)
                + "\nGive this one another name (name=...), or start over with fresh=true."
            )
    elif any(path.iterdir()):
        raise ConfigError(f"{path} is not empty and holds no run; give another name with name=...")


def open_run(config: Config) -> RunDirectory:
    """The folder of a training run: new, or one whose config is the same (see `check_run`).

    With `fresh` an older run is moved aside, never deleted.
    """
    check_run(config)
    path = Path(config.runs_dir) / config.name
    if config.fresh and path.exists():
        number = 1
        while (aside := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        with writing(aside):
            path.rename(aside)
    save_config(config, path / "config.yaml")
    return RunDirectory(path)


def find_run(path: str | Path) -> RunDirectory:
    """The folder of an existing run."""
    path = Path(path)
    if not (path / "config.yaml").is_file():
        siblings = path.parent.glob("*/config.yaml") if path.parent.is_dir() else ()
        known = ", ".join(sorted(str(p.parent) for p in siblings)) or "none"
        raise CheckpointError(f"{path} holds no run (config.yaml is missing). Runs there: {known}")
    return RunDirectory(path)


def write_json(path: Path, value: Any) -> None:
    """Writes a file so that it is there whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")
