"""Real and dreamed values over time, as frames of a video."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from worldmodel.data.plots import ACTED, GRID, OBSERVED
from worldmodel.data.spec import DataSpec
from worldmodel.play.live_comparison import ComparedStep
from worldmodel.play.observation_values import flatten_observation, value_names

MAX_CURVES = 4
SIZE, DPI = (4.0, 3.0), 80  # inches, and pixels per inch


class Curves:
    """A panel for each of the first observed values; a call adds a step and draws the frame."""

    def __init__(self, spec: DataSpec):
        self.spec = spec
        self.names = value_names(spec)[:MAX_CURVES]
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        self.canvas = FigureCanvasAgg(figure)
        self.axes = figure.subplots(len(self.names), 1, sharex=True, squeeze=False)[:, 0]
        self.lines = []
        for name, axes in zip(self.names, self.axes, strict=True):
            axes.set_ylabel(name, fontsize=8)
            axes.tick_params(labelsize=7)
            axes.grid(color=GRID)
            (real,) = axes.plot([], [], color=OBSERVED, label="real")
            (dreamed,) = axes.plot([], [], color=ACTED, linestyle="--", label="dream")
            self.lines.append((real, dreamed))
        self.axes[0].legend(fontsize=7, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
        self.steps: list[int] = []
        self.values: list[np.ndarray] = []

    def __call__(self, step: ComparedStep) -> np.ndarray:
        real = flatten_observation(step.observation, self.spec)[: len(self.names)]
        dreamed = np.full_like(real, np.nan)
        if step.dreamed is not None:
            dreamed = flatten_observation(step.dreamed.observation, self.spec)[: len(self.names)]
        self.steps.append(step.step)
        self.values.append(np.stack([real, dreamed]))
        over_time = np.stack(self.values)
        for i, (axes, lines) in enumerate(zip(self.axes, self.lines, strict=True)):
            for j, line in enumerate(lines):
                line.set_data(self.steps, over_time[:, j, i])
            axes.relim()
            axes.autoscale_view()
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()
