"""World models: the interface, and one file per family.

model = build(options, spec, jax.random.key(0))
states = model.observe(window, key)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import ModelOptions
from worldmodel.config.registry import entry_of, names
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.models.interface import EnsembleModel, State, WorldModel
from worldmodel.nn.vectors import image_keys

__all__ = ["EnsembleModel", "ModelBuilder", "State", "WorldModel", "build", "family"]

ModelBuilder = Callable[[jax.Array], WorldModel]  # from a key to a new model


def family(options: ModelOptions) -> type[WorldModel]:
    """The class that registered with the options' type."""
    return entry_of("model", options).target


def build(
    options: ModelOptions, spec: DataSpec, key: jax.Array, dtype: jnp.dtype = jnp.float32
) -> WorldModel:
    """Builds a new model.

    options: of a registered family, such as `RSSMOptions()`
    spec: shapes and statistics of the dataset
    key: of the initial parameters
    dtype: of the matrix products; parameters are float32

    Raises ConfigError for options nobody registered, or that do not fit the dataset.
    """
    cls: Any = family(options)
    images = image_keys(spec)
    if images and not cls.supports_images:
        accepted = names("model", lambda other: other.supports_images)
        raise ConfigError(
            f"model: this family supports vectors only, and {', '.join(images)} are images; "
            f"accepted: model={accepted}"
        )
    return cls(options, spec, rngs=nnx.Rngs(params=key), dtype=dtype)
