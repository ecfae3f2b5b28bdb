"""Sweeps as users run them: errors, optimizing sweepers, and the table at the end. The job is a toy
whose return is a function of its options.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from scripts import Done, run_in_one_process, run_script

from worldmodel.cli.sweep import plan_sweep
from worldmodel.cli.sweep_summary import JobResult, table
from worldmodel.config import EvaluationOptions
from worldmodel.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
JOB = """
import sys
from pathlib import Path
from worldmodel.cli.train import run_training
from worldmodel.system.storage import write_json

def job(config):
    print("ran", config.name)
    policy = config.policy
    value = config.seed + policy.discount * 100 - abs(policy.horizon - 7)
    number = {"value": value, "low": value - 1, "high": value + 1, "n": 4, "method": "by hand"}
    results = {"returns": {"policy": number}}
    folder = Path(config.runs_dir) / config.name / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", results)

if __name__ == "__main__":
    sys.exit(run_training(job, __file__, "A job."))
"""
needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="the extra `sweep` is not installed"
)
needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="the extra `slurm` is not installed"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "configs").symlink_to(CONFIGS)
    (tmp_path / "train.py").write_text(JOB)
    return tmp_path


def train(folder: Path, *words: str) -> Done:
    """In a process of its own: Hydra closes the streams that libraries log to."""
    return run_in_one_process({"train": ("train.py", *words)}, folder)["train"]


def train_process(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def result(run: str, value: float, *settings: str) -> JobResult:
    number = {"value": value, "low": value - 1, "high": value + 1, "n": 4, "method": "by hand"}
    return JobResult(run, ["data=pendulum", *settings], number)


# ----------------------------------------------------------------------------------- the table


def test_jobs_that_differ_by_their_seed_are_a_row_with_an_interval_over_seeds() -> None:
    returns = np.random.default_rng(0).normal(50, 10, 8)
    jobs = [result(f"a-{i}", value, "policy=a", f"seed={i}") for i, value in enumerate(returns)]
    row = row_of(table([*jobs, result("b-0", 1.0, "policy=b", "seed=0")], EvaluationOptions()), 0)
    value, low, high = (float(x) for x in re.findall(r"[\d.]+", row[2]))
    assert row[0] == "policy=a" and row[1].count("a-") == 8 and row[3] == "8"
    assert "over 8 seeds" in row[4]
    assert "little of how another would do" not in table(jobs, EvaluationOptions())
    several = {
        "value": 1.0,
        "low": 0.0,
        "high": 2.0,
        "n": 5,
        "method": "mean over 5 training seeds",
        "sample_unit": "training seeds",
    }
    assert "little of" not in table([JobResult("c", ["seed=0"], several)], EvaluationOptions())
    error = returns.std() / np.sqrt(8)  # of the mean; the bootstrap's interval is near 1.96 of it
    assert value == pytest.approx(returns.mean(), abs=0.1)
    assert low == pytest.approx(returns.mean() - 1.96 * error, abs=error / 2)
    assert high == pytest.approx(returns.mean() + 1.96 * error, abs=error / 2)


def test_a_single_run_keeps_the_interval_of_its_episodes_and_the_best_row_comes_first() -> None:
    jobs = [result(f"{i}", 10.0 * i, f"policy.horizon={i}", "seed=0") for i in (1, 3, 2)]
    text = table([*jobs, jobs[0]], EvaluationOptions())  # the first setting is repeated
    assert [row_of(text, k)[0] for k in range(3)] == [f"policy.horizon={i}" for i in (3, 2, 1)]
    assert row_of(text, 2) == ["policy.horizon=1", "1", "10.0 [9.00, 11.0]", "4", "by hand"]
    assert "# Return of the policy: data=pendulum seed=0" in text


def row_of(text: str, number: int) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [cell.strip() for cell in lines[1 + number].strip("|").split("|")]


def test_a_sweep_ends_with_the_table_of_its_own_jobs(folder: Path) -> None:
    words = ["-m", "policy.discount=0.5,0.9", "seed=0,1", "name=${policy.discount}-${seed}"]
    commands = {
        "earlier": ("train.py", "-m", "seed=8,9"),
        "sweep": ("train.py", words[0], "policy.horizon=7", *words[1:]),
    }
    earlier, done = run_in_one_process(commands, folder).values()
    assert earlier.returncode == done.returncode == 0, done.stderr
    kept = (folder / "runs" / ".multirun" / "summary.md").read_text()
    assert kept in done.stdout
    rows = [row_of(kept, k) for k in range(2)]
    assert [row[0] for row in rows] == ["policy.discount=0.9", "policy.discount=0.5"]
    assert [row[2].split()[0] for row in rows] == ["90.5", "50.5"]
    assert len(kept.splitlines()) == 8
    assert kept.splitlines()[-1].startswith("2 training seeds say little")
    assert kept.startswith("# Return of the policy: policy.horizon=7\n")


# -------------------------------------------------------------------- what files may sweep over


def test_values_on_the_command_line_replace_those_swept_over_by_a_file() -> None:
    words = plan_sweep(CONFIGS, ["experiment=seeds", "seed=7"]).words
    assert "policy=bc,td3_bc,iql" in words and not any("range" in word for word in words)
    words = plan_sweep(CONFIGS, ["experiment=seeds", "seed=1,2", "policy=bc"]).words
    assert words[:3] == ["experiment=seeds", "seed=1,2", "policy=bc"] and len(words) == 4


@pytest.mark.slow
def test_each_job_of_a_file_that_sweeps_runs_once(folder: Path) -> None:
    done = train(folder, "-m", "experiment=seeds", "seed=0,3", "policy=td3_bc,iql")
    assert done.returncode == 0, done.stderr
    ran = re.findall(r"ran (\S+)", done.stdout)
    assert sorted(ran) == [f"pendulum-observed-{p}-{s}" for p in ("iql", "td3_bc") for s in (0, 3)]


def test_a_file_that_sweeps_needs_multirun(folder: Path) -> None:
    done = run_script("train.py", "experiment=seeds", cwd=folder)
    assert done.returncode == 2 and "sweep over policy, seed: add --multirun" in done.stderr


# --------------------------------------------------------------------------- optimising sweepers


@pytest.mark.parametrize(
    "word",
    ["hydra/sweeper=optuna", "hydra/launcher=submitit_slurm", "hydra/launcher=nonesuch"],
)
def test_a_plugin_that_is_not_installed_is_named(word: str) -> None:
    if importlib.util.find_spec(word.partition("=")[2].partition("_")[0]):
        pytest.skip("it is installed")
    with pytest.raises(ConfigError, match=f"{word}: no such plugin"):
        plan_sweep(CONFIGS, [word, "seed=0,1"])


@pytest.mark.slow
@needs_optuna
def test_a_search_finds_the_best_return_and_is_reproducible(folder: Path) -> None:
    words = ["-m", "experiment=search", "policy=mopo", "hydra.sweeper.n_trials=3"]
    first, second = (train(folder, *words) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr
    ran = re.findall(r"ran (\S+)", first.stdout)
    assert len(set(ran)) == 3 and ran == re.findall(r"ran (\S+)", second.stdout)
    kept = folder / "runs" / ".multirun"
    best = yaml.safe_load((kept / "optimization_results.yaml").read_text())
    horizons = [int(name.split("-")[3]) for name in ran]
    nearest = min(horizons, key=lambda horizon: abs(horizon - 7))
    assert abs(best["best_params"]["policy.horizon"] - 7) == abs(nearest - 7)
    assert (
        f"policy.horizon={best['best_params']['policy.horizon']}"
        in row_of((kept / "summary.md").read_text(), 0)[0]
    )


@needs_optuna
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["policy=none"], "maximizes the return"),
        (["policy=actor_critic", "policy.horizon=int(interval(0,9))"], "policy.horizon=0"),
    ],
)
def test_a_search_with_errors_is_refused_before_it_starts(words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        plan_sweep(CONFIGS, ["hydra/sweeper=optuna", *words])


@needs_optuna
def test_the_ends_of_an_interval_are_checked_before_the_first_job() -> None:
    words = ["experiment=search", "policy.penalty=ensemble_std", "model.num_members=7"]
    assert plan_sweep(CONFIGS, words).first.policy.horizon == 1
    with pytest.raises(ConfigError, match="policy.penalty_scale=-1"):
        plan_sweep(CONFIGS, [*words, "policy.penalty_scale=interval(-1.0,2.0)"])


# ------------------------------------------------------------------------------- jobs in a queue

STOPPED_ONCE = """
import signal, sys
from pathlib import Path
from worldmodel.cli.train import run_training

def job(config):
    for number in (signal.SIGTERM, signal.SIGUSR2):  # handled as in a run, then restored
        earlier = signal.signal(number, lambda *_: None)
        signal.raise_signal(number)
        signal.signal(number, earlier)
    with Path(f"{config.seed}.txt").open("a") as file:
        file.write("started\\n")
    return 75 if Path(f"{config.seed}.txt").read_text().count("started") < 2 else config.seed

if __name__ == "__main__":
    sys.exit(run_training(job, __file__, "A job."))
"""
QUEUED = ("-m", "hydra/launcher=submitit_local")


@pytest.mark.slow
@needs_submitit
def test_queued_jobs_end_with_the_same_table(folder: Path) -> None:
    words = ("policy.discount=0.5,0.9", "seed=0,1", "name=${policy.discount}-${seed}")
    done = train_process(folder, *QUEUED, *words)
    assert done.returncode == 0, done.stderr
    kept = (folder / "runs" / ".multirun" / "summary.md").read_text()
    rows = [row_of(kept, k) for k in range(2)]
    assert [row[0] for row in rows] == ["policy.discount=0.9", "policy.discount=0.5"]
    assert kept in done.stdout


@pytest.mark.slow
@needs_submitit
def test_a_job_stopped_after_saving_is_requeued(folder: Path) -> None:
    (folder / "train.py").write_text(STOPPED_ONCE)
    done = train_process(folder, *QUEUED, "seed=0")
    assert done.returncode == 0, done.stderr
    assert (folder / "0.txt").read_text() == "started\n" * 2
    failed = train_process(folder, *QUEUED, "seed=3")  # the status of a job that was not stopped
    assert failed.returncode != 0 and "exit status 3" in failed.stderr
