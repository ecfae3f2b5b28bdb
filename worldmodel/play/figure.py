"""Draws the rollouts that are imagined under each source of actions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from worldmodel.data.plots import GRID
from worldmodel.data.spec import DataSpec
from worldmodel.play import observation_values
from worldmodel.play.counterfactual_rollouts import CounterfactualRollout

MAX_PANELS = 5  # and one for the reward
MAX_FRAMES = 8  # of images, in a row
COLOURS = {"policy": "#007a5a", "random": "#c65102", "zero": "#9aa3ad", "logged": "#0067a5"}
TRUTH = "#1c1f23"


def plot_rollouts(
    imagined: Mapping[str, CounterfactualRollout],
    truth: CounterfactualRollout | None,
    spec: DataSpec,
) -> Figure:
    """A panel for each of the first values and for the cumulative reward, with a line for each
    source; the truth is dashed. If images are observed, a row of them for each source.
    """
    image = next((name for name, o in spec.observations.items() if o.is_image), None)
    if image is not None:
        return _plot_images(imagined, truth, image)
    names = observation_values.value_names(spec)[:MAX_PANELS]
    lines = [(name, rollout, COLOURS[name], "-") for name, rollout in imagined.items()]
    lines += [("truth", truth, TRUTH, "--")] if truth is not None else []
    panels = len(names) + spec.has_reward
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(3.4 * columns, 2.3 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for name, rollout, colour, style in lines:
        over_time = observation_values.flatten_observation(rollout.observation, spec)
        steps = np.arange(1, len(over_time) + 1)
        for i, panel in enumerate(axes[: len(names)]):
            panel.plot(steps, over_time[:, i], color=colour, linestyle=style, label=name)
        if spec.has_reward and rollout.reward is not None:
            axes[len(names)].plot(steps, np.cumsum(rollout.reward), color=colour, linestyle=style)
    titles = [f"observed {name}" if name.isdigit() else name for name in names]
    titles.append("cumulative reward, logged (truth) or imagined")
    for panel, title in zip(axes[:panels], titles, strict=False):
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(color=GRID)
        panel.set_xlabel("step", fontsize=8)
    for panel in axes[panels:]:
        panel.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _plot_images(
    imagined: Mapping[str, CounterfactualRollout], truth: CounterfactualRollout | None, image: str
) -> Figure:
    images = ({"truth": truth} if truth is not None else {}) | dict(imagined)
    steps = next(iter(imagined.values())).steps
    chosen = np.unique(np.linspace(1, steps, min(MAX_FRAMES, steps)).round().astype(int))
    figure = Figure(
        figsize=(1.2 * len(chosen) + 0.8, 1.25 * len(images) + 0.3), layout="constrained"
    )
    axes = figure.subplots(len(images), len(chosen), squeeze=False)
    for line, (name, rollout) in zip(axes, images.items(), strict=True):
        line[0].set_ylabel(name)
        for panel, step in zip(line, chosen, strict=True):
            frame = rollout.observation[image][step - 1]
            panel.imshow(frame if frame.shape[-1] == 3 else frame[..., 0], cmap="gray")
            panel.set_xticks([])
            panel.set_yticks([])
    for panel, step in zip(axes[0], chosen, strict=True):
        panel.set_title(f"step {step}", fontsize=9)
    return figure
