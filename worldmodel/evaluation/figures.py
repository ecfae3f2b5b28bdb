"""The report's figures, each a grid of small panels as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from worldmodel.evaluation.calibration import Calibration
from worldmodel.evaluation.gif import concatenate_frames, gif
from worldmodel.evaluation.policy_ranking import PolicyRanking
from worldmodel.evaluation.prediction import ExampleRollout, ObservationPrediction
from worldmodel.evaluation.results import AgentReturns
from worldmodel.evaluation.spectrum import KEPT_AFTER, Spectrum
from worldmodel.evaluation.statistics import Estimate
from worldmodel.evaluation.svg import Panel, extent, png

MOST_DIMENSIONS = 4  # of a vector drawn over time
MOST_DOTS = 200  # single returns in a row
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
CALIBRATION = (
    "Calibration of sampled futures. Rank of the truth among the samples: level if they are drawn "
    "from what can happen, high at both ends where they are too sure, in the middle where they are "
    "too wide. Coverage: how often an interval of the samples holds the truth; on the line if it "
    "is right, below where it is too sure. Bands are intervals of these shares."
)
COLORS = {"policy": "model", "planner": "model", "dataset": "logs", "random": "baseline"}


def figure(caption: str, panels: Iterable[tuple[str, str]], legend: Sequence[tuple[str, str]] = ()):
    """A captioned grid of (title, drawing); `legend` names colour classes."""
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
    numbers: dict[str, Estimate], colors: dict[str, str], label: str, x_title: str
) -> str:
    """A row a run or method: its value, and its interval if it has one."""
    ends = {
        name: [x if np.isfinite(x) else n.value for x in (n.low, n.high)] + [n.value]
        for name, n in numbers.items()
    }
    panel = Panel(
        extent(np.array(list(ends.values()))),
        (-0.5, len(ends) - 0.5),
        label=label,
        x_title=x_title,
        height=70 + 26 * len(ends),
        left=12,
        y_ticks=False,
    )
    for row, (name, (low, high, value)) in enumerate(ends.items()):
        panel.bar(low, high, value, len(ends) - 1 - row, colors[name])
    return panel.svg()


def horizon_curves(predictions: dict[str, ObservationPrediction]) -> str:
    """Error by horizon: model against persistence and climatology."""
    panels = [(key, _horizon_panel(key, judged)) for key, judged in predictions.items()]
    legend = [("model", "model"), ("baseline", "persistence")]
    if any(judged.curve.climatology is not None for judged in predictions.values()):
        legend.append(("logs", "climatology (median only)"))
    return figure(
        "Error by horizon: median over starts, and the quartiles as a band. Persistence repeats "
        "the last seen observation; climatology is always the training mean.",
        panels,
        legend,
    )


def _horizon_panel(key: str, judged: ObservationPrediction) -> str:
    curve = judged.curve
    steps = np.arange(1, curve.model.shape[1] + 1)
    _, top = extent(curve.model, curve.persistence)
    unit = "error / pixel range" if "pixel" in judged.unit else "error / training std"
    panel = Panel(
        (min(1, steps[-1] - 1), steps[-1]),
        (0, top),
        label=f"{key}: error of model and persistence by horizon",
        x_title="steps ahead",
        y_title=unit,
        width=400,
        height=250,
    )
    panel.band(steps, curve.persistence[0], curve.persistence[2], "baseline")
    panel.band(steps, curve.model[0], curve.model[2], "model")
    if curve.climatology is not None:
        panel.line(steps, curve.climatology[1], "logs dashed")
    panel.line(steps, curve.persistence[1], "baseline")
    panel.line(steps, curve.model[1], "model")
    return panel.svg()


def calibration(predictions: dict[str, ObservationPrediction]) -> str:
    """Of each observation with sampled futures, at the shortest, a middle and the longest horizon:
    where the truth ranks among the samples, and how often it is inside an interval.
    """
    panels = []
    for key, judged in predictions.items():
        horizons = list(judged.calibration)
        for h in dict.fromkeys(horizons[i] for i in (0, len(horizons) // 2, -1) if horizons):
            found = judged.calibration[h]
            name = f"{key} \u00b7 +{h}"
            panels.append((f"{name}: rank of the truth", _rank_panel(name, found)))
            if found.coverage:
                panels.append((f"{name}: coverage", _coverage_panel(name, found)))
    return figure(CALIBRATION, panels) if panels else ""


def _rank_panel(name: str, found: Calibration) -> str:
    """Shares times their number: 1 where samples and truth are alike."""
    count = len(found.rank_histogram)
    low, value, high = (
        np.array([getattr(rank, end) for rank in found.rank_histogram]) * count
        for end in ("low", "value", "high")
    )
    panel = Panel(
        (-0.5, count - 0.5),
        (0, max(2.0, extent(high, value)[1])),
        label=f"{name} steps: how often the truth has each rank among the samples",
        x_title="samples below the truth",
        y_title="share / uniform share",
        height=180,
    )
    edges = np.repeat(np.arange(count + 1) - 0.5, 2)[1:-1]
    low, value, high = (np.repeat(x, 2) for x in (low, value, high))
    panel.band(edges, low, high, "model")
    panel.line(edges, value, "model")
    panel.line([-0.5, count - 0.5], [1, 1], "logs dashed")
    return panel.svg()


def _coverage_panel(name: str, found: Calibration) -> str:
    nominal = np.array([found.nominal[level] for level in found.coverage])
    low, value, high = (
        np.array([getattr(number, end) for number in found.coverage.values()])
        for end in ("low", "value", "high")
    )
    panel = Panel(
        (0, 1),
        (0, 1),
        label=f"{name} steps: how often an interval holds the truth",
        x_title="should hold",
        y_title="holds",
        height=180,
    )
    panel.line([0, 1], [0, 1], "logs dashed")
    panel.band(nominal, low, high, "model")
    panel.line(nominal, value, "model")
    panel.dots(nominal, value, "model", 3)
    return panel.svg()


def example_rollouts(predictions: dict[str, ObservationPrediction]) -> str:
    """A few starts: vectors over time with sampled futures, images moving and as strips."""
    figures = []
    for key, judged in predictions.items():
        if not judged.examples:
            continue
        draw = _strips if judged.examples[0].real.ndim == 4 else _lines
        figures.append(draw(key, judged.examples))
    return "".join(figures)


def _lines(key: str, examples: list[ExampleRollout]) -> str:
    size = examples[0].real.shape[1]
    spread = np.concatenate([e.real for e in examples]).std(0)
    dimensions = np.sort(np.argsort(-spread, kind="stable")[:MOST_DIMENSIONS])
    panels = [
        (f"{key}[{d}] \u00b7 {e.name} start", _line_panel(key, int(d), e, examples))
        for d in dimensions
        for e in examples
    ]
    shown = f"The {len(dimensions)} of {size} dimensions that vary most. " if size > 4 else ""
    return figure(
        f"Imagined against real: {key}. {shown}{_which(examples)} Left of the dotted line the "
        "model sees the log, right of it only the actions.",
        panels,
        [("real", "real"), ("model", "imagined (mean; thin: single futures)")],
    )


def _line_panel(key: str, d: int, example: ExampleRollout, examples: list[ExampleRollout]) -> str:
    real, imagined = example.real[:, d], example.imagined[:, :, d]
    ahead = np.arange(len(real)) - example.context_length + 1
    panel = Panel(
        (ahead[0], ahead[-1]),
        extent(*(e.real[:, d] for e in examples), *(e.imagined[..., d] for e in examples)),
        label=f"{key}[{d}], {example.name} start: imagined against real",
        x_title="steps ahead",
        height=180,
    )
    panel.rule(0)
    future = ahead[example.context_length :]
    for sample in imagined:
        panel.line(future, sample, "model thin")
    panel.line(ahead, real, "real")
    panel.line(future, imagined.mean(0), "model")
    return panel.svg()


def _strips(key: str, examples: list[ExampleRollout]) -> str:
    panels = [(f"{e.name} start", _strip(e)) for e in examples]
    return figure(
        f"Imagined against real: {key}. {_which(examples)} Moving: left real, right the mean "
        "imagined future. Below, upper row real, lower row imagined; the number is how many steps "
        "ahead.",
        panels,
    )


def _strip(example: ExampleRollout) -> str:
    horizon = example.imagined.shape[1]
    steps = np.unique(np.geomspace(1, horizon, MOST_FRAMES).round().astype(int))
    real = example.real[example.context_length :]
    imagined = example.imagined.astype(np.float32).mean(0)
    imagined = np.clip(np.nan_to_num(imagined), 0, 255).round().astype(np.uint8)
    video = gif(concatenate_frames(real, imagined))
    moving = f'<img class="moving" alt="real and imagined, {horizon} steps" src="{video}">'
    heads = "".join(f"<span>+{step}</span>" for step in steps)
    frames = "".join(
        f'<img alt="{who}, {step} steps ahead" src="{png(image)}">'
        for who, images in (("real", real), ("imagined", imagined))
        for step, image in zip(steps, images[steps - 1], strict=True)
    )
    return f'{moving}<div class="strip" style="--frames:{len(steps)}">{heads}{frames}</div>'


def _which(examples: list[ExampleRollout]) -> str:
    if len(examples) < 3:
        return f"{len(examples)} held-out start(s)."
    return (
        "Three held-out starts, at the 25th, 50th and 75th percentile of the model's error at the "
        "longest horizon."
    )


def returns_by_agent(returns: dict[str, AgentReturns]) -> str:
    """A dot an episode; a diamond and a bar for the mean and its interval."""
    values = {name: _spread(r.episodes) for name, r in returns.items()}
    names = list(returns)
    panel = Panel(
        extent(*values.values()),
        (-0.6, len(names) - 0.4),
        label="Returns of single episodes, and means with intervals",
        x_title="undiscounted return of an episode",
        width=400,
        height=50 + 48 * len(names),
        left=64,
        y_ticks=False,
    )
    for row, name in enumerate(reversed(names)):
        episodes, mean = values[name], returns[name].mean
        # A fixed, even jitter keeps equal returns apart: the golden ratio's multiples.
        jitter = (np.arange(len(episodes)) * 0.6180339887 % 1 - 0.5) * 0.5
        panel.dots(episodes, row + jitter, COLORS[name])
        ends = [x if np.isfinite(x) else mean.value for x in (mean.low, mean.high)]
        panel.bar(*ends, mean.value, row, COLORS[name])
        panel.text(4, row, name, COLORS[name])
    few = any(len(r.episodes) > MOST_DOTS for r in returns.values())
    return figure(
        "A dot for every episode"
        + (f" (at most {MOST_DOTS}, evenly picked by rank)" if few else "")
        + "; the diamond is the mean, the bar its interval.",
        [("", panel.svg())],
    )


def imagined_and_real_returns(decision: PolicyRanking) -> str:
    """A cross a policy: its imagined return over its real one, with both intervals."""
    pairs = list(decision.policies.values())
    ends = [[(x.value, x.low, x.high) for x in (both.real, both.imagined)] for both in pairs]
    real, imagined = np.moveaxis(np.array(ends), 1, 0)  # (policies, 3) each
    span = extent(real, imagined)
    panel = Panel(
        span,
        span,
        label="Imagined against real return of every policy",
        x_title=f"real return after {decision.steps:,} steps",
        y_title="imagined return",
        width=400,
        height=374,  # so that a unit is as long upwards as across
        left=52,
    )
    panel.line(span, span, "logs dashed")
    for (x, *x_ends), (y, *y_ends) in zip(real, imagined, strict=True):
        panel.line(x_ends, [y, y], "model thin")
        panel.line([x, x], y_ends, "model thin")
    panel.dots(real[:, 0], imagined[:, 0], "model", 3.5)
    return figure(
        "A dot for every policy, its mean return in the model over that in the real environment, "
        "and their intervals. On the dashed line both are the same; a ranking needs only that the "
        "dots rise together.",
        [("", panel.svg())],
    )


def _spread(values: np.ndarray) -> np.ndarray:
    """At most MOST_DOTS of the values, by rank."""
    ordered = np.sort(values)
    if len(ordered) <= MOST_DOTS:
        return np.asarray(values)
    return ordered[np.linspace(0, len(ordered) - 1, MOST_DOTS).astype(int)]


def unit_disc(spectrum: Spectrum) -> str:
    """Eigenvalues of a step, and their conjugates, in the complex plane."""
    edge = 1.08 * max(1.0, spectrum.magnitude.max())
    panel = Panel(
        (-edge, edge),
        (-edge, edge),
        label="Eigenvalues of a step of the latent in the unit disc",
        x_title="real part",
        y_title="imaginary part",
        width=360,
        height=348,  # so that a unit is as long upwards as across
    )
    turn, half_life = np.linspace(0, 2 * np.pi, 121), KEPT_AFTER[0]
    for radius, form in ((1, "logs"), (0.5 ** (1 / half_life), "logs dashed")):
        panel.line(radius * np.cos(turn), radius * np.sin(turn), form)
    turning = spectrum.imaginary != 0  # a real eigenvalue is its own conjugate
    real = np.concatenate([spectrum.real, spectrum.real[turning]])
    imaginary = np.concatenate([spectrum.imaginary, -spectrum.imaginary[turning]])
    panel.dots(real, imaginary, "model", 3)
    return figure(
        "Eigenvalues of one step of the latent, for the action 0: a dot and its mirror image are a "
        "mode. The distance from the centre is the share that a step keeps, all of it on the "
        f"circle; outside the dashed one more than half is left after {half_life} steps. The angle "
        "is how far a step turns.",
        [("", panel.svg())],
    )


def training_curves(rows: list[dict[str, Any]]) -> str:
    """The main metrics of every stage over its updates."""
    stages = dict.fromkeys(row["stage"] for row in rows)
    panels = [
        (f"{name} \u00b7 {stage}", drawing)
        for stage in stages
        for name in CURVES
        if (drawing := _training_panel(rows, stage, name))
    ]
    caption = "Metrics over updates, as logged in metrics.jsonl (means over a log interval)."
    return figure(caption, panels) if panels else ""


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
