"""Example rollouts of a report: a few starts in full, next to what was logged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldmodel.evaluation.figures import MOST_DIMENSIONS, Panel, extent, figure, image_strip

EXAMPLES = {"easier": 0.25, "typical": 0.5, "harder": 0.75}  # quantiles of the error


@dataclass(frozen=True)
class ExampleRollout:
    """One start in raw units. real: (C + H, ...), the context first; imagined: (S, H, ...)."""

    name: str
    episode: int
    row: int
    context_length: int
    real: np.ndarray
    imagined: np.ndarray


def draw_vectors(key: str, examples: list[ExampleRollout]) -> str:
    """Vectors over time."""
    size = examples[0].real.shape[1]
    spread = np.concatenate([e.real for e in examples]).std(0)
    dimensions = np.sort(np.argsort(-spread, kind="stable")[:MOST_DIMENSIONS])
    panels = [
        (f"{key}[{d}] \u00b7 {e.name} start", _line_panel(key, int(d), e, examples))
        for d in dimensions
        for e in examples
    ]
    some = f"The {len(dimensions)} of {size} dimensions that vary most. " if size > 4 else ""
    return figure(
        f"Imagined and real: {key}. {some}{_which(examples)} Left of the dotted line the model "
        "observes the episode, right of it only the actions.",
        panels,
        [("real", "real"), ("model", "imagined (mean; thin: sampled rollouts)")],
    )


def _line_panel(key: str, d: int, example: ExampleRollout, examples: list[ExampleRollout]) -> str:
    real, imagined = example.real[:, d], example.imagined[:, :, d]
    ahead = np.arange(len(real)) - example.context_length + 1
    panel = Panel(
        (ahead[0], ahead[-1]),
        extent(*(e.real[:, d] for e in examples), *(e.imagined[..., d] for e in examples)),
        label=f"{key}[{d}], {example.name} start: imagined and real",
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


def draw_images(key: str, examples: list[ExampleRollout]) -> str:
    """Images, moving and as strips."""
    panels = [
        (f"{e.name} start", image_strip(e.real[e.context_length :], e.imagined)) for e in examples
    ]
    return figure(
        f"Imagined and real: {key}. {_which(examples)} Moving: real on the left, the mean of the "
        "sampled rollouts on the right. Below: real in the upper row, imagined in the lower row, "
        "with the number of steps ahead.",
        panels,
    )


def _which(examples: list[ExampleRollout]) -> str:
    if len(examples) < len(EXAMPLES):
        return f"{len(examples)} held-out start(s)."
    return (
        "Three held-out starts, at the 25th, 50th and 75th percentile of the model's error at the "
        "longest horizon."
    )
