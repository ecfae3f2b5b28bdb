"""The figures of reports: small panels as inline SVG (axes, lines, bands, points), and images.

A panel is drawn for the width of a phone, and coloured by the page's style sheet; a page lays
several side by side where there is room.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from worldmodel.evaluation.markup import escape
from worldmodel.evaluation.statistics import Estimate, values_and_ends

LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 34
LARGEST_DRAWN = 1e300  # of numbers: their range is finite
MOST_DIMENSIONS = 4  # of a vector drawn over time
MOST_FRAMES = 6  # of an image strip
MOST_POINTS = 200  # of a training curve
CURVES = (
    "loss/total",
    "loss/observation",
    "loss/image",
    "loss/reward",
    "latent/kl",
    "loss/actor",
    "loss/critic",
    "policy/return",
    "policy/entropy",
)
# A GIF has the first of these numbers of frames, evenly spaced, that is at most MOST_BYTES.
FRAMES = (60, 40, 25, 15, 8)
MOST_BYTES = 400_000  # in base64
LARGEST = 96  # pixels of a frame's height
MILLISECONDS = 100  # of a frame
COLOURS = 96
GAP = 2  # pixels between two images side by side


def figure(
    caption: str, panels: Iterable[tuple[str, str]], legend: Sequence[tuple[str, str]] = ()
) -> str:
    """HTML: a captioned grid of (title, drawing); `legend` names the colour classes."""
    cells = "".join(
        f'<div class="panel"><h4>{escape(title)}</h4>{drawing}</div>' for title, drawing in panels
    )
    keys = "".join(f'<span class="key {color}">{escape(name)}</span>' for color, name in legend)
    keys = f'<p class="legend">{keys}</p>' if keys else ""
    return (
        f'<figure>{keys}<div class="grid-of-panels">{cells}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def interval_bars(
    numbers: Mapping[str, Estimate], colors: Mapping[str, str], label: str, x_title: str
) -> str:
    """A row for each run or method: its value, and its interval if it has one."""
    panel = Panel(
        extent(values_and_ends(list(numbers.values()))),
        (-0.5, len(numbers) - 0.5),
        label=label,
        x_title=x_title,
        height=70 + 26 * len(numbers),
        left=12,
        y_ticks=False,
    )
    for row, (name, number) in enumerate(numbers.items()):
        panel.interval(number, len(numbers) - 1 - row, colors[name])
    return panel.svg()


def training_curves(lines: Iterable[str]) -> str:
    """The main metrics of every stage over its updates, from the lines of metrics.jsonl. A line
    that is no row, such as one that is still being written, is left out.
    """
    rows = [row for row in map(_metrics_row, lines) if row]
    stages = dict.fromkeys(row["stage"] for row in rows)
    panels = [
        (f"{name} \u00b7 {stage}", drawing)
        for stage in stages
        for name in CURVES
        if (drawing := _training_panel(rows, stage, name))
    ]
    caption = "Metrics over updates, as logged in metrics.jsonl (means over a log interval)."
    return figure(caption, panels) if panels else ""


def _metrics_row(line: str) -> dict[str, Any] | None:
    """The stage and the numbers of a line that can be drawn; None without a stage and a step."""
    try:
        row = json.loads(line)
        numbers = {k: float(v) for k, v in row.items() if type(v) in (int, float)}
    except (ValueError, OverflowError, RecursionError, AttributeError):
        return None
    drawn = {name: number for name, number in numbers.items() if _drawable(number)}
    stage = row.get("stage")
    return {"stage": stage} | drawn if isinstance(stage, str) and "step" in drawn else None


def _training_panel(rows: list[dict[str, Any]], stage: str, name: str) -> str:
    points = {row["step"]: row[name] for row in rows if row["stage"] == stage and name in row}
    if len(points) < 2:
        return ""
    every = -(-len(points) // MOST_POINTS)
    steps, values = list(points)[::every], np.array(list(points.values()), float)[::every]
    panel = Panel(
        (min(steps), max(steps)), extent(values), label=f"{name}, {stage}", x_title="updates",
        height=170,
    )  # fmt: skip
    panel.line(steps, values, "real")
    return panel.svg()


class Panel:
    """One pair of axes over the ranges `x` and `y`. Marks take the name of a colour class."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        label: str,
        x_title: str = "",
        y_title: str = "",
        width: int = 360,
        height: int = 220,
        left: int = LEFT,
        y_ticks: bool = True,
    ):
        self.x, self.y = _wide(x), _wide(y)
        self.label, self.width, self.height, self.left = label, width, height, left
        self.parts: list[str] = []
        self._axes(x_title, y_title, y_ticks)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Data to pixels."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.left + across * (self.width - self.left - RIGHT),
            TOP + (1 - up) * (self.height - TOP - BOTTOM),
        )

    def line(self, xs: ArrayLike, ys: ArrayLike, color: str) -> None:
        """Broken where a value is not finite."""
        pen, path = "M", []
        for x, y in _points(xs, ys):
            if not _drawable(y):
                pen = "M"
                continue
            path.append(f"{pen}{_point(*self.at(x, y))}")
            pen = "L"
        self.parts.append(f'<path class="line {color}" d="{"".join(path)}"/>')

    def band(self, xs: ArrayLike, low: ArrayLike, high: ArrayLike, color: str) -> None:
        upper, lower = _points(xs, high), _points(xs, low)
        drawn = [i for i in range(len(upper)) if _drawable(upper[i][1], lower[i][1])]
        edge = [self.at(*upper[i]) for i in drawn] + [self.at(*lower[i]) for i in reversed(drawn)]
        points = " ".join(_point(*p) for p in edge)
        self.parts.append(f'<polygon class="band {color}" points="{points}"/>')

    def dots(self, xs: ArrayLike, ys: ArrayLike, color: str, radius: float = 2.2) -> None:
        for x, y in _points(xs, ys):
            if not _drawable(x, y):
                continue  # cannot be drawn
            px, py = self.at(x, y)
            self.parts.append(
                f'<circle class="dot {color}" cx="{px:.1f}" cy="{py:.1f}" r="{radius}"/>'
            )

    def interval(self, number: Estimate, y: float, color: str) -> None:
        """A mark at the value, on a horizontal bar for its interval, if it has one."""
        if not _drawable(number.value):
            return
        ends = (x if _drawable(x) else number.value for x in (number.low, number.high))
        (x0, row), (x1, _) = (self.at(end, y) for end in ends)
        middle, _ = self.at(number.value, y)
        self.parts.append(
            f'<path class="interval {color}" d="M{x0:.1f},{row:.1f}H{x1:.1f}"/>'
            f'<path class="mark {color}" d="M{middle:.1f},{row - 7:.1f}l6,7l-6,7l-6,-7z"/>'
        )

    def rule(self, x: float) -> None:
        """A vertical line from top to bottom."""
        px, _ = self.at(x, self.y[0])
        self.parts.append(f'<path class="rule" d="M{px:.1f},{TOP}V{self.height - BOTTOM}"/>')

    def text(self, x: float, y: float, words: str, color: str = "") -> None:
        """Beside the left axis, at the height of `y`."""
        _, row = self.at(self.x[0], y)
        self.parts.append(
            f'<text class="name {color}" x="{x}" y="{row + 4:.1f}">{escape(words)}</text>'
        )

    def svg(self) -> str:
        return (
            f'<svg role="img" aria-label="{escape(self.label)}" '
            f'viewBox="0 0 {self.width} {self.height}">{"".join(self.parts)}</svg>'
        )

    def _axes(self, x_title: str, y_title: str, y_ticks: bool) -> None:
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        for tick in ticks(*self.y, 4) if y_ticks else []:
            _, py = self.at(self.x[0], tick)
            self.parts.append(
                f'<path class="grid" d="M{self.left},{py:.1f}H{right}"/>'
                f'<text class="tick end" x="{self.left - 5}" y="{py + 3.5:.1f}">'
                f"{_number(tick)}</text>"
            )
        for tick in ticks(*self.x, 5):
            px, _ = self.at(tick, self.y[0])
            self.parts.append(
                f'<path class="axis" d="M{px:.1f},{bottom}v3"/>'
                f'<text class="tick middle" x="{px:.1f}" y="{bottom + 14}">{_number(tick)}</text>'
            )
        self.parts.append(f'<path class="axis" d="M{self.left},{bottom}H{right}"/>')
        middle = (self.left + right) / 2
        self.parts.append(
            f'<text class="title middle" x="{middle}" y="{self.height - 5}">'
            f"{escape(x_title)}</text>"
        )
        if y_title:
            self.parts.append(
                f'<text class="title middle" transform="translate(10 {(TOP + bottom) / 2}) '
                f'rotate(-90)">{escape(y_title)}</text>'
            )


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers inside [low, high]."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def extent(*arrays: np.ndarray, margin: float = 0.05) -> tuple[float, float]:
    """The range of all finite values, a little widened."""
    values = np.concatenate([np.ravel(a) for a in arrays]).astype(np.float64)
    values = values[np.abs(values) <= LARGEST_DRAWN]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    return float(low - margin * (high - low)), float(high + margin * (high - low))


def _drawable(*values: float) -> bool:
    return all(abs(value) <= LARGEST_DRAWN for value in values)  # NaN is not


def _wide(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits that differ, by more than rounding."""
    low, high = (min(max(x, -LARGEST_DRAWN), LARGEST_DRAWN) for x in limits)
    size = max(abs(low), abs(high))
    if high - low > 1e-12 * size and size > 1 / LARGEST_DRAWN:
        return low, high
    half = size / 2 if size > 1 / LARGEST_DRAWN else 0.5
    return low - half, high + half


def _points(xs: ArrayLike, ys: ArrayLike) -> list[tuple[float, float]]:
    x, y = (np.asarray(values, np.float64).tolist() for values in (xs, ys))
    return list(zip(x, y, strict=True))


def _point(x: float, y: float) -> str:
    return f"{x:.1f},{y:.1f}"


def _number(value: float) -> str:
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "\u2212")
    if abs(value) >= 1e4:
        return f"{value / 1000:g}k".replace("-", "\u2212")
    return f"{value:g}".replace("-", "\u2212")


# --------------------------------------------------------------------------------------- images


def image_strip(real: np.ndarray, imagined: np.ndarray) -> str:
    """Real images (H, ...) and sampled ones (S, H, ...): as one moving picture, and as rows."""
    horizon = imagined.shape[1]
    steps = np.unique(np.geomspace(1, horizon, MOST_FRAMES).round().astype(int))
    mean = np.nan_to_num(imagined.astype(np.float32).mean(0))
    mean = np.clip(mean, 0, 255).round().astype(np.uint8)
    video = gif(concatenate_frames(real, mean))
    moving = f'<img class="moving" alt="real and imagined, {horizon} steps" src="{video}">'
    heads = "".join(f"<span>+{step}</span>" for step in steps)
    frames = "".join(
        f'<img alt="{kind}, {step} steps ahead" src="{png(image)}">'
        for kind, images in (("real", real), ("imagined", mean))
        for step, image in zip(steps, images[steps - 1], strict=True)
    )
    return f'{moving}<div class="strip" style="--frames:{len(steps)}">{heads}{frames}</div>'


def png(image: np.ndarray) -> str:
    """A data URI of a uint8 image (height, width, C); of C other than 1 or 3, the first."""
    return _data_uri("PNG", _image(image))


def gif(frames: np.ndarray) -> str:
    """A data URI of uint8 frames (T, height, width, C); of C other than 1 or 3, the first."""
    uri = ""
    for most in FRAMES:
        kept = np.linspace(0, len(frames) - 1, min(len(frames), most)).round().astype(int)
        first, *others = [_frame(frames[i]) for i in kept]
        how = {"save_all": True, "append_images": others, "duration": MILLISECONDS, "loop": 0}
        uri = _data_uri("GIF", first, **how)
        if len(uri) <= MOST_BYTES:
            break
    return uri


def concatenate_frames(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(T, height, width, C) twice -> (T, height, 2 widths and a white gap, C)."""
    gap = np.full((*left.shape[:2], GAP, left.shape[-1]), 255, np.uint8)
    return np.concatenate([left, gap, right], 2)


def _image(values: np.ndarray) -> Image.Image:
    values = values if values.shape[-1] in (1, 3) else values[..., :1]
    return Image.fromarray(np.repeat(values, 3 // values.shape[-1], -1))


def _frame(values: np.ndarray) -> Image.Image:
    """Not too high, in few colours."""
    image = _image(values)
    if image.height > LARGEST:
        image = image.resize((round(image.width * LARGEST / image.height), LARGEST))
    return image.quantize(COLOURS, dither=Image.Dither.NONE)


def _data_uri(kind: str, image: Image.Image, **how: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
