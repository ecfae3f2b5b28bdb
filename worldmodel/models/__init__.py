"""World models: the interface, and one file a family."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import ModelOptions
from worldmodel.data.spec import DataSpec
from worldmodel.models.interface import State, WorldModel

__all__ = ["FAMILIES", "ModelBuilder", "State", "WorldModel", "build"]

ModelBuilder = Callable[[jax.Array], WorldModel]  # from a key to a new model

# Name of the family -> its class, in the file of that name.
FAMILIES = {"rssm": "RSSM", "koopman": "Koopman", "gru": "GRU", "mlp": "MLP"}


def build(
    options: ModelOptions, spec: DataSpec, key: jax.Array, dtype: jnp.dtype = jnp.float32
) -> WorldModel:
    """A new model of the family `options.name` for data that looks like `spec`."""
    module = importlib.import_module(f"{__name__}.{options.name}")
    family = getattr(module, FAMILIES[options.name])
    return family(options, spec, rngs=nnx.Rngs(params=key), dtype=dtype)
