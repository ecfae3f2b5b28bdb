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

__all__ = [
    "FAMILIES",
    "ModelBuilder",
    "State",
    "WorldModel",
    "build",
    "keeps_best",
    "learns",
    "parts",
]

ModelBuilder = Callable[[jax.Array], WorldModel]  # from a key to a new model

# Name of the family -> its class, in the file of that name.
FAMILIES = {
    "rssm": "RSSM",
    "koopman": "Koopman",
    "gru": "GRU",
    "mlp": "MLP",
    "diffusion": "Diffusion",
    "trajectory_diffusion": "TrajectoryDiffusion",
    "observed": "Observed",
    "ensemble": "Ensemble",
    "oracle": "Oracle",
}


def build(
    options: ModelOptions, spec: DataSpec, key: jax.Array, dtype: jnp.dtype = jnp.float32
) -> WorldModel:
    """A new model of the family `options.name` for data that looks like `spec`."""
    return _family(options)(options, spec, rngs=nnx.Rngs(params=key), dtype=dtype)


def parts(options: ModelOptions, spec: DataSpec) -> tuple[str, ...]:
    """The model's parts that are trained first, each in a stage of its own, and then frozen."""
    return _family(options).parts(options, spec)


def learns(options: ModelOptions) -> bool:
    """Whether the family has anything to train."""
    return _family(options).learns


def keeps_best(options: ModelOptions) -> bool:
    """Whether each member's best parameters are judged and imagined with, not its last ones."""
    return _family(options).keeps_best(options)


def _family(options: ModelOptions) -> type[WorldModel]:
    module = importlib.import_module(f"{__name__}.{options.name}")
    return getattr(module, FAMILIES[options.name])
