"""Points: what one observation says, as one vector. Its vectors are standardised by training
statistics and laid end to end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.data.spec import DataSpec, ObservationSpec
from worldmodel.nn.codecs import vector_keys
from worldmodel.nn.distributions import ScaledMSE

SMALLEST_CHANGE = 1e-3  # of an observation in a step, in its standard deviations


class VectorStatistics(NamedTuple):
    """Statistics of a vector, one number a dimension; change in units of std."""

    key: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    change: tuple[float, ...]

    @classmethod
    def of(cls, key: str, observation: ObservationSpec) -> VectorStatistics:
        count = observation.shape[0]
        mean, std = observation.mean or (0.0,) * count, observation.std or (1.0,) * count
        change = np.asarray(observation.delta_rms or std) / np.asarray(std)
        change = np.maximum(change, SMALLEST_CHANGE)  # what never changes is to stay where it is
        return cls(key, mean, std, tuple(change.tolist()))


@dataclass(frozen=True)
class VectorNormalizer:
    """Vectors {name: (..., D)}, standardised and laid end to end: (..., size)."""

    vectors: tuple[VectorStatistics, ...]

    @classmethod
    def of(cls, spec: DataSpec) -> VectorNormalizer:
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
        """(size,) how far a step typically moves each number of a point."""
        return jnp.concatenate([jnp.asarray(v.change) for v in self.vectors])
