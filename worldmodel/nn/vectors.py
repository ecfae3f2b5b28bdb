"""The vectors of an observation as one. A program of one operation per vector would take minutes to
compile where there are hundreds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.errors import ArgumentError
from worldmodel.nn.distributions import Distribution, ScaledMSE, SymlogMSE, symlog

MIN_CHANGE = 1e-3  # of a standardized vector in a step


def image_keys(spec: DataSpec) -> list[str]:
    return sorted(key for key, o in spec.observations.items() if o.is_image)


def vector_keys(spec: DataSpec) -> list[str]:
    return sorted(key for key, o in spec.observations.items() if not o.is_image)


@dataclass(frozen=True)
class Vectors:
    """Vectors {name: (..., D)} in raw units <-> one (..., size), concatenated in the order of their
    names and normalized: (x - shift) / scale, or symlog.

    lengths: of each vector, D
    shift, scale: (size,)
    symlog: whether each vector is transformed by symlog instead
    """

    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    symlog: tuple[bool, ...]

    @classmethod
    def of(cls, spec: DataSpec, standardized: bool = False) -> Vectors:
        """Normalized as the spec says, or all `standardized`."""
        vectors = {key: spec.observations[key] for key in vector_keys(spec)}
        symlog = tuple(not standardized and v.normalization == "none" for v in vectors.values())
        scaling = [
            (v.mean or (0.0,) * v.shape[0], v.std or (1.0,) * v.shape[0])
            if standardized
            else v.shift_and_scale()
            for v in vectors.values()
        ]
        shift, scale = np.concatenate([np.zeros((2, 0)), *scaling], 1).tolist()
        lengths = tuple(v.shape[0] for v in vectors.values())
        return cls(tuple(vectors), lengths, tuple(shift), tuple(scale), symlog)

    @property
    def size(self) -> int:
        return sum(self.lengths)

    def concatenate(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        """(..., size) float32, in raw units. Raises ArgumentError for other names or sizes."""
        for key, length in zip(self.keys, self.lengths, strict=True):
            shape = observation[key].shape if key in observation else "missing"
            if shape == "missing" or shape[-1:] != (length,):
                raise ArgumentError(f"observation {key!r}: {shape}; accepted: (..., {length})")
        return jnp.concatenate([observation[key].astype(jnp.float32) for key in self.keys], -1)

    def normalize(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        x = self.concatenate(observation)
        if all(self.symlog):
            return symlog(x)
        scaled = (x - jnp.asarray(self.shift)) / jnp.asarray(self.scale)
        if not any(self.symlog):
            return scaled
        return jnp.where(np.repeat(self.symlog, self.lengths), symlog(x), scaled)

    def predict(self, location: jax.Array) -> dict[str, Distribution]:
        """The distribution of each vector in raw units, by its normalized mean (..., size)."""
        ends = np.cumsum(self.lengths)[:-1]
        parts = jnp.split(location, ends, -1)
        shifts, scales = (np.split(np.array(x, np.float32), ends) for x in (self.shift, self.scale))
        return {
            key: SymlogMSE(part) if log else ScaledMSE(part, jnp.asarray(shift), jnp.asarray(scale))
            for key, log, part, shift, scale in zip(
                self.keys, self.symlog, parts, shifts, scales, strict=True
            )
        }


def typical_change(spec: DataSpec) -> tuple[float, ...]:
    """(size,) the root mean square of the change of each number in a step, standardized."""
    vectors = [spec.observations[key] for key in vector_keys(spec)]
    change = [
        np.divide(v.delta_rms, v.std or 1.0) if v.delta_rms else np.ones(v.shape) for v in vectors
    ]
    # Constants are predicted to stay constant.
    return tuple(np.maximum(np.concatenate(change), MIN_CHANGE).tolist())
