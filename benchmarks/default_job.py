"""The default job for several seeds: wall time from start to report, returns, skill over
persistence.

    python benchmarks/default_job.py [--model rssm] [--seeds 0 1 2 3 4] [--folder FOLDER]
        [--words data.normalize=[standardize] ...]

Each seed is `python train.py model=MODEL seed=SEED WORDS` in a process of its own, one after the
other.
The first run starts without a dataset and compiled programs; the others reuse those of the first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

TRAIN = Path(__file__).parent.parent / "train.py"


def run(model: str, seed: int, words: list[str], folder: Path) -> dict[str, Any]:
    """Trains one seed; returns its results and the seconds until the first update."""
    command = [sys.executable, "-u", str(TRAIN), f"model={model}", f"seed={seed}"]
    command += ["logging.wandb=disabled", *words]
    command += [f"runs_dir={folder / 'runs'}", f"data.cache_dir={folder / 'datasets'}"]
    command += [f"training.compilation_cache={folder / 'xla'}"]
    began = time.perf_counter()
    first_step = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if first_step is None and "compiled in" in line:
                first_step = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    seconds = time.perf_counter() - began
    run = folder / "runs" / f"pendulum-{model}-actor_critic-{seed}"
    results = json.loads((run / "evaluation" / "results.json").read_text())
    times = {"wall_seconds": seconds, "first_step_seconds": first_step}
    return {"seed": seed, **times, **{k: results[k] for k in ("returns", "prediction")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rssm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, help="folder of the runs (none: a temporary one)")
    parser.add_argument("--words", nargs="+", default=[], help="more options of train.py")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        rows = []
        print(
            f"{'seed':>4s} {'wall s':>7s} {'first step s':>12s}   return of the policy    skill at"
        )
        for seed in arguments.seeds:
            rows.append(run(arguments.model, seed, arguments.words, folder))
            print(line(rows[-1]), flush=True)
    returns = [row["returns"]["policy"]["value"] for row in rows]
    for name in ("dataset", "random"):
        number = rows[0]["returns"][name]
        print(f"{name:6s} {number['value']:.0f} [{number['low']:.0f}, {number['high']:.0f}]")
    result = {
        "first_wall_seconds": rows[0]["wall_seconds"],
        "median_wall_seconds": median(row["wall_seconds"] for row in rows),
        "first_step_seconds": [row["first_step_seconds"] for row in rows],
        "returns": returns,
        "worst_return": min(returns),
    }
    print(json.dumps(result))


def line(row: dict[str, Any]) -> str:
    """One seed: wall time, return with interval and n, skill with interval at each horizon."""
    policy = row["returns"]["policy"]
    earned = f"{policy['value']:5.0f} [{policy['low']:.0f}, {policy['high']:.0f}] n={policy['n']}"
    skills = "  ".join(
        f"{horizon}: {number['skill']['value']:.2f} [{number['skill']['low']:.2f}, "
        f"{number['skill']['high']:.2f}]"
        for horizon, number in row["prediction"]["observation"].items()
    )
    times = f"{row['wall_seconds']:7.0f} {row['first_step_seconds']:12.1f}"
    return f"{row['seed']:4d} {times}   {earned:24s} {skills}"


if __name__ == "__main__":
    main()
