"""The command lines of train.py and eval.py: help, invalid input, exit statuses and sweeps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from composing import CONFIGS, ROOT
from scripts import Done, run_in_one_process, run_script

from worldmodel.cli.sweep import plan_sweep
from worldmodel.cli.train import run_training
from worldmodel.errors import ConfigError


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_help_is_printed_with_status_0(script):
    done = run_script(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "evaluation.episodes = 50" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("train.py", ["training.world_model.stepz=3"], "'training.world_model.steps'"),
        ("train.py", ["data=pendulm"], "'pendulum'"),
        ("train.py", ["seed=abc"], "integer, 0 to"),
        ("train.py", ["--seed=3"], "options have no dashes: seed=3"),
        ("train.py", ["-m", "seed=0,1,x", "experiment=smoke"], "seed=x: accepts integer"),
        ("eval.py", ["rum=runs/x"], "'run'"),
    ],
)
def test_invalid_input_exits_with_status_2_and_a_few_lines(script, words, expected, tmp_path):
    done = run_script(ROOT / script, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("script", "word"), [("train.py", "seed=abc"), ("eval.py", "rum=runs/x")])
def test_errors_are_found_before_a_device_is_used(script, word, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "none_such"}
    command = [sys.executable, str(ROOT / script), word]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


# --------------------------------------------------------------------------- exit statuses, sweeps

DRIVER = """
import sys
from worldmodel.cli.train import run_training
from worldmodel.errors import DataError

def job(config):
    print("ran", config.name, config.seed)
    if config.seed == 1:
        raise DataError("no logs here")
    if config.seed == 2:
        raise RuntimeError("unexpected")
    return 75 if config.seed == 3 else None

if __name__ == "__main__":
    sys.exit(run_training(job, __file__, "A job."))
"""


def make_driver(folder: Path) -> Path:
    (folder / "configs").symlink_to(CONFIGS)
    (folder / "train.py").write_text(DRIVER)
    return folder


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    return make_driver(tmp_path)


@pytest.mark.parametrize(("seed", "status"), [(0, 0), (1, 2), (2, 1), (3, 75)])
def test_the_exit_status_is_that_of_the_job(driver, monkeypatch, capsys, seed, status):
    def job(config):
        outcomes = {0: None, 1: ConfigError("mend this"), 2: RuntimeError("unexpected"), 3: 75}
        outcome = outcomes[config.seed]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(sys, "argv", ["train.py", f"seed={seed}"])
    if status == 1:  # left to Python: a traceback and status 1
        with pytest.raises(RuntimeError, match="unexpected"):
            run_training(job, str(driver / "train.py"), "")
        return
    assert run_training(job, str(driver / "train.py"), "") == status
    assert capsys.readouterr().err == ("error: mend this\n" if status == 2 else "")


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    """The folder of a job, and what sweeps over these seeds left. Hydra closes the streams that
    libraries log to, so they have a process of their own.
    """
    folder = make_driver(tmp_path_factory.mktemp("sweeps"))
    seeds = ("0,4", "0,1,4", "2,4", "0,3,4")
    commands = {each: ("train.py", "--multirun", f"seed={each}") for each in seeds}
    return folder, run_in_one_process(commands, folder)


@pytest.mark.parametrize(
    ("seeds", "status", "ran"),
    [
        ("0,4", 0, [0, 4]),
        ("0,1,4", 2, [0, 1, 4]),
        ("2,4", 1, [2, 4]),
        ("0,3,4", 75, [0, 3]),
    ],
)
def test_a_sweep_runs_its_jobs_and_reports_failures(sweeps, seeds, status, ran):
    done = sweeps[1][seeds]
    assert done.returncode == status, done.stderr
    assert [int(s) for s in re.findall(r"ran \S+ (\d+)", done.stdout)] == ran


def test_sweeps_leave_no_folders_named_by_a_clock(sweeps):
    folder, _ = sweeps
    left = {p.name for p in folder.iterdir()} - {"configs", "train.py", "__pycache__"}
    assert left == {"runs"}
    assert [p.name for p in (folder / "runs").rglob("*")] == [".multirun", "multirun.yaml"]


def test_a_sweep_with_two_jobs_of_the_same_name_is_refused():
    with pytest.raises(
        ConfigError, match="name=pendulum-rssm-actor_critic-0: jobs .* have the same name"
    ):
        plan_sweep(CONFIGS, ["training.policy.steps=1,2"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=range(0,2)", "policy=glob(n*)", "policy.horizon=5"], "belongs to policy=actor"),
        (["policy=glob(x*)"], "matches no choice"),
        (["seed=range(0,1000000000)"], "accepts at most 10000 values"),
        (["seed=interval(0,3)"], "needs an optimizing sweeper"),
    ],
)
def test_errors_in_a_sweep_are_found_before_its_first_job(words, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        plan_sweep(CONFIGS, words)
