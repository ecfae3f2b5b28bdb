"""Choices of actions side by side: a table at some steps, and a picture over all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from worldmodel.data.plots import GRID
from worldmodel.data.spec import DataSpec
from worldmodel.play import numbers
from worldmodel.play.numbers import WIDTH, number

if TYPE_CHECKING:
    from worldmodel.play.counterfactuals import Future

STEP_WIDTH, NAME_WIDTH = 6, 9
MOST_NUMBERS = 5  # of an observation: with three columns more, 87 characters
MOST_PANELS = 6
FRAMES = 8  # in a strip
COLOURS = {"policy": "#007a5a", "random": "#c65102", "zeros": "#9aa3ad", "logged": "#0067a5"}
TRUTH = "#1c1f23"


def table(imagined: Mapping[str, Future], truth: Future | None, spec: DataSpec) -> Iterator[str]:
    """Lines at steps 1, 2, 5, 10, 20, 50, ... and the last. Rewards are sums so far, imagined and
    logged ones in columns of their own.
    """
    shown = numbers.names(spec)[:MOST_NUMBERS]
    steps = len(next(iter(imagined.values())).goes_on)
    heads = [*(_short(name) for name in shown), "imagined", "logged", "goes on"]
    yield " " * (STEP_WIDTH + NAME_WIDTH + 2 + WIDTH * len(shown)) + " reward so far"
    yield (
        "step".rjust(STEP_WIDTH)
        + "  "
        + "actions".ljust(NAME_WIDTH)
        + "".join(head.rjust(WIDTH) for head in heads)
    )
    for step in milestones(steps):
        rows = []
        for name, future in imagined.items():
            sums = [_so_far(future.reward, step), None, future.goes_on[step - 1]]
            rows.append((name, _numbers(future, spec, step) + sums))
            if name == "logged" and truth is not None:
                sums = [None, _so_far(truth.reward, step), None]
                rows.append(("  truth", _numbers(truth, spec, step) + sums))
        for i, (name, cells) in enumerate(rows):
            left = str(step) if i == 0 else ""
            line = left.rjust(STEP_WIDTH) + "  " + name.ljust(NAME_WIDTH)
            yield line + "".join(map(number, cells))
    if truth is not None and "logged" in imagined:
        errors = [
            numbers.error(_at(imagined["logged"], step), _at(truth, step), spec)
            for step in range(1, steps + 1)
        ]
        unit = numbers.unit_of_error(spec)
        yield f"\nmedian error under the logged actions: {np.median(errors):.3g} {unit}"


def milestones(steps: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to `steps`, and that."""
    powers = range(len(str(steps)))
    return sorted({n * 10**p for p in powers for n in (1, 2, 5) if n * 10**p < steps} | {steps})


def _so_far(reward: np.ndarray | None, step: int) -> float | None:
    return None if reward is None else float(np.sum(reward[:step], dtype=np.float64))


def _numbers(future: Future, spec: DataSpec, step: int) -> list[float | None]:
    return numbers.values(_at(future, step), spec)[:MOST_NUMBERS].tolist()


def _at(future: Future, step: int) -> dict[str, np.ndarray]:
    return {name: value[step - 1] for name, value in future.observation.items()}


def _short(name: str) -> str:
    return name if len(name) < WIDTH else f"{name[: WIDTH - 4]}~{name[-2:]}"


# ----------------------------------------------------------------------------------------- picture


def file(path: str) -> Path:
    return Path(path).expanduser()


def picture(imagined: Mapping[str, Future], truth: Future | None, spec: DataSpec) -> Figure:
    """A panel for each of the first numbers and for the reward so far, with a line a choice; the
    truth is dashed. Where images are observed, a strip of them for each choice.
    """
    image = next((name for name, o in spec.observations.items() if o.is_image), None)
    if image is not None:
        return _strips(imagined, truth, image)
    names = numbers.names(spec)[:MOST_PANELS]
    lines = [(name, future, COLOURS[name], "-") for name, future in imagined.items()]
    lines += [("truth", truth, TRUTH, "--")] if truth is not None else []
    panels = len(names) + spec.has_reward
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(3.4 * columns, 2.3 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for name, future, colour, style in lines:
        over_time = numbers.values(future.observation, spec)
        steps = np.arange(1, len(over_time) + 1)
        for i, panel in enumerate(axes[: len(names)]):
            panel.plot(steps, over_time[:, i], color=colour, linestyle=style, label=name)
        if spec.has_reward and future.reward is not None:
            axes[len(names)].plot(steps, np.cumsum(future.reward), color=colour, linestyle=style)
    titles = [*names, "reward so far (truth: logged; others: imagined)"]
    for panel, title in zip(axes[:panels], titles, strict=False):
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(color=GRID)
        panel.set_xlabel("step", fontsize=8)
    for panel in axes[panels:]:
        panel.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _strips(imagined: Mapping[str, Future], truth: Future | None, image: str) -> Figure:
    strips = ({"truth": truth} if truth is not None else {}) | dict(imagined)
    steps = len(next(iter(imagined.values())).goes_on)
    shown = np.unique(np.linspace(1, steps, min(FRAMES, steps)).round().astype(int))
    figure = Figure(
        figsize=(1.2 * len(shown) + 0.8, 1.25 * len(strips) + 0.3), layout="constrained"
    )
    axes = figure.subplots(len(strips), len(shown), squeeze=False)
    for line, (name, future) in zip(axes, strips.items(), strict=True):
        line[0].set_ylabel(name)
        for panel, step in zip(line, shown, strict=True):
            frame = future.observation[image][step - 1]
            panel.imshow(frame if frame.shape[-1] == 3 else frame[..., 0], cmap="gray")
            panel.set_xticks([])
            panel.set_yticks([])
    for panel, step in zip(axes[0], shown, strict=True):
        panel.set_title(f"step {step}", fontsize=9)
    return figure
