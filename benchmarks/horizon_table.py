"""Open-loop error by horizon of several runs: one table in Markdown, one picture.

    python benchmarks/horizon_table.py runs/A runs/B ... [--picture curves.png]

Reads the `evaluation/results.json` of train.py and eval.py; nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

KINDS = ("error", "persistence", "climatology")


def rows(run: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Observation -> horizon -> its numbers, in ascending order."""
    prediction = json.loads((run / "evaluation" / "results.json").read_text())["prediction"]
    return {
        key: {int(h): numbers for h, numbers in sorted(by.items(), key=lambda item: int(item[0]))}
        for key, by in prediction.items()
    }


def cell(number: dict[str, Any] | None) -> str:
    """A value with its interval."""
    if number is None:
        return "-"
    return "{value:.3g} [{low:.3g}, {high:.3g}]".format(**number)


def table(runs: list[Path]) -> str:
    lines = ["| run | steps | skill | error | persistence | climatology | starts |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for run in runs:
        for key, horizons in rows(run).items():
            for steps, numbers in horizons.items():
                cells = [cell(numbers.get(kind)) for kind in ("skill", *KINDS)]
                name = f"{run.name}, {key}"
                lines.append(
                    f"| {name} | {steps} | {' | '.join(cells)} | {numbers['error']['n']} |"
                )
    return "\n".join(lines)


def draw(runs: list[Path], path: Path) -> None:
    """A panel per run: error by horizon with its interval, and the two baselines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [(run.name, key, by) for run in runs for key, by in rows(run).items()]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 3.0), squeeze=False, layout="constrained"
    )
    for axis, (name, key, by) in zip(axes[0], panels, strict=True):
        steps = list(by)
        for kind, color in zip(KINDS, ("tab:blue", "tab:gray", "tab:orange"), strict=True):
            numbers = [by[h].get(kind) for h in steps]
            if None in numbers:
                continue
            low, high = ([n[side] for n in numbers] for side in ("low", "high"))
            label = "model" if kind == "error" else kind
            axis.plot(steps, [n["value"] for n in numbers], ".-", color=color, label=label)
            axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        axis.set(xscale="log", ylim=(0, None), title=f"{name}: {key}", xlabel="steps ahead")
        axis.title.set_fontsize("medium")
    axes[0][0].set_ylabel("error / training std")
    axes[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    print(table(arguments.runs))
    if arguments.picture:
        draw(arguments.runs, arguments.picture)
    print(json.dumps({run.name: rows(run) for run in arguments.runs}))


if __name__ == "__main__":
    main()
