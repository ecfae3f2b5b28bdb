"""Data parallelism: `jax.jit` over a mesh of all devices, batches split on their first axis,
parameters replicated.

Random bits do not depend on how arrays are split, so neither do the results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from worldmodel.errors import ConfigError

REPLICAS, SHARDS = AXES = ("replicas", "shards")


def all_devices(shards: int = 1) -> Mesh:
    """(devices / shards, shards): batches are split over both axes, parameters at most over the
    second. Devices of a process are adjacent, so that its part of a batch is contiguous and
    parameters are gathered among neighbors.

    Raises ConfigError unless the devices divide into groups of `shards`.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if len(devices) % shards:
        accepted = [n for n in range(1, len(devices) + 1) if len(devices) % n == 0]
        raise ConfigError(
            f"training.fsdp_shards={shards} does not divide the number of devices, {len(devices)}; "
            f"accepted: {', '.join(map(str, accepted))}"
        )
    return Mesh(np.asarray(devices).reshape(-1, shards), AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Inside jit: splits every array of the batch over the devices by its first axis."""
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(AXES)))


def with_abstract_mesh(mesh: Mesh) -> Callable[[Callable], Callable]:
    """A decorator: while the function is traced, `jax.sharding.get_abstract_mesh()` returns the
    mesh, which `worldmodel.nn.layout` reads.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def traced(*arguments: Any) -> Any:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return function(*arguments)

        return traced

    return decorate


def put_feed(feed: Any, axis: int | None, mesh: Mesh) -> Any:
    """Host arrays on the devices, split over them along `axis`, or replicated if it is None.

    Each process contributes its own part.
    """
    spec = PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, AXES)
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), feed
    )


def state_shardings(shapes: Any, mesh: Mesh, smallest: int = 2**14) -> Any:
    """Shardings of a state's arrays: on every device, or split over the shards of each replica.

    Arrays of `smallest` elements or more are split along their longest axis that the shards divide
    (as in ZeRO, Rajbhandari et al., arXiv 1910.02054): parameters are gathered for an update,
    the state of the optimizer never is.
    """
    shards = mesh.shape[SHARDS]

    def place(x: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(x.shape) if size % shards == 0]
        if shards == 1 or x.size < smallest or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, SHARDS))

    return jax.tree.map(place, shapes)


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Shapes of arrays with these shardings."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, shardings
    )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same arrays, each readable by every process."""
    if all(x.is_fully_replicated or x.is_fully_addressable for x in jax.tree.leaves(tree)):
        return tree
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)


def check_divisible(key: str, count: int, mesh: Mesh, microbatches: int = 1) -> None:
    """Raises ConfigError unless `count` windows, the value of option `key`, can be split over the
    devices in each of the `microbatches`.
    """
    if count % (mesh.size * microbatches):
        steps = f" and training.gradient_accumulation_steps={microbatches}"
        raise ConfigError(
            f"{key}={count} cannot be split over {mesh.size} devices"
            f"{steps if microbatches > 1 else ''}; accepted: multiples of "
            f"{mesh.size * microbatches}"
        )
