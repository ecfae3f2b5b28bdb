"""Affine codecs, with which affine systems are learned exactly and extrapolate beyond the dataset.
For vectors scaled by training statistics only: symlog is not linear.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.nn.codecs import Scaling, image_keys, vector_keys
from worldmodel.nn.distributions import Distribution
from worldmodel.nn.layers import Linear


def check_linear(spec: DataSpec) -> None:
    """Raises ConfigError for observations that a linear codec does not support."""
    if images := image_keys(spec):
        raise ConfigError(
            f"model.linear=true: requires vectors, and {', '.join(images)} are images; accepted: "
            "model.linear=false"
        )
    unscaled = [key for key in vector_keys(spec) if spec.observations[key].normalization == "none"]
    if unscaled:
        raise ConfigError(
            f"model.linear=true: {', '.join(unscaled)} would be transformed by symlog, which is "
            "not linear; accepted: data.normalize=[standardize] or data.normalize=[min_max]"
        )


class LinearEncoder(nnx.Module):
    """Observations {name: (..., D)}, scaled and concatenated. It has no parameters."""

    def __init__(self, spec: DataSpec):
        self.keys = tuple(vector_keys(spec))
        self.scaling = tuple(Scaling.of(spec.observations[key]) for key in self.keys)
        self.size = sum(spec.observations[key].shape[0] for key in self.keys)

    def __call__(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        pairs = zip(self.scaling, self.keys, strict=True)
        return jnp.concatenate([scaling.normalize(observation[key]) for scaling, key in pairs], -1)


class LinearDecoder(nnx.Module):
    """Features (..., F) -> {name: distribution of the vector (..., D)}."""

    def __init__(self, spec: DataSpec, features: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.keys = tuple(vector_keys(spec))
        self.scaling = tuple(Scaling.of(spec.observations[key]) for key in self.keys)
        sizes = {key: spec.observations[key].shape[0] for key in self.keys}
        self.outputs = nnx.Dict(
            {key: Linear(features, size, rngs=rngs, dtype=dtype) for key, size in sizes.items()}
        )

    def __call__(self, features: jax.Array) -> dict[str, Distribution]:
        pairs = zip(self.scaling, self.keys, strict=True)
        return {key: scaling.predict(self.outputs[key](features)) for scaling, key in pairs}
