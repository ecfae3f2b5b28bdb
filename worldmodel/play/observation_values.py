"""Observations as numbers of a table: names, values and errors. An image counts as one number, its
mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.errors import printable
from worldmodel.evaluation.sampled_rollouts import PIXEL_RANGE

WIDTH = 9  # characters of a number in a table, with the space before it


def value_names(spec: DataSpec) -> list[str]:
    """The names of the values of `flatten_observation`, as a terminal shows them."""
    names = []
    for name, o in ((printable(name), o) for name, o in spec.observations.items()):
        many = not o.is_image and o.shape[0] > 1
        names += [f"{name}.{i}" for i in range(o.shape[0])] if many else [name]
    return names if len(spec.observations) > 1 else [n.rpartition(".")[2] for n in names]


def flatten_observation(observation: Mapping[str, np.ndarray], spec: DataSpec) -> np.ndarray:
    """Concatenates observations, name -> (..., *shape), to (..., D) in raw units."""
    parts = []
    for name, o in spec.observations.items():
        value = np.asarray(o.to_raw(observation[name]), np.float64)
        parts.append(value.mean((-3, -2, -1))[..., None] if o.is_image else value)
    return np.concatenate(parts, -1)


def normalized_rmse(
    dreamed: Mapping[str, np.ndarray], real: Mapping[str, np.ndarray], spec: DataSpec
) -> float:
    """Root mean squared error over all vectors, in training standard deviations; if there are only
    images, in fractions of the pixel range.
    """
    vectors = {name: o for name, o in spec.observations.items() if not o.is_image}
    errors = [
        ((np.asarray(dreamed[name], np.float64) - real[name]) / (o.std or PIXEL_RANGE)).ravel()
        for name, o in (vectors or spec.observations).items()
    ]
    return float(np.sqrt(np.mean(np.square(np.concatenate(errors)))))


def error_unit(spec: DataSpec) -> str:
    """The unit of `normalized_rmse`."""
    only_images = all(o.is_image for o in spec.observations.values())
    return "fractions of the pixel range" if only_images else "training standard deviations"


def format_number(value: float | None) -> str:
    """Three significant digits in WIDTH characters; a dash for None."""
    if value is None:
        return "-".rjust(WIDTH)
    size = abs(value)
    digits = f"{value:.1e}" if value and (size < 1e-2 or size >= 1e5) else f"{value:.3g}"
    return (f"{value:.0f}" if 1e3 <= size < 1e5 else digits).rjust(WIDTH)


def format_heading(name: str) -> str:
    """The name of a column in WIDTH characters; a long one is shortened in the middle."""
    return (name if len(name) < WIDTH else f"{name[: WIDTH - 4]}~{name[-2:]}").rjust(WIDTH)
