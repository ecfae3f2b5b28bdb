"""Points: the vectors of an observation, standardized by training statistics and concatenated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.config.registry import names
from worldmodel.data.spec import DataSpec, ObservationSpec
from worldmodel.errors import ConfigError
from worldmodel.nn.codecs import image_keys, vector_keys
from worldmodel.nn.distributions import ScaledMSE

MIN_CHANGE = 1e-3  # of an observation in a step, in its standard deviations


class VectorStatistics(NamedTuple):
    """Statistics of a vector per dimension; `change`, the RMS of a step, in units of `std`."""

    key: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    change: tuple[float, ...]

    @classmethod
    def of(cls, key: str, observation: ObservationSpec) -> VectorStatistics:
        count = observation.shape[0]
        mean, std = observation.mean or (0.0,) * count, observation.std or (1.0,) * count
        change = np.asarray(observation.delta_rms or std) / np.asarray(std)
        change = np.maximum(change, MIN_CHANGE)  # constants are predicted to stay constant
        return cls(key, mean, std, tuple(change.tolist()))


@dataclass(frozen=True)
class VectorNormalizer:
    """Vectors {name: (..., D)} <-> points (..., size), standardized and concatenated."""

    vectors: tuple[VectorStatistics, ...]

    @classmethod
    def of(cls, spec: DataSpec) -> VectorNormalizer:
        """Raises ConfigError for a dataset with images."""
        if images := image_keys(spec):
            accepted = names("model", lambda family: family.supports_images)
            raise ConfigError(
                f"model: this family supports vectors only, and {', '.join(images)} "
                f"are images; accepted: model={accepted}"
            )
        return cls(
            tuple(VectorStatistics.of(key, spec.observations[key]) for key in vector_keys(spec))
        )

    @property
    def size(self) -> int:
        return sum(len(vector.mean) for vector in self.vectors)

    def encode(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        parts = [
            (observation[v.key].astype(jnp.float32) - jnp.asarray(v.mean)) / jnp.asarray(v.std)
            for v in self.vectors
        ]
        return jnp.concatenate(parts, -1)

    def decode(self, point: jax.Array) -> Mapping[str, ScaledMSE]:
        ends = np.cumsum([len(v.mean) for v in self.vectors])[:-1]
        return {
            v.key: ScaledMSE(part, jnp.asarray(v.mean), jnp.asarray(v.std))
            for v, part in zip(self.vectors, jnp.split(point, ends, -1), strict=True)
        }

    def change(self) -> jax.Array:
        """(size,) the typical change of each number of a point in a step."""
        return jnp.concatenate([jnp.asarray(v.change) for v in self.vectors])
