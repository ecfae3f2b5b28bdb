"""Which measure of an ensemble's uncertainty predicts its error best, on several datasets.

    python benchmarks/uncertainty.py --folder FOLDER [--logs LOGS] [--seeds 0 1]

Trains `model=ensemble` on each dataset, by train.py in a process of its own; runs stay in FOLDER,
and the same command resumes. Measures and errors are those of the report, on held-out episodes and,
if there is a dataset of another policy in the same environment, on that one: a penalty has to
detect states that the model was not trained on. Numbers are means over seeds; intervals
resample whole episodes.

Pendulum needs no files. LOGS holds the others; they are not part of the project.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

import worldmodel
from worldmodel import data
from worldmodel.data.trajectories import split
from worldmodel.evaluation.correlation import pearson, sparsification, spearman
from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.sections.uncertainty import STEPS, uncertainties_and_errors
from worldmodel.evaluation.starts import PredictionStarts
from worldmodel.evaluation.statistics import Bootstrap, Estimate, Statistic
from worldmodel.imagination import UNCERTAINTIES
from worldmodel.system.compilation import enable_compilation_cache

TRAIN = Path(__file__).parent.parent / "train.py"
STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray], Statistic]] = {
    "rank correlation": spearman,
    "linear correlation": pearson,
    "sparsification (0 best, 1 chance)": sparsification,
}
PAIR = ("ensemble_std", "max_aleatoric")  # the first is expected to be at least as good

# Name -> the file (none: pendulum), and others of the same environment.
SETS: dict[str, tuple[str | None, list[str]]] = {
    "pendulum": (None, []),
    "quadrotor": ("nanobench/nanobench_50hz.npz", []),
    "halfcheetah-replay": (
        "halfcheetah/halfcheetah-replay.npz", ["halfcheetah/halfcheetah-expert.npz"],
    ),
    "halfcheetah-medium": (
        "halfcheetah/halfcheetah-medium.npz",
        ["halfcheetah/halfcheetah-random.npz", "halfcheetah/halfcheetah-expert.npz"],
    ),
    "hopper-medium": (
        "hopper/hopper-medium.npz", ["hopper/hopper-random.npz", "hopper/hopper-expert.npz"],
    ),
    "hopper-random": ("hopper/hopper-random.npz", ["hopper/hopper-medium.npz"]),
}  # fmt: skip


class Evaluated:
    """The starts, and for each seed the measures {name: (N, H)} and the error (N, H)."""

    def __init__(
        self, starts: PredictionStarts, seeds: list[tuple[dict[str, np.ndarray], np.ndarray]]
    ):
        self.starts, self.seeds = starts, seeds

    def statistic(self, kind: str, name: str, steps: int) -> Statistic:
        """Of measure `name` after so many steps, the mean over seeds."""
        there = self.starts.remaining_steps >= steps
        each = [
            STATISTICS[kind](found[name][there, steps - 1], error[there, steps - 1])
            for found, error in self.seeds
        ]
        return lambda counts: np.mean([statistic(counts) for statistic in each], 0)

    def number(self, statistic: Statistic, steps: int) -> Estimate:
        episodes = self.starts.episodes[self.starts.remaining_steps >= steps]
        return Bootstrap(1000).clustered(statistic, episodes, "mean over seeds")


def train(logs: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Trains a run unless it is finished, and returns its folder."""
    file, _ = SETS[logs]
    runs = arguments.folder / "runs"
    command = [sys.executable, str(TRAIN), f"name={logs}-{seed}", f"seed={seed}", "policy=none"]
    command += ["model=ensemble", f"model.preset={arguments.preset}"]
    command += ["data=npz", f"data.path={arguments.logs / file}"] if file else ["data=pendulum"]
    command += [f"training.world_model.steps={arguments.steps}"]
    command += [f"runs_dir={runs}", f"data.cache_dir={arguments.folder / 'datasets'}"]
    command += ["logging.wandb=disabled", "logging.progress=none", "evaluation.resamples=100"]
    status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    if status:
        print(f"{shlex.join(command)} ended with {status}", file=sys.stderr)
        sys.exit(status)
    return runs / f"{logs}-{seed}"


def evaluate(runs: list[Path], files: list[Path]) -> dict[str, Evaluated]:
    """Dataset -> its numbers: the held-out episodes, then each of `files`."""
    found: dict[str, Evaluated] = {}
    for path in runs:
        run = worldmodel.load(path)
        enable_compilation_cache(run.config.training.compilation_cache)
        options = replace(run.config.evaluation, num_samples=32)

        _, held_out = split(data.load(run.config.data), run.config.data.holdout)
        datasets = {"held out": held_out}
        datasets |= {f.stem: data.load(replace(run.config.data, path=str(f))) for f in files}
        for name, logs in datasets.items():
            logs = replace(logs, action_spec=run.spec.action)  # the run's own bounds of actions
            arguments = (run.model, run.spec, logs, options, jax.random.key(options.seed))
            starts, *measured = uncertainties_and_errors(*arguments)
            found.setdefault(name, Evaluated(starts, [])).seeds.append(tuple(measured))
    return found


def tables(found: dict[tuple[str, str], Evaluated]) -> list[ResultTable]:
    """A table per horizon and statistic: the measures' values, and the difference of `PAIR`."""
    names = [name.replace("_", " ") for name in UNCERTAINTIES]
    difference = " - ".join(name.replace("_", " ") for name in PAIR)
    header = ["trained on", "evaluated on", *names, difference]
    return [
        ResultTable(
            f"{kind}, {steps} step{'s' * (steps > 1)}",
            header,
            [[*place, *row(evaluated, kind, steps)] for place, evaluated in found.items()],
        )
        for kind in STATISTICS
        for steps in STEPS
    ]


def row(evaluated: Evaluated, kind: str, steps: int) -> list[str]:
    by_name = {name: evaluated.statistic(kind, name, steps) for name in UNCERTAINTIES}
    once = np.ones((1, int((evaluated.starts.remaining_steps >= steps).sum())), int)
    first, second = (by_name[name] for name in PAIR)
    difference = evaluated.number(lambda counts: first(counts) - second(counts), steps)
    return [f"{statistic(once)[0]:.2f}" for statistic in by_name.values()] + [str(difference)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--logs", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=10_000)
    arguments = parser.parse_args()
    found = {}
    for logs in arguments.sets:
        runs = [train(logs, seed, arguments) for seed in arguments.seeds]
        others = [arguments.logs / file for file in SETS[logs][1]]
        found |= {(logs, where): evaluated for where, evaluated in evaluate(runs, others).items()}
        print(f"{logs} is done", file=sys.stderr, flush=True)
    for sheet in tables(found):
        print(sheet.markdown(), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
