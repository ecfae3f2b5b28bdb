"""What is shown of observations: their first numbers, and how far a dreamed one is from the real.

An image counts as one number, its mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.evaluation.sampled_rollouts import PIXEL_RANGE

WIDTH = 9  # characters of a number in a table, with the space before it


def value_names(spec: DataSpec) -> list[str]:
    """What `values` are called."""
    found = []
    for name, o in spec.observations.items():
        many = not o.is_image and o.shape[0] > 1
        found += [f"{name}.{i}" for i in range(o.shape[0])] if many else [name]
    return found if len(spec.observations) > 1 else [n.rpartition(".")[2] for n in found]


def flatten_observation(observation: Mapping[str, np.ndarray], spec: DataSpec) -> np.ndarray:
    """(..., D) of observations {name: (..., *shape)}: vectors one after another."""
    parts = []
    for name, o in spec.observations.items():
        seen = np.asarray(observation[name], np.float64)
        parts.append(seen.mean((-3, -2, -1))[..., None] if o.is_image else seen)
    return np.concatenate(parts, -1)


def normalized_rmse(
    dreamed: Mapping[str, np.ndarray], real: Mapping[str, np.ndarray], spec: DataSpec
) -> float:
    """Root mean square of the difference, in training standard deviations of each number; of
    images alone, in shares of the pixels' range.
    """
    vectors = {name: o for name, o in spec.observations.items() if not o.is_image}
    judged = vectors or spec.observations
    off = [
        (np.asarray(dreamed[name], np.float64) - real[name]) / (o.std or PIXEL_RANGE)
        for name, o in judged.items()
    ]
    return float(np.sqrt(np.mean(np.square(np.concatenate([x.ravel() for x in off])))))


def error_unit(spec: DataSpec) -> str:
    only_images = all(o.is_image for o in spec.observations.values())
    return "shares of the pixels' range" if only_images else "training standard deviations"


def format_number(value: float | None) -> str:
    """WIDTH characters: three digits that count, or a dash."""
    if value is None:
        return "-".rjust(WIDTH)
    size = abs(value)
    digits = f"{value:.1e}" if value and (size < 1e-2 or size >= 1e5) else f"{value:.3g}"
    return (f"{value:.0f}" if 1e3 <= size < 1e5 else digits).rjust(WIDTH)


def format_heading(name: str) -> str:
    """WIDTH characters: the name of a column, without its middle where it is long."""
    return (name if len(name) < WIDTH else f"{name[: WIDTH - 4]}~{name[-2:]}").rjust(WIDTH)
