"""The same arithmetic laid out for the device at hand.

Accelerators want few large operations. On CPUs, XLA runs independent small ones in parallel, and
what stays in the caches is far cheaper than what streams through memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def map_blocks(
    function: Callable[..., jax.Array], inputs: Sequence[jax.Array], params: Sequence[jax.Array]
) -> jax.Array:
    """Applies `function` to each block: inputs (B, blocks x I) and params (blocks, ...) to outputs
    (B, blocks x O).
    """
    blocks = params[0].shape[0]
    if jax.default_backend() == "cpu":
        # XLA for CPUs runs blocks in parallel when they are separate, several times faster than one
        # batched product. The barrier keeps it from fusing the concatenation into what follows.
        parts = zip(*(jnp.split(x, blocks, -1) for x in inputs), *params, strict=True)
        return jax.lax.optimization_barrier(jnp.concatenate([function(*p) for p in parts], -1))
    batch = inputs[0].shape[:-1]
    split = (x.reshape(*batch, blocks, -1) for x in inputs)
    axes = (-2,) * len(inputs) + (0,) * len(params)
    return jax.vmap(function, axes, -2)(*split, *params).reshape(*batch, -1)


def over_time(function: Callable[..., Any], *arrays: Any) -> Any:
    """`function(*arrays)` for a function that treats the leading axis, time, as a batch like the
    others.

    CPUs take one step of time after the other and recompute it for the gradient, so that what lies
    between input and output never leaves their caches. Other devices take them all at once.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda slices: jax.checkpoint(function)(*slices), arrays)
    return function(*arrays)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def total_over_time(
    function: Callable[..., tuple[jax.Array, Any]], params: Any, context: Any, arrays: Any
) -> tuple[jax.Array, Any]:
    """Sum over time of `function(params, context, *arrays) -> (loss, terms)`, differentiable in
    params.

    `function` sums a loss, and a pytree of terms that take no gradient, over all leading axes of
    `arrays`, time first. The gradient is formed together with the loss: one pass, with the steps
    of time taken as `over_time` takes them.
    """
    return _total(function, params, context, arrays)[0]


def _total(
    function: Callable[..., tuple[jax.Array, Any]], params: Any, context: Any, arrays: Any
) -> tuple[tuple[jax.Array, Any], Any]:
    """((loss, terms), gradient in params)."""

    def one(slices: Any) -> tuple[tuple[jax.Array, Any], Any]:
        return jax.value_and_grad(function, has_aux=True)(params, context, *slices)

    if jax.default_backend() != "cpu":
        return one(arrays)

    def add(total: Any, slices: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(slices)), None

    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], arrays))
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zero, arrays)[0]


def _total_forward(
    function: Callable[..., tuple[jax.Array, Any]], params: Any, context: Any, arrays: Any
) -> tuple[tuple[jax.Array, Any], Any]:
    return _total(function, params, context, arrays)


def _total_backward(
    function: Callable[..., tuple[jax.Array, Any]], gradient: Any, cotangent: tuple[jax.Array, Any]
) -> tuple[Any, None, None]:
    return jax.tree.map(lambda g: g * cotangent[0], gradient), None, None


total_over_time.defvjp(_total_forward, _total_backward)
