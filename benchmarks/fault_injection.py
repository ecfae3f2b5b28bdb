"""Kills training runs at random times, repeats the same command, and compares the results with
those of an uninterrupted run.

    python benchmarks/fault_injection.py [--kills 100] [--models rssm koopman diffusion]
        [--folder runs/faults] [--jobs 2] [--seed 0]

Every run is a whole job at toy length: collecting a dataset, a world model, a policy in its
imagination, evaluation. SIGKILL is sent at a time drawn uniformly over the duration of the
reference run, so it hits start-up, compilation, training, saving and evaluation in proportion to
their durations. The bits of every stage's final state, every row of metrics.jsonl except
clocks and rates, and the evaluation must be equal. Runs that differ are kept, others removed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CLOCKS = ("time", "updates_per_second", "data_wait_fraction")
# Three calls to the device and two checkpoints between rows, so that kills hit all of them.
WORDS = (
    "experiment=smoke", "training.steps_per_dispatch=5", "training.checkpoint_every=10",
    "logging.wandb=disabled", "logging.progress=plain",
)  # fmt: skip
MOMENTS = (
    "start", "loading data", "compiling", "training", "saving", "evaluation", "after its end",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """The command of a run, and its folder."""

    model: str
    name: str
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / self.name

    def start(self, output: Any) -> subprocess.Popen[str]:
        words = (*WORDS, f"model={self.model}", f"name={self.name}", f"runs_dir={self.folder}")
        cache = f"data.cache_dir={self.folder / 'logs'}"
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words, cache],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )


def finish(job: Job) -> tuple[float, str]:
    """Runs a job; returns seconds and output. Raises RuntimeError if it fails."""
    began = time.monotonic()
    output = job.folder / f"{job.name}.log"
    with output.open("w") as file:
        status = job.start(file).wait()
    said = output.read_text()
    if status:
        raise RuntimeError(f"{job.name} ended with status {status}:\n{said[-2000:]}")
    return time.monotonic() - began, said


def kill(job: Job, after: float, how: signal.Signals = signal.SIGKILL) -> str:
    """Starts a job and kills it after so many seconds; returns what it was doing."""
    output = job.folder / f"{job.name}.log"
    with output.open("w") as file:
        process = job.start(file)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, how)
        process.wait()
    return moment(process.pid, job.path)


def moment(pid: int, run: Path) -> str:
    """What the process was doing, by its heartbeat and the folders of its checkpoints."""
    if not (run / "heartbeat.json").exists():
        return "start"
    beat = json.loads((run / "heartbeat.json").read_text())
    if beat["pid"] != pid:
        return "start"
    if beat["state"] != "running":
        return "after its end"
    unfinished = [p for p in (run / "checkpoints").glob("*/*") if not p.name.isdigit()]
    return "saving" if unfinished and beat["phase"] == "training" else beat["phase"]


def outcome(run: Path) -> dict[str, Any]:
    """Everything that has to be equal."""
    summary = json.loads((run / "summary.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((run / "evaluation" / "results.json").read_text())
    return {
        "states": {name: stage["state_sha256"] for name, stage in summary["stages"].items()},
        "rows": [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows],
        "evaluation": {key: results[key] for key in ("prediction", "returns")},
    }


def differences(run: Path, reference: dict[str, Any]) -> list[str]:
    found = outcome(run)
    return [key for key, value in reference.items() if found[key] != value]


def trials(
    models: list[str], references: dict[str, float], kills: int, folder: Path, seed: int
) -> Iterator[tuple[Job, float]]:
    """Jobs, and the seconds after which each is killed."""
    draw = random.Random(seed)
    for number in range(kills):
        model = models[number % len(models)]
        yield Job(model, f"{model}-{number}", folder), draw.uniform(0, references[model])


def attempt(job: Job, after: float, reference: dict[str, Any]) -> tuple[str, list[str]]:
    """Kills a job and repeats its command; returns what it was doing, and the differences."""
    met = kill(job, after)
    try:
        finish(job)
        wrong = differences(job.path, reference)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        wrong = [str(error)]
    if not wrong:
        shutil.rmtree(job.path)
    return met, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--models", nargs="+", default=["rssm", "koopman", "diffusion"])
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"))
    parser.add_argument("--jobs", type=int, default=1, help="concurrent runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    seconds, expected = {}, {}
    for model in given.models:
        for again in ("cold", "reference"):  # the second uses compiled programs
            job = Job(model, f"{model}-{again}", given.folder)
            shutil.rmtree(job.path, ignore_errors=True)
            seconds[model], _ = finish(job)
        expected[model] = outcome(job.path)
        print(f"{model}: nobody kills it, {seconds[model]:.0f} s", flush=True)
    jobs = list(trials(given.models, seconds, given.kills, given.folder, given.seed))
    for job, _ in jobs:
        shutil.rmtree(job.path, ignore_errors=True)
    met: Counter[tuple[str, str]] = Counter()
    failed = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        pending = [pool.submit(attempt, job, after, expected[job.model]) for job, after in jobs]
        for (job, after), one in zip(jobs, pending, strict=True):
            where, wrong = one.result()
            met[job.model, where] += 1
            failed += bool(wrong)
            verdict = f"DIFFERS in {', '.join(wrong)}" if wrong else "same"
            print(f"{job.name:16s} killed after {after:5.1f} s, {where:13s} {verdict}", flush=True)
    print(f"\n{'killed during':14s}" + "".join(f"{model:>12s}" for model in given.models))
    for where in MOMENTS:
        print(f"{where:14s}" + "".join(f"{met[model, where]:12d}" for model in given.models))
    print(f"\n{len(jobs) - failed} of {len(jobs)} runs ended as the one that nobody killed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
