"""Small panels as inline SVG: axes, lines, bands and points, coloured by the page's style sheet.

A panel is drawn for the width of a phone; a page lays several side by side where there is room.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np

LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 34


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

    def line(self, xs: Sequence[float], ys: Sequence[float], color: str) -> None:
        """Broken where a value is not finite."""
        pen, path = "M", []
        for x, y in zip(xs, ys, strict=True):
            if not math.isfinite(y):
                pen = "M"
                continue
            path.append(f"{pen}{_point(*self.at(x, y))}")
            pen = "L"
        self.parts.append(f'<path class="line {color}" d="{"".join(path)}"/>')

    def band(
        self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], color: str
    ) -> None:
        inside = [i for i in range(len(xs)) if math.isfinite(low[i]) and math.isfinite(high[i])]
        edge = [self.at(xs[i], high[i]) for i in inside]
        edge += [self.at(xs[i], low[i]) for i in reversed(inside)]
        points = " ".join(_point(*p) for p in edge)
        self.parts.append(f'<polygon class="band {color}" points="{points}"/>')

    def dots(
        self, xs: Sequence[float], ys: Sequence[float], color: str, radius: float = 2.2
    ) -> None:
        for x, y in zip(xs, ys, strict=True):
            if not (math.isfinite(x) and math.isfinite(y)):
                continue  # has no place on the axes
            px, py = self.at(x, y)
            self.parts.append(
                f'<circle class="dot {color}" cx="{px:.1f}" cy="{py:.1f}" r="{radius}"/>'
            )

    def bar(self, low: float, high: float, middle: float, y: float, color: str) -> None:
        """A horizontal interval with a mark at its value; nothing where they are not finite."""
        if not all(map(math.isfinite, (low, high, middle))):
            return
        (x0, row), (x1, _), (xm, _) = self.at(low, y), self.at(high, y), self.at(middle, y)
        self.parts.append(
            f'<path class="interval {color}" d="M{x0:.1f},{row:.1f}H{x1:.1f}"/>'
            f'<path class="mark {color}" d="M{xm:.1f},{row - 7:.1f}l6,7l-6,7l-6,-7z"/>'
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
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    return float(low - margin * (high - low)), float(high + margin * (high - low))


def png(image: np.ndarray) -> str:
    """A data URI of a uint8 image (height, width, 1 or 3 channels; any other count: the first)."""
    image = image if image.shape[-1] in (1, 3) else image[..., :1]
    height, width, channels = image.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], 1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _wide(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits that are not one and the same number."""
    low, high = limits
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)


def _point(x: float, y: float) -> str:
    return f"{x:.1f},{y:.1f}"


def _number(value: float) -> str:
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "\u2212")
    if abs(value) >= 1e4:
        return f"{value / 1000:g}k".replace("-", "\u2212")
    return f"{value:g}".replace("-", "\u2212")
