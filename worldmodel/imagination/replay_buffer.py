"""A replay buffer on the device, which keeps the data of the last few refreshes.

Every refresh has a segment of its own, with its valid elements first. Samples are uniform over all
valid elements: invalid ones, and segments that were never filled, are not sampled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class ReplayBuffer(NamedTuple):
    """R segments of N elements.

    data: pytree of (R, N, ...)
    counts: (R,) int32, valid elements of each segment
    refreshes: () int32, refreshes so far
    """

    data: Any
    counts: jax.Array
    refreshes: jax.Array


def empty(element: Any, capacity: int, num_segments: int) -> ReplayBuffer:
    """A buffer for `num_segments` refreshes of `capacity` elements, of the shapes and types of the
    pytree `element`.
    """
    data = jax.tree.map(lambda x: jnp.zeros((num_segments, capacity, *x.shape), x.dtype), element)
    return ReplayBuffer(data, jnp.zeros(num_segments, jnp.int32), jnp.zeros((), jnp.int32))


def add(buffer: ReplayBuffer, data: Any, valid: jax.Array) -> ReplayBuffer:
    """Replaces the oldest segment by `data` (N, ...), of which `valid` (N,) bool may be sampled."""
    segment = buffer.refreshes % len(buffer.counts)
    order = jnp.argsort(~valid, stable=True)
    data = jax.tree.map(lambda old, new: old.at[segment].set(new[order]), buffer.data, data)
    counts = buffer.counts.at[segment].set(valid.sum(dtype=jnp.int32))
    return ReplayBuffer(data, counts, buffer.refreshes + 1)


def sample(buffer: ReplayBuffer, key: jax.Array, count: int) -> Any:
    """(count, ...) valid elements, uniform with replacement; zeros if there are none."""
    ends = jnp.cumsum(buffer.counts)
    place = jax.random.randint(key, (count,), 0, jnp.maximum(ends[-1], 1))
    segment = jnp.searchsorted(ends, place, side="right")
    within = place - (ends - buffer.counts)[segment]
    return jax.tree.map(lambda x: x[segment, within], buffer.data)
