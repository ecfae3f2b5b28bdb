"""Whole jobs as users run them: processes, files and signals."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scripts import run_script

import worldmodel
from worldmodel.cli.eval import parse_eval
from worldmodel.errors import CheckpointError, ConfigError
from worldmodel.status.report import read_heartbeat, run_state

Launch = Callable[..., list[str]]
Words = Callable[..., list[str]]
ROOT = Path(__file__).resolve().parents[2]


NOT_RANKED = (
    "evaluation.policy_ranking.rollouts_per_policy=0",
    "evaluation.policy_ranking.num_start_states=0",
)


def digests(run: Path) -> dict[str, str]:
    stages = json.loads((run / "summary.json").read_text())["stages"]
    return {name: entry["state_sha256"] for name, entry in stages.items()}


def test_a_job_writes_the_documented_files(smoke_run: Path) -> None:
    assert {p.name for p in (smoke_run / "checkpoints").iterdir()} == {"world_model", "policy"}
    rows = [json.loads(line) for line in (smoke_run / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in rows] == [
        (stage, step) for stage in ("world_model", "policy") for step in (20, 40, 60)
    ]
    results = json.loads((smoke_run / "evaluation" / "results.json").read_text())
    for kind in ("error", "persistence", "skill"):
        number = results["prediction"]["observation"]["15"][kind]
        assert number["n"] > 0 and number["low"] <= number["value"] <= number["high"]
    assert {"policy", "dataset", "random"} <= results["returns"].keys()
    assert results["policy_ranking"]["horizons"].keys() == {"5", "15"}
    assert {"policy", "step 30", "random"} <= results["policy_ranking"]["policies"].keys()
    assert (
        results["policy_ranking"]["spearman"]["n"]
        == len(results["policy_ranking"]["policies"])
        >= 8
    )
    played = (smoke_run / "evaluation" / "episodes.jsonl").read_text().splitlines()
    assert [json.loads(row)["seed"] for row in played] == 2 * [1000, 1001, 1002, 1003]
    assert (smoke_run / "evaluation" / "report.html").stat().st_size < 3e6
    assert (smoke_run / "evaluation" / "results.md").exists()


def test_a_pretrained_model_is_that_of_a_complete_stage(smoke_run: Path, tmp_path: Path) -> None:
    import jax

    from worldmodel.nn.learner import split_module
    from worldmodel.training.restore import load_world_model

    loaded = worldmodel.load(smoke_run)
    taken = load_world_model(smoke_run, loaded.config.model, loaded.spec)
    same = jax.tree.map(np.array_equal, split_module(taken)[1], split_module(loaded.model)[1])
    assert all(jax.tree.leaves(same))  # which this policy's stage left as it was

    copy = tmp_path / "smoke-0"
    shutil.copytree(smoke_run, copy)
    shutil.rmtree(copy / "checkpoints" / "world_model" / "60")
    with pytest.raises(ConfigError, match="world_model is at step 30 of 60; accepted: a run that"):
        load_world_model(copy, loaded.config.model, loaded.spec)
    shutil.rmtree(copy / "checkpoints" / "world_model")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_world_model(copy, loaded.config.model, loaded.spec)


def test_a_run_stopped_or_killed_at_any_moment_resumes_to_bit_identical_parameters(
    small_run: Path, train_words: Words, tmp_path: Path
) -> None:
    words, folder = train_words(f"runs_dir={tmp_path}"), tmp_path / small_run.name
    command = [sys.executable, str(ROOT / "train.py"), *words]
    began, moments = time.monotonic(), moments_of(folder)
    moments["importing"] = lambda: time.monotonic() > began + 0.5
    stops = [
        ("importing", signal.SIGUSR1, 75),
        ("training", signal.SIGTERM, 75),
        ("saving", signal.SIGKILL, -signal.SIGKILL),
        ("evaluating", signal.SIGINT, 130),
    ]
    for name, number, expected in stops:
        status, output = run_until(command, moments[name], number)
        assert status == expected and "Traceback" not in output, output
        assert "run the same command to resume" in output or number == signal.SIGKILL
    assert run_state(read_heartbeat(folder), time.time())[0] == "stopped"
    assert_equal_runs(folder, small_run)
    environments = json.loads((folder / "environment.json").read_text())
    assert len(environments) == 1  # three starts, with the same software on the same devices


@pytest.mark.slow
def test_a_run_killed_five_times_resumes_to_bit_identical_parameters(
    smoke_run: Path, launch: Launch, tmp_path: Path
) -> None:
    """benchmarks/fault_injection.py does this at a hundred random moments."""
    command, folder = launch(f"runs_dir={tmp_path}"), tmp_path / smoke_run.name
    for name, moment in moments_of(folder).items():
        assert run_until(command, moment, signal.SIGKILL)[0] == -signal.SIGKILL, name
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_equal_runs(folder, smoke_run)


def moments_of(folder: Path) -> dict[str, Callable[[], bool]]:
    """Moments in the life of a run, in order."""
    checkpoints = folder / "checkpoints"
    return {
        "compiling": lambda: phase_of(folder) == "compiling",
        "training": (folder / "metrics.jsonl").exists,
        "saving": lambda: any(not p.name.isdigit() for p in checkpoints.glob("*/*")),
        "in the second stage": (checkpoints / "policy" / "30").exists,
        "evaluating": lambda: phase_of(folder) == "evaluation",
    }


def assert_equal_runs(folder: Path, reference: Path) -> None:
    """The same parameters, and the same metrics in every row."""
    assert digests(folder) == digests(reference)
    clocks = ("time", "updates_per_second", "data_wait_fraction")
    killed, whole = ([{k: v for k, v in row.items() if k not in clocks} for row in read_rows(r)]
                     for r in (folder, reference))  # fmt: skip
    assert killed == whole


def read_rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def run_until(command: list[str], moment: Callable[[], bool], number: int) -> tuple[int, str]:
    """Sends a signal to the whole group of a run at a moment; returns its status and output."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not moment() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def phase_of(folder: Path) -> str | None:
    beat = read_heartbeat(folder)
    return beat.get("phase") if beat.get("state") == "running" else None


def test_a_finished_run_reports_its_state_and_its_environment(smoke_run: Path) -> None:
    beat = read_heartbeat(smoke_run)
    assert run_state(beat, time.time()) == ("finished", "")
    assert (beat["stage"], beat["step"], beat["total"]) == ("policy", 60, 60)
    (entry,) = json.loads((smoke_run / "environment.json").read_text())
    assert entry["packages"]["jax"] == importlib.metadata.version("jax")
    assert entry["devices"] == {"kind": "cpu", "count": 1} and entry["processes"] == 1


def test_a_dry_run_prints_requirements_and_writes_nothing(
    small_run: Path, train_words: Words, tmp_path: Path
) -> None:
    done = run_script("train.py", *train_words(f"runs_dir={tmp_path}", "training.dry_run=true"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(tmp_path.iterdir())
    stages = json.loads((small_run / "summary.json").read_text())["stages"]
    for name, entry in stages.items():
        printed = {
            words[1]: " ".join(words[2:])
            for line in done.stdout.splitlines()
            if (words := line.split())[0] == name
        }
        assert printed["parameters"].startswith(f"{entry['parameters']:,}: ")
        assert printed["steps"].startswith("60, ") and printed["memory"].endswith("of it temporary")


def test_a_changed_config_is_refused_and_no_file_changes(smoke_run: Path, launch: Launch) -> None:
    before = {p: p.stat().st_mtime_ns for p in smoke_run.rglob("*") if p.is_file()}
    words = launch(f"runs_dir={smoke_run.parent}", "training.policy.learning_rate=0.5")[2:]
    done = run_script("train.py", *words)
    assert done.returncode == 2
    assert "training.policy.learning_rate: 0.0003 -> 0.5" in done.stderr
    assert "fresh=true" in done.stderr
    assert before == {p: p.stat().st_mtime_ns for p in smoke_run.rglob("*") if p.is_file()}


def test_a_missing_dataset_is_named(launch: Launch, tmp_path: Path) -> None:
    words = ["data=tfds", f"data.path={tmp_path / 'nowhere'}", f"runs_dir={tmp_path / 'runs'}"]
    done = run_script("train.py", *launch(*words, experiment=False)[2:])
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_errors_of_a_later_stage_are_found_before_the_first(launch: Launch, tmp_path: Path) -> None:
    """CartPole has discrete actions: no gradient through the model, and nothing is written."""
    words = ["data.environment=CartPole-v1", "policy.actor_grad=dynamics", "model=mlp"]
    done = run_script("train.py", *launch(*words, f"runs_dir={tmp_path}")[2:])
    assert done.returncode == 2
    assert "requires continuous actions" in done.stderr
    assert not (tmp_path / "smoke-0").exists()


def test_a_loaded_run_predicts_in_raw_units(smoke_run: Path) -> None:
    loaded = worldmodel.load(smoke_run)
    assert (loaded.stage, loaded.step) == ("policy", 60)
    rng = np.random.default_rng(0)
    observations = {"observation": rng.normal(size=(3, 6, 3)).astype(np.float32)}
    actions = rng.uniform(-2, 2, (3, 11, 1)).astype(np.float32)
    predicted = loaded.predict(observations, actions, context=5, horizon=7, samples=2)
    assert predicted["observation"].shape == (3, 2, 7, 3)
    assert np.isfinite(predicted["observation"]).all()
    with pytest.raises(ValueError, match="T=12 or more"):
        loaded.predict(observations, actions, context=6, horizon=7)


def test_an_unknown_run_or_checkpoint_is_refused_with_the_existing_ones(smoke_run: Path) -> None:
    with pytest.raises(CheckpointError, match="smoke-0"):
        worldmodel.load(smoke_run.parent / "smoke-1")
    with pytest.raises(CheckpointError, match=r"policy: \[30, 60\]"):
        worldmodel.load(smoke_run, "31")
    with pytest.raises(CheckpointError, match=r"smoke-0 has no training.policy.best_metric"):
        worldmodel.load(smoke_run, "best")
    assert worldmodel.load(smoke_run, "30").step == 30


@pytest.mark.slow
def test_a_planner_is_evaluated_next_to_its_policy(smoke_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(smoke_run, tmp_path / "copy")
    words = [
        "kind=mppi",
        "num_samples=8",
        "num_elites=4",
        "iterations=2",
        "horizon=3",
        "num_policy_samples=2",
    ]
    words = [f"evaluation.planner.{word}" for word in words]
    request = parse_eval(
        [f"run={copy}", "evaluation.episodes=2", "evaluation.horizons=[1]", *words]
    )
    loaded = worldmodel.load(*request.runs, request.checkpoint)
    assert loaded.value is not None
    loaded.evaluate(**request.evaluation)
    results = json.loads((copy / "evaluation" / "results.json").read_text())
    assert list(results["returns"]) == ["policy", "planner", "dataset", "random"]
    assert len(results["episodes"]["planner"]) == 2
    assert results["config"]["evaluation"]["planner"]["num_policy_samples"] == 2
    assert "the planner returns" in (copy / "evaluation" / "results.md").read_text()
    assert "planner" in (copy / "evaluation" / "report.html").read_text()


def test_eval_rewrites_the_evaluation(smoke_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(smoke_run, tmp_path / "copy")
    results = copy / "evaluation" / "results.json"
    before = json.loads(results.read_text())
    results.unlink()
    done = run_script("eval.py", f"run={copy}", *NOT_RANKED)
    assert done.returncode == 0, done.stderr[-2000:]
    after = json.loads(results.read_text())
    assert after["prediction"] == before["prediction"]
    assert after["returns"] == before["returns"]
