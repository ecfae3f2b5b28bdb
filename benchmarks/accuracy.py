"""Open-loop error by horizon of several families of world models, on several datasets.

    python benchmarks/accuracy.py --folder FOLDER [--logs LOGS] [--picture accuracy.png]

Every run is `python train.py policy=none model=FAMILY ...` in a process of its own, one after the
other, with the same numbers of updates, windows and parameters. Runs stay in FOLDER, and the same
command resumes. All models of a dataset then predict from the same starts in the same held-out
episodes. Tables hold median errors and their ratios to a reference family; with several seeds,
medians are over starts and seeds. Intervals resample whole episodes: they measure the influence of
the episodes, not of the seeds.

Pendulum needs no files. LOGS holds the files that `SETS` lists; they are not part of the project.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import worldmodel
from worldmodel import data
from worldmodel.config import Config
from worldmodel.config.registry import schemas
from worldmodel.data.trajectories import split
from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.sampled_rollouts import open_loop_errors
from worldmodel.evaluation.starts import PredictionStarts
from worldmodel.evaluation.statistics import Bootstrap, Estimate, Statistic, median, ratio
from worldmodel.runs.directory import find_run
from worldmodel.system.compilation import enable_compilation_cache

TRAIN = Path(__file__).parent.parent / "train.py"
BASELINES = ("persistence", "climatology")
Errors = dict[str, np.ndarray]  # family or baseline -> (seeds, N, ...); baselines have no seeds: 1

# Units with which a family has as many parameters as the RSSM's smallest preset, within 1 %: for
# logs with reward, and for those without, whose models have fewer heads. Others: their own default.
UNITS = {"koopman": (102, 111), "gru": (102, 105), "mlp": (102, 105)}
NO_REWARD = ("wiener", "silverbox")
# No policy is trained here; what keeps one from exploiting a linear latent costs accuracy.
OPTIONS = {"koopman": ["model.reencode_every=0"]}
FAMILIES = ["koopman", "gru", "mlp", "rssm", "diffusion"]


def circuit(file: str, observed: str, acted: str) -> list[str]:
    """One of several state variables is observed: the filter needs a longer context."""
    columns = [f"data.observations=[{observed}]", f"data.actions=[{acted}]"]
    cut = ["data.max_episode_steps=1000", "evaluation.context=50"]
    return ["data=table", f"data.path={{logs}}/sysid/{file}", *columns, *cut]


SETS = {
    "pendulum": ["data=pendulum", "data.normalize=[standardize]"],  # as the other families
    "halfcheetah": ["data=npz", "data.path={logs}/halfcheetah/halfcheetah-replay.npz"],
    "hopper": ["data=npz", "data.path={logs}/hopper/hopper-medium.npz"],
    "quadrotor": ["data=npz", "data.path={logs}/nanobench/nanobench_50hz.npz"],
    "wiener": circuit("wiener_hammerstein.csv", "yBenchMark", "uBenchMark"),
    "silverbox": circuit("silverbox.csv", "V2", "V1"),
}


@dataclass(frozen=True)
class Row:
    """One horizon: medians of families and baselines, ratios of other families to the reference."""

    error: dict[str, Estimate]
    ratio: dict[str, Estimate]
    episodes: int

    def to_json(self) -> dict[str, Any]:
        named = {"error": self.error, "ratio": self.ratio}
        return {
            kind: {method: n.to_json() for method, n in by.items()} for kind, by in named.items()
        }


# ---------------------------------------------------------------------------------------- training


def train(logs: str, family: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Trains a run unless it is finished, and returns its folder."""
    name, folder = f"{logs}-{family}-{seed}", arguments.folder
    stage = {"steps": arguments.steps, "batch_size": arguments.batch, "window": arguments.window}
    command = [sys.executable, str(TRAIN), f"name={name}", f"seed={seed}", "policy=none"]
    command += [f"model={family}"]
    command += [f"model.units={UNITS[family][logs in NO_REWARD]}"] if family in UNITS else []
    command += OPTIONS.get(family, [])
    command += [option.format(logs=arguments.logs) for option in SETS[logs]]
    command += [f"training.world_model.{key}={value}" for key, value in stage.items()]
    command += [
        f"evaluation.horizons={json.dumps(arguments.horizons)}",
        "evaluation.starts_per_episode=10",
    ]
    command += [f"runs_dir={folder / 'runs'}", f"data.cache_dir={folder / 'datasets'}"]
    command += ["logging.wandb=disabled", "logging.progress=none"]
    status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    if status:
        print(f"{shlex.join(command)} ended with {status}", file=sys.stderr)
        sys.exit(status)
    return folder / "runs" / name


def train_all(arguments: argparse.Namespace) -> dict[str, dict[str, list[Path]]]:
    """Dataset -> family -> the folder of each seed's run; prints a line per run."""
    runs = {logs: {family: [] for family in arguments.families} for logs in arguments.sets}
    jobs = list(product(arguments.sets, arguments.families, arguments.seeds))
    for number, (logs, family, seed) in enumerate(jobs, 1):
        began = time.perf_counter()
        path = train(logs, family, seed, arguments)
        runs[logs][family].append(path)
        size, seconds = f"{parameters(path):,} parameters", time.perf_counter() - began
        print(f"{number:3d}/{len(jobs)}  {path.name:24s} {size:20s} {seconds:6.0f} s", flush=True)
    return runs


def parameters(run: Path) -> int:
    return find_run(run).summary()["stages"]["world_model"]["parameters"]


# --------------------------------------------------------------------------------------- comparing


def evaluate(
    runs: dict[str, list[Path]], config: Config
) -> tuple[PredictionStarts, dict[str, Errors]]:
    """The N starts, and for each observation the errors (seeds, N, H) from them.

    All runs have the same starts, since they have the same dataset; others are refused.
    """
    enable_compilation_cache(config.training.compilation_cache)
    logs, options = data.load(config.data), config.evaluation
    _, held_out = split(logs, config.data.holdout)
    found: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for family, paths in runs.items():
        for path in paths:
            run = worldmodel.load(path)
            run.directory.check_dataset(run.spec, logs.fingerprint())
            key = jax.random.key(options.seed)  # that of the run's own evaluation
            starts, errors = open_loop_errors(run.model, run.spec, held_out, options, key)
            for name, (model, *_) in errors.items():
                found[name][family].append(model)
    for name, (_, *baselines) in errors.items():
        found[name] |= {method: [e] for method, e in zip(BASELINES, baselines, strict=False)}
    return starts, {n: {method: np.stack(e) for method, e in by.items()} for n, by in found.items()}


def compare(errors: Errors, starts: PredictionStarts, reference: str, bootstrap: Bootstrap) -> Row:
    """From errors (seeds, N) at one horizon, of the N starts for which it exists."""
    count = len(np.unique(starts.episodes))

    def number(statistic: Statistic, seeds: int, what: str) -> Estimate:
        episodes = np.tile(starts.episodes, seeds)
        over = f"over {len(starts)} starts in {count} held-out episodes"
        over += f" for each of {seeds} seeds" if seeds > 1 else ""
        return bootstrap.clustered(statistic, episodes, f"{what} {over}")

    flat, seeds = {method: e.ravel() for method, e in errors.items()}, len(errors[reference])
    others = [method for method in errors if method not in (reference, *BASELINES)]
    what = f"median error / median error of {reference}"
    return Row(
        {method: number(median(e), len(errors[method]), "median") for method, e in flat.items()},
        {method: number(ratio(flat[method], flat[reference]), seeds, what) for method in others},
        count,
    )


def compare_all(
    runs: dict[str, dict[str, list[Path]]], reference: str
) -> dict[str, dict[int, Row]]:
    """For each observation of each dataset, a row per horizon."""
    tables: dict[str, dict[int, Row]] = {}
    for logs, by_family in runs.items():
        config = find_run(by_family[reference][0]).config()
        options = config.evaluation
        bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
        starts, evaluated = evaluate(by_family, config)
        for name, errors in evaluated.items():
            rows = tables[f"{logs}: {name}"] = {}
            for h in (h for h in options.horizons if h <= errors[reference].shape[-1]):
                there = np.flatnonzero(starts.remaining_steps >= h)
                at = {method: e[:, there, h - 1] for method, e in errors.items()}
                rows[h] = compare(at, starts.take(there), reference, bootstrap)
    return tables


# ----------------------------------------------------------------------------------------- showing


def table(title: str, rows: dict[int, Row], reference: str) -> ResultTable:
    """Errors, then ratios. n counts starts, once for each seed."""
    first = next(iter(rows.values()))
    header = [
        "steps",
        *first.error,
        *(f"{method} / {reference}" for method in first.ratio),
        "n (ep.)",
    ]
    cells = []
    for h, row in rows.items():
        numbers = [*row.error.values(), *row.ratio.values()]
        cells.append([f"{h}", *map(str, numbers), f"{row.error[reference].n} ({row.episodes})"])
    return ResultTable(f"{title}, error in training standard deviations", header, cells)


def draw(tables: dict[str, dict[int, Row]], path: Path) -> None:
    """A panel per table: error by horizon with its interval, a line per family or baseline."""
    wide, high = min(3, len(tables)), -(-len(tables) // 3)
    figure = Figure((3.6 * wide + 1.4, 3.2 * high), layout="constrained")
    axes = figure.subplots(high, wide, squeeze=False)
    for axis in axes.flat[len(tables) :]:
        axis.remove()
    for axis, (title, rows) in zip(axes.flat, tables.items(), strict=False):
        for method in next(iter(rows.values())).error:
            numbers = [row.error[method] for row in rows.values()]
            style = {"persistence": "k--", "climatology": "k:"}.get(method, ".-")
            (line,) = axis.plot(list(rows), [n.value for n in numbers], style, label=method)
            ends = [n.low for n in numbers], [n.high for n in numbers]
            axis.fill_between(list(rows), *ends, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(xscale="log", yscale="log", title=title, xlabel="steps ahead")
        axis.set_xticks(list(rows), map(str, rows))
        axis.xaxis.minorticks_off()
    axes[0][0].set_ylabel("error / training std")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=110)


def parsed() -> argparse.Namespace:
    families = list(schemas("model"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder of runs; finished ones are reused"
    )
    parser.add_argument("--logs", type=Path, help="folder of the datasets (none: pendulum alone)")
    parser.add_argument("--sets", nargs="+", choices=SETS, help="default: all that are available")
    parser.add_argument("--families", nargs="+", choices=families, default=FAMILIES)
    parser.add_argument(
        "--reference", choices=families, default="gru", help="family that ratios are relative to"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=2000, help="updates of each run")
    parser.add_argument("--batch", type=int, default=16, help="windows in a batch")
    parser.add_argument("--window", type=int, default=112, help="steps in a window")
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 2, 5, 10, 25, 50, 100])
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    arguments.sets = arguments.sets or (list(SETS) if arguments.logs else ["pendulum"])
    arguments.horizons = sorted(set(arguments.horizons))
    if arguments.logs is None and set(arguments.sets) != {"pendulum"}:
        parser.error("sets other than pendulum need --logs FOLDER")
    if arguments.reference not in arguments.families:
        parser.error(f"--reference {arguments.reference} is not among --families")
    return arguments


def main() -> None:
    arguments = parsed()
    # All runs are trained before this process takes a device.
    runs = train_all(arguments)
    tables = compare_all(runs, arguments.reference)
    for title, rows in tables.items():
        print(f"\n{table(title, rows, arguments.reference).markdown()}")
    if arguments.picture:
        draw(tables, arguments.picture)
    named = ("steps", "batch", "window", "seeds", "reference")
    settings = {name: getattr(arguments, name) for name in named}
    counts = {k: {f: parameters(paths[0]) for f, paths in by.items()} for k, by in runs.items()}
    found = {title: {h: row.to_json() for h, row in rows.items()} for title, rows in tables.items()}
    print(json.dumps(settings | {"parameters": counts, "tables": found}))


if __name__ == "__main__":
    main()
