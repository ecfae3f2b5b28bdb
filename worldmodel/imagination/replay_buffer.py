"""A buffer on the device that keeps the rows of the last few refreshes.

Every refresh has a segment of its own, in which the rows that count lie first. Whatever is drawn is
one of those, each as likely as any other: a segment that was never filled, and rows after the end
of a rollout, cannot be met.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class ReplayBuffer(NamedTuple):
    """rows: pytree of (R, N, ...), a segment a refresh; counts: (R,) int32 rows that count in each;
    refreshes: how many there were, int32.
    """

    rows: Any
    counts: jax.Array
    refreshes: jax.Array


def empty(row: Any, rows: int, retention: int) -> ReplayBuffer:
    """Room for `retention` refreshes of `rows` rows like `row`, a pytree of shapes and types."""
    made = jax.tree.map(lambda x: jnp.zeros((retention, rows, *x.shape), x.dtype), row)
    return ReplayBuffer(made, jnp.zeros(retention, jnp.int32), jnp.zeros((), jnp.int32))


def add(buffer: ReplayBuffer, rows: Any, valid: jax.Array) -> ReplayBuffer:
    """Puts rows (N, ...) in place of the oldest refresh; `valid` (N,) says which of them count."""
    segment = buffer.refreshes % len(buffer.counts)
    order = jnp.argsort(~valid, stable=True)
    kept = jax.tree.map(lambda old, new: old.at[segment].set(new[order]), buffer.rows, rows)
    counts = buffer.counts.at[segment].set(valid.sum(dtype=jnp.int32))
    return ReplayBuffer(kept, counts, buffer.refreshes + 1)


def size(buffer: ReplayBuffer) -> jax.Array:
    """How many rows can be drawn."""
    return buffer.counts.sum()


def sample(buffer: ReplayBuffer, key: jax.Array, count: int) -> Any:
    """(count, ...) rows, uniform over all that count, with replacement; zeros if there are none."""
    ends = jnp.cumsum(buffer.counts)
    place = jax.random.randint(key, (count,), 0, jnp.maximum(ends[-1], 1))
    segment = jnp.searchsorted(ends, place, side="right")
    within = place - (ends - buffer.counts)[segment]
    return jax.tree.map(lambda x: x[segment, within], buffer.rows)
