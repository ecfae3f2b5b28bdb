"""Data parallelism: `jax.jit` over a mesh of all devices, batches split on their first axis,
parameters on every one.

This is what `jax.pmap` became. Random bits do not depend on how arrays are split, so neither do the
results.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from worldmodel.errors import ConfigError

AXIS = "data"


def all_devices() -> Mesh:
    return Mesh(np.asarray(jax.devices()), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Inside jit: splits every array of the batch over the devices by its first axis."""
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(AXIS)))


def place_feed(feed: Any, axis: int | None, mesh: Mesh) -> Any:
    """Host arrays on the devices, split over them along `axis`; every device has all of it if None.

    Each process brings its own part.
    """
    spec = PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, AXIS)
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), feed
    )


def check_divides(key: str, count: int, mesh: Mesh) -> None:
    """Raises ConfigError unless so many windows, option `key`, can be split over the devices."""
    if count % mesh.size:
        raise ConfigError(
            f"{key}={count} does not divide over {mesh.size} devices; "
            f"accepted are multiples of {mesh.size}"
        )
