"""Plots of a dataset as PNG files: lengths and returns, and a few episodes over time."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodel.data.offsets import add_offset
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import printable

# Colors after Okabe and Ito, which remain distinguishable with any color vision.
OBSERVED, ACTED, EARNED = "#0067a5", "#c65102", "#007a5a"
ENDED, CUT = "#c65102", "#9aa3ad"  # terminal and truncated episodes
GRID = "#e4e6e9"
DPI = 110
MAX_COLUMNS = 8  # of one field that are drawn over time, evenly spaced
MAX_SERIES = 48  # that are drawn over time
MAX_NOTES = 4  # on what is not drawn
MAX_STEPS = 1000  # of an episode that are drawn
PANEL = (4.0, 0.95)  # inches, of one column of one episode
FRAMES = 10  # in a strip
MAX_LETTERS = 40  # of a name in a plot or a file name


class PlottedEpisode(NamedTuple):
    """An episode that is drawn, with its title."""

    episode: int
    title: str


def draw(
    trajectories: Trajectories,
    folder: Path,
    title: str,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> list[Path]:
    """Writes all plots of a dataset into `folder`, and returns their paths.

    `columns` names the columns of vectors, by observation, and of `action`.
    """
    chosen = representative_episodes(trajectories)
    figures = {
        "episodes": episodes(trajectories, title),
        "over-time": over_time(trajectories, chosen, title, columns or {}),
    }
    for i, (key, value) in enumerate(trajectories.observations.items()):
        if value.ndim == 4:
            name = "frames-" + re.sub(r"[^\w.+-]+", "-", key)[:MAX_LETTERS]
            name = f"{name}-{i}" if name in figures else name
            figures[name] = frames(trajectories, key, chosen, title)
    paths = []
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # letters that the font lacks
        for name, figure in figures.items():
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=DPI)
    return paths


def representative_episodes(trajectories: Trajectories) -> list[PlottedEpisode]:
    """The worst, the median and the best episode by return; without rewards, by length."""
    if trajectories.rewards is None:
        order, values = trajectories.lengths - 1, "{:,.0f} transitions"
        ranks = ("shortest", "median", "longest")
    else:
        order, values = trajectories.returns(), "return {:,.4g}"
        ranks = ("worst", "median", "best")
    ranked = np.argsort(order, kind="stable")
    places = {0: ranks[0], (len(ranked) - 1) // 2: ranks[1], len(ranked) - 1: ranks[2]}
    if len(ranked) == 1:
        places = {0: "the only one"}
    return [
        PlottedEpisode(int(e), f"{name}\n{rank}, {values.format(order[e])}")
        for place, rank in places.items()
        for e in [ranked[place]]
        for name in [_label(trajectories.name(e).rpartition("/")[2])]
    ]


def _label(name: object) -> str:
    """A name that came with the data, as a label: escaped, and shortened in the middle."""
    text, half = printable(name), MAX_LETTERS // 2
    return text if len(text) <= MAX_LETTERS else f"{text[:half]}...{text[-half:]}"


# ---------------------------------------------------------------------------------------- episodes


def episodes(trajectories: Trajectories, title: str) -> Figure:
    """Histograms of lengths and returns, by how episodes ended."""
    rewarded = trajectories.rewards is not None
    figure = Figure(figsize=(9.0 if rewarded else 4.8, 3.4), layout="constrained")
    figure.suptitle(_label(title), fontsize=11, parse_math=False)
    axes = figure.subplots(1, 2 if rewarded else 1, squeeze=False)[0]
    steps, ended = trajectories.lengths - 1, trajectories.terminated
    _histogram(axes[0], steps, ended, whole=True)
    axes[0].set_xlabel("length (transitions)")
    axes[0].set_ylabel("episodes")
    if rewarded:
        _histogram(axes[1], trajectories.returns(), ended)
        axes[1].set_xlabel("return (undiscounted sum of rewards)")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower right", ncols=2, fontsize=9, frameon=False,
    )  # fmt: skip
    return figure


def _histogram(axes: Axes, values: np.ndarray, ended: np.ndarray, whole: bool = False) -> None:
    """Stacked bars by how episodes ended; `whole` numbers get bins centered on them."""
    bins = int(np.clip(2 * np.sqrt(len(values)), 8, 40))
    low, high = float(values.min()), float(values.max())
    if whole and high - low < bins:
        room = max(0.0, (7 - (high - low)) // 2)
        edges = np.arange(low - room - 0.5, high + room + 1)
    elif low == high:
        margin = abs(low) * 0.05 or 0.5
        edges = np.linspace(low - margin, high + margin, bins)
    else:
        edges = np.linspace(low, high, bins + 1)
    kinds = {"truncated": (~ended, CUT), "terminal": (ended, ENDED)}
    kinds = {name: (which, color) for name, (which, color) in kinds.items() if which.any()}
    axes.hist(
        [values[which] for which, _ in kinds.values()],
        edges.tolist(),
        stacked=True,
        color=[color for _, color in kinds.values()],
        label=[f"{name} ({which.sum():,})" for name, (which, _) in kinds.items()],
        edgecolor="white",
        linewidth=0.6,
    )
    axes.locator_params(axis="y", integer=True)
    axes.locator_params(axis="x", integer=whole)
    _plain(axes)


# --------------------------------------------------------------------------------------- over time


class TimeSeries(NamedTuple):
    """One number per step (N,), drawn over time, with its `bounds` if it has any.

    Actions and rewards (`of_action`) hold until the next step, and the last step is padding.
    """

    title: str
    values: np.ndarray
    color: str
    of_action: bool = False
    bounds: tuple[float, ...] = ()


def over_time(
    trajectories: Trajectories,
    chosen: Sequence[PlottedEpisode],
    title: str,
    columns: Mapping[str, Sequence[str]],
) -> Figure:
    """Episodes side by side; from top to bottom observations, actions and reward."""
    tracks = list(_tracks(trajectories, columns))
    notes = [_label(title), *itertools.islice(_omissions(trajectories, chosen), MAX_NOTES)]
    if len(tracks) > MAX_SERIES:
        notes.append(f"{MAX_SERIES} of {len(tracks):,} series")
        tracks = [tracks[i] for i in np.linspace(0, len(tracks) - 1, MAX_SERIES).astype(int)]
    size = (PANEL[0] * len(chosen) + 0.8, PANEL[1] * len(tracks) + 1.2)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle("; ".join(notes), fontsize=11, parse_math=False)
    grid = figure.subplots(len(tracks), len(chosen), squeeze=False, sharex="col", sharey="row")
    for track, row in zip(tracks, grid, strict=True):
        for panel, (episode, _) in zip(row, chosen, strict=True):
            _line(panel, trajectories, episode, track)
        row[0].set_ylabel(
            track.title, fontsize=8, rotation=0, ha="right", va="center", parse_math=False
        )
    figure.align_ylabels(grid[:, 0])
    for panel, (_, heading) in zip(grid[0], chosen, strict=True):
        panel.set_title(heading, fontsize=9, parse_math=False)
    for panel in grid[-1]:
        panel.set_xlabel("step", fontsize=9)
    return figure


def _omissions(trajectories: Trajectories, chosen: Sequence[PlottedEpisode]) -> Iterator[str]:
    """Notes on fields and episodes of which only a part is drawn."""
    fields = {**trajectories.observations, "action": trajectories.actions}
    for key, value in fields.items():
        if value.ndim == 2 and value.shape[1] > MAX_COLUMNS:
            yield f"{MAX_COLUMNS} of {value.shape[1]:,} columns of {_label(key)}"
    if max(trajectories.lengths[episode] for episode, _ in chosen) > MAX_STEPS:
        yield f"first {MAX_STEPS:,} steps"


def _tracks(
    trajectories: Trajectories, columns: Mapping[str, Sequence[str]]
) -> Iterator[TimeSeries]:
    for key, value in trajectories.observations.items():
        if value.ndim == 2:
            offset = trajectories.vector_offsets.get(key, ())
            for i, name in _some(key, value.shape[1], columns.get(key)):
                yield TimeSeries(name, add_offset(value[:, i], offset[i : i + 1]), OBSERVED)
    spec, actions = trajectories.action_spec, trajectories.actions
    if spec.discrete:
        yield TimeSeries("action\n(class)", actions, ACTED, of_action=True)
    else:
        names = columns.get("action") or (spec.column_names() if spec.parts else None)
        for i, name in _some("action", spec.size, names):
            bounds = () if spec.classes[i] else (spec.low[i], spec.high[i])
            yield TimeSeries(name, actions[:, i], ACTED, of_action=True, bounds=bounds)
    if trajectories.rewards is not None:
        yield TimeSeries("reward", trajectories.rewards, EARNED, of_action=True)


def _some(key: str, size: int, names: Sequence[str] | None) -> Iterator[tuple[int, str]]:
    """The columns that are drawn, and their titles."""
    label = _label(key)
    for i in np.unique(np.linspace(0, size - 1, min(size, MAX_COLUMNS)).astype(int)).tolist():
        if names and len(names) == size:
            yield i, f"{label}\n{_label(names[i])}"
        else:
            yield i, label if size == 1 else f"{label} [{i}]"


def _line(axes: Axes, trajectories: Trajectories, episode: int, track: TimeSeries) -> None:
    first, length = trajectories.offsets[episode], trajectories.lengths[episode] - 1
    steps = min(
        int(length if track.of_action else trajectories.observed_lengths[episode]), MAX_STEPS
    )
    style = "steps-post" if track.of_action else "default"
    values = track.values[first : first + steps]
    axes.plot(values, color=track.color, linewidth=1.0, drawstyle=style)
    for bound in track.bounds:
        axes.axhline(bound, color=CUT, linewidth=0.8, linestyle="--")
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


# ------------------------------------------------------------------------------------------ images


def frames(
    trajectories: Trajectories, key: str, chosen: Sequence[PlottedEpisode], title: str
) -> Figure:
    """Evenly spaced images of each episode, one strip per episode."""
    images = trajectories.observations[key]
    height, width = images.shape[1:3]
    wide = 1.2  # inches of one image
    tall = float(np.clip(wide * height / width, 0.3, 3.0)) + 0.4  # with its labels
    figure = Figure(figsize=(wide * FRAMES, tall * len(chosen) + 0.3), layout="constrained")
    heading = f"{_label(title)}: {_label(key)}, {width} x {height} pixels"
    figure.suptitle(heading, fontsize=11, parse_math=False)
    strips = figure.subfigures(len(chosen), 1, squeeze=False)[:, 0]
    for strip, (episode, heading) in zip(strips, chosen, strict=True):
        strip.suptitle(heading.replace("\n", ": "), fontsize=9, x=0.01, ha="left", parse_math=False)
        length = int(trajectories.observed_lengths[episode])
        steps = np.linspace(0, length - 1, FRAMES).round().astype(int)
        for panel, step in zip(strip.subplots(1, FRAMES), steps, strict=True):
            _picture(panel, images[trajectories.offsets[episode] + step])
            panel.set_xlabel(f"step {step:,}", fontsize=8)
    return figure


def _picture(axes: Axes, image: np.ndarray) -> None:
    """Shows three or four channels as colors; otherwise the first channel."""
    image = image[..., :3] if image.shape[-1] in (3, 4) else image[..., 0]
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
