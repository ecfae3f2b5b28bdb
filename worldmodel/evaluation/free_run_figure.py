"""The figure of a free run: real and simulated beside each other, and what lies between them."""

from __future__ import annotations

import numpy as np

from worldmodel.evaluation.figures import MOST_DIMENSIONS, figure
from worldmodel.evaluation.free_run import FreeRun
from worldmodel.evaluation.svg import Panel, extent


def free_runs(runs: dict[str, FreeRun]) -> str:
    """The first judged rows of the first record of each observation."""
    return "".join(_one(key, run) for key, run in runs.items())


def _one(key: str, run: FreeRun) -> str:
    count, size = run.real.shape
    rows = run.context + np.arange(count)
    panels = []
    for d in range(min(size, MOST_DIMENSIONS)):
        real, simulated = run.real[:, d], run.simulated[:, d]
        signal = Panel(
            (rows[0], rows[-1]),
            extent(real, simulated),
            label=f"{key}[{d}]: simulated beside real",
            x_title="row of the record",
            height=180,
        )
        signal.line(rows, real, "real")
        signal.line(rows, simulated, "model dashed")
        error = Panel(
            (rows[0], rows[-1]),
            extent(simulated - real),
            label=f"{key}[{d}]: simulated minus real",
            x_title="row of the record",
            height=180,
        )
        error.line(rows, simulated - real, "baseline")
        panels += [(f"{key}[{d}]", signal.svg()), (f"{key}[{d}] \u00b7 error", error.svg())]
    some = f"The first {MOST_DIMENSIONS} of {size} channels. " if size > MOST_DIMENSIONS else ""
    return figure(
        f"Free run of {key}, the first {count} judged rows of {run.names[0]}, in raw units. {some}"
        f"The model saw {run.context} rows before them, then only the actions.",
        panels,
        [("real", "real"), ("model", "simulated"), ("baseline", "simulated minus real")],
    )
