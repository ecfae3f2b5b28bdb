"""World models: the interface, and one file a family."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import ModelOptions
from worldmodel.config.registry import entry_of
from worldmodel.data.spec import DataSpec
from worldmodel.models.interface import State, WorldModel

__all__ = ["ModelBuilder", "State", "WorldModel", "build", "family"]

ModelBuilder = Callable[[jax.Array], WorldModel]  # from a key to a new model


def family(options: ModelOptions) -> type[WorldModel]:
    """The class whose options these are."""
    return entry_of("model", options).target


def build(
    options: ModelOptions, spec: DataSpec, key: jax.Array, dtype: jnp.dtype = jnp.float32
) -> WorldModel:
    """A new model of the family of `options` for data that looks like `spec`."""
    return family(options)(options, spec, rngs=nnx.Rngs(params=key), dtype=dtype)
