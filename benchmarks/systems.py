"""Free-run errors on real systems, and those of linear models on the same data, as Markdown tables.

    python benchmarks/systems.py LOGS [--runs RUNS]

LOGS is the folder of the benchmarks' files, RUNS that of the finished runs of the experiments,
whose `evaluation/results.json` is read. The linear model is fitted here to the data that the
experiment trains on, by least squares one step ahead (ARX): y' = sum_k A_k y_k + B_k u_k + c over
the last n rows. n is the one with the smallest free-run error over the last records, or the last
15 % of the only one, of training; then all of them are fitted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldmodel import data
from worldmodel.config import Config
from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import build_config
from worldmodel.config.evaluation_data import evaluation_data_options
from worldmodel.data.trajectories import Trajectories

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ORDERS = (2, 3, 4, 6, 8, 10, 15, 20, 30)
LEFT_OUT = 0.15  # of training, to select the order


class System(NamedTuple):
    """A benchmark: its file, and the unit of its errors."""

    path: str
    unit: str
    scale: float


SYSTEMS = {
    "wiener_hammerstein": System("wiener_hammerstein.csv", "mV", 1e3),
    "silverbox": System("silverbox.csv", "mV", 1e3),
    "cascaded_tanks": System("cascaded_tanks.csv", "V", 1.0),
    "fine_steering_mirror": System("fine_steering_mirror", "um", 1e6),
}

Record = tuple[np.ndarray, np.ndarray]  # outputs (T + 1, D), inputs (T + 1, A); the last is padding


def config_of(name: str, logs: Path) -> Config:
    words = [f"experiment={name}", f'data.path="{logs / SYSTEMS[name].path}"']
    return build_config(CONFIGS, parse_overrides(words))


def records(trajectories: Trajectories) -> list[Record]:
    y, u = trajectories.observations["observation"], trajectories.actions
    spans = zip(trajectories.offsets, trajectories.lengths, strict=True)
    parts = (slice(begin, begin + length) for begin, length in spans)
    return [(y[part].astype(np.float64), u[part].astype(np.float64)) for part in parts]


# ------------------------------------------------------------------------------------ linear models


def regressors(record: Record, order: int) -> np.ndarray:
    """(T + 1 - order, order (D + A) + 1): the samples before `order` ... T."""
    y, u = record
    rows = len(y) - order
    lagged = [x[k : k + rows] for x in (y, u) for k in range(order)]
    return np.concatenate([*lagged, np.ones((rows, 1))], 1)


def fit(known: Sequence[Record], order: int) -> np.ndarray:
    """(order (D + A) + 1, D) by least squares, each column in its own unit so that none is lost."""
    inside = [(regressors(record, order), record[0][order:]) for record in known]
    scale = np.maximum(np.max([np.abs(x).max(0) for x, _ in inside], 0), 1e-300)
    gram = sum((x / scale).T @ (x / scale) for x, _ in inside)
    moments = sum((x / scale).T @ y for x, y in inside)
    return np.linalg.lstsq(gram, moments, rcond=1e-13)[0] / scale[:, None]


def simulate(weights: np.ndarray, record: Record, order: int, context: int) -> np.ndarray:
    """(T + 1 - context, D): the samples after the context, each from the predictions before it."""
    y, u = record
    size = order * y.shape[1]
    said = np.concatenate([y[:context], np.zeros_like(y[context:])])
    driven = regressors((np.zeros_like(y), u), order) @ weights
    for t in range(context, len(y)):
        said[t] = said[t - order : t].reshape(size) @ weights[:size] + driven[t - order]
    return said[context:]


def free_run_error(weights: np.ndarray, record: Record, order: int, context: int) -> float:
    """RMSE, mean over channels."""
    with np.errstate(over="ignore", invalid="ignore"):
        off = simulate(weights, record, order, context) - record[0][context:]
        error = np.sqrt(np.square(off).mean(0)).mean()
    return float(error) if np.isfinite(error) else np.inf


def linear(training: Sequence[Record], context: int) -> tuple[np.ndarray, int]:
    """Weights and order of the selected model."""
    known, held_out = divided(training)

    def error(order: int) -> float:
        weights = fit(known, order)
        return float(np.mean([free_run_error(weights, r, order, context) for r in held_out]))

    order = min(ORDERS, key=error)
    return fit(training, order), order


def divided(training: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """The data to fit for each order, and the data to select the order by."""
    if len(training) > 1:
        count = max(1, round(LEFT_OUT * len(training)))
        return list(training[:-count]), list(training[-count:])
    ((y, u),) = training
    begin = round((1 - LEFT_OUT) * len(y))
    return [(y[:begin], u[:begin])], [(y[begin:], u[begin:])]


# -------------------------------------------------------------------------------------------- table


def lines(name: str, logs: Path, runs: Path) -> Iterator[str]:
    """A line for every test file."""
    system, config = SYSTEMS[name], config_of(name, logs)
    context = config.evaluation.context
    weights, order = linear(records(data.load(config.data)), context)
    dataset = data.load(evaluation_data_options(config))
    ours = errors_of(runs / config.name / "evaluation" / "results.json")
    by_file: dict[str, list[float]] = {}
    for index, record in enumerate(records(dataset)):
        error = free_run_error(weights, record, order, context)
        by_file.setdefault(file_of(dataset.name(index)), []).append(error)
    for file, errors in by_file.items():
        mine = f"{system.scale * ours[file]:.3g}" if file in ours else "-"
        theirs = f"{system.scale * np.mean(errors):.3g} (order {order})"
        yield f"| {name} | {file} | {len(errors)} | {mine} | {theirs} | {system.unit} |"


def errors_of(results: Path) -> dict[str, float]:
    """File -> RMSE, mean over channels and over its records. Empty without such a run."""
    if not results.exists():
        return {}
    found: dict[str, list[float]] = {}
    for record in json.loads(results.read_text())["free_run"]["observation"]["records"]:
        found.setdefault(file_of(record["name"]), []).append(float(np.mean(record["rmse"])))
    return {file: float(np.mean(errors)) for file, errors in found.items()}


def file_of(record: str) -> str:
    return Path(record.partition(" record ")[0]).name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    arguments = parser.parse_args()
    print("| system | test | records | RMSE of the run | of a linear model | unit |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    for name in arguments.systems:
        for line in lines(name, arguments.logs, arguments.runs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
