"""Layouts of the same arithmetic for different devices.

Accelerators need few large operations. On CPUs, XLA runs independent small ones in parallel, and
data in the caches is far cheaper than data in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec


def map_blocks(
    function: Callable[..., jax.Array], inputs: Sequence[jax.Array], params: Sequence[jax.Array]
) -> jax.Array:
    """Applies `function` to each block: inputs (B, blocks x I) and params (blocks, ...) to outputs
    (B, blocks x O).
    """
    blocks = params[0].shape[0]
    if jax.default_backend() == "cpu":
        # XLA for CPUs runs separate blocks in parallel, several times faster than one batched
        # product. The barrier prevents fusion of the concatenation into later operations.
        parts = zip(*(jnp.split(x, blocks, -1) for x in inputs), *params, strict=True)
        return jax.lax.optimization_barrier(jnp.concatenate([function(*p) for p in parts], -1))
    batch = inputs[0].shape[:-1]
    split = (x.reshape(*batch, blocks, -1) for x in inputs)
    axes = (-2,) * len(inputs) + (0,) * len(params)
    return jax.vmap(function, axes, -2)(*split, *params).reshape(*batch, -1)


def devices() -> int:
    """The number of devices over which the program being traced splits its batch."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def over_time(function: Callable[..., Any], *arrays: Any) -> Any:
    """`function(*arrays)` for a function that treats the leading axis, time, as a batch axis.

    A CPU takes one step after the other and recomputes it for the gradient, so that intermediate
    values stay in its caches. Other devices, and several devices together, take all steps at once.
    """
    if _step_by_step():
        return jax.lax.map(lambda slices: jax.checkpoint(function)(*slices), arrays)
    return function(*arrays)


Module = TypeVar("Module", bound=nnx.Module)


def scan_time(
    step: Callable[[Module, Any, Any], tuple[Any, Any]], module: Module, state: Any, inputs: Any
) -> tuple[Any, Any]:
    """`lax.scan` over time of `step(module, state, inputs) -> (state, outputs)`: state (B, ...),
    inputs and outputs (T, B, ...), for windows that are independent of each other.

    If the batch is split over a mesh, every device scans its own windows, and the gradients of the
    parameters are summed over devices once; the compiler might do so at every step. Noise must be
    among the inputs: a key would be the same on all devices.
    """

    def scan(module: Module, state: Any, inputs: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda state, inputs: step(module, state, inputs), state, inputs)

    batch = jax.tree.leaves(state)[0].shape[0]
    if devices() == 1 or batch % devices():
        return scan(module, state, inputs)
    axes = tuple(jax.sharding.get_abstract_mesh().axis_names)
    graphdef, params = nnx.split(module)

    def scan_shard(params: Any, state: Any, inputs: Any) -> tuple[Any, Any]:
        # Varying before the scan, so that their gradients are summed after it.
        varying = jax.lax.pcast(params, axes, to="varying")
        return scan(nnx.merge(graphdef, varying), state, inputs)

    windows, steps = PartitionSpec(axes), PartitionSpec(None, axes)
    specs = (PartitionSpec(), windows, steps)
    sharded = jax.shard_map(scan_shard, in_specs=specs, out_specs=(windows, steps))
    return sharded(params, state, inputs)


def _step_by_step() -> bool:
    # Several devices would have to sum the gradients of the parameters at every step.
    return jax.default_backend() == "cpu" and devices() == 1


def sum_over_time(
    function: Callable[..., tuple[jax.Array, Any]], params: Any, context: Any, arrays: Any
) -> tuple[jax.Array, Any]:
    """Sum over time of `function(params, context, *arrays) -> (loss, terms)`, differentiable in
    `params`.

    `function` sums a loss, and a pytree of terms without gradient, over all leading axes of
    `arrays`, time first. The gradient is computed together with the loss in one pass, with the
    steps taken as in `over_time`.
    """
    return _sum_over_time(function, params, context, arrays)


def _total(
    function: Callable[..., tuple[jax.Array, Any]], params: Any, context: Any, arrays: Any
) -> tuple[tuple[jax.Array, Any], Any]:
    """((loss, terms), gradient)."""

    def one(slices: Any) -> tuple[tuple[jax.Array, Any], Any]:
        return jax.value_and_grad(function, has_aux=True)(params, context, *slices)

    if not _step_by_step():
        return one(arrays)

    def add(total: Any, slices: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(slices)), None

    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], arrays))
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zero, arrays)[0]


def _total_backward(
    function: Callable[..., tuple[jax.Array, Any]], gradient: Any, cotangent: tuple[jax.Array, Any]
) -> tuple[Any, None, None]:
    return jax.tree.map(lambda g: g * cotangent[0], gradient), None, None


_sum_over_time = jax.custom_vjp(lambda *arguments: _total(*arguments)[0], nondiff_argnums=(0,))
_sum_over_time.defvjp(_total, _total_backward)
