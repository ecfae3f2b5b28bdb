"""A run of another version is refused in one line, which names both versions, by every command."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import worldmodel
from worldmodel.aggregate.command import run as aggregate
from worldmodel.cli.eval import run_evaluation
from worldmodel.cli.train import run_training
from worldmodel.errors import ConfigError
from worldmodel.play.command import run as play
from worldmodel.status.report import row_of
from worldmodel.system.exit_status import run_cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """The folder of a run with a config.yaml that worldmodel 0.1 wrote."""
    run = tmp_path / "old"
    (run / "evaluation").mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "config_0.1.yaml", run / "config.yaml")
    (run / "evaluation" / "results.json").write_text("{}")
    return run


def train_command(*words: str) -> int:
    from worldmodel.training.run import train

    sys.argv = ["train.py", *words]
    return run_training(lambda config: train(config, lambda run: 0), str(ROOT / "train.py"), "")


def eval_command(*words: str) -> int:
    sys.argv = ["eval.py", *words]
    return run_evaluation(lambda request: worldmodel.load(request.runs[0]) and 0, "")


COMMANDS: dict[str, Callable[[Path], int]] = {
    "train": lambda run: train_command("experiment=smoke", "name=old", f"runs_dir={run.parent}"),
    "eval": lambda run: eval_command(f"run={run}"),
    "eval on other data": lambda run: eval_command(f"run={run}", "data.episodes=3"),
    "play": lambda run: run_cli(lambda: play([f"run={run}"])),
    "aggregate": lambda run: run_cli(lambda: aggregate([f"runs=[{run}]"])),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_run_of_version_0_1(
    old_run: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    before = sorted(old_run.rglob("*"))
    assert COMMANDS[command](old_run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(old_run) in line and worldmodel.__version__ in line
    assert re.search(r"written by worldmodel 0\.1,", line)
    assert sorted(old_run.rglob("*")) == before


def test_status_shows_a_run_of_another_version(old_run: Path) -> None:
    assert row_of(old_run, now=0.0)[:2] == (str(old_run), "unknown")


def test_a_run_of_another_patch_release_is_read_and_of_a_later_release_refused(
    small_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "small"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["version"] == worldmodel.__version__
    major, minor, _ = config["version"].split(".")
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"version": f"{major}.{minor}.99"}))
    assert worldmodel.load(run).stage == "policy"
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"version": f"{major}.99.0"}))
    with pytest.raises(ConfigError, match=rf"worldmodel {major}\.99\.0"):
        worldmodel.load(run)
