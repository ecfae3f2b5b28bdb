"""Windows of logged episodes, and which of them make up the batch of step k: a pure function of
(seed, k).

Batch k takes the positions k B ... k B + B - 1 of an endless sequence in which every epoch is a
fresh permutation of all windows. The permutation is a keyed bijection that is evaluated at single
positions (a Feistel network walked until it lands inside the range), so nothing is stored, shuffled
or saved, and the step number is the whole state of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.data.trajectories import Trajectories

ROUNDS = 6
GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: spreads consecutive numbers over 32 bits


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "observation", "action", "reward", "is_first", "is_last", "is_terminal", "mask",
    ],
    meta_fields=[],
)  # fmt: skip
@dataclass(frozen=True)
class Window:
    """Consecutive rows of logged episodes, batch-first, in RLDS steps.

    observation: name -> (B, T, ...), float32 vectors or uint8 images
    action: (B, T, A) float32 in [-1, 1], or (B, T) int32; what was done at row t
    reward: (B, T) float32; what that action earned
    is_first, is_last, is_terminal: (B, T) bool
    mask: (B, T) bool; False for the padding after an episode shorter than the window
    """

    observation: dict[str, jax.Array]
    action: jax.Array
    reward: jax.Array
    is_first: jax.Array
    is_last: jax.Array
    is_terminal: jax.Array
    mask: jax.Array

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T)."""
        return self.mask.shape


class Rows(NamedTuple):
    """All rows of a set of episodes laid end to end, as `Window` names them, without the mask."""

    observation: dict[str, Any]
    action: Any
    reward: Any
    is_first: Any
    is_last: Any
    is_terminal: Any


def rows_of(trajectories: Trajectories) -> Rows:
    """Flat numpy rows (N, ...), with continuous actions brought to [-1, 1]."""
    first, last = trajectories.offsets, trajectories.offsets + trajectories.lengths - 1
    is_first = np.zeros(trajectories.num_rows, bool)
    is_last, is_terminal = is_first.copy(), is_first.copy()
    is_first[first], is_last[last] = True, True
    is_terminal[last] = trajectories.terminated
    action = trajectories.action_spec.normalize(trajectories.actions)
    action[last] = 0  # padding stays zero in the normalised range too
    reward = trajectories.rewards
    if reward is None:
        reward = np.zeros(trajectories.num_rows, np.float32)
    return Rows(trajectories.observations, action, reward, is_first, is_last, is_terminal)


@dataclass(frozen=True)
class WindowIndex:
    """Where every window of `length` rows starts.

    starts: (W,) first row; rows: (W,) rows of the window inside its episode: `length`, or fewer for
    an episode that is shorter and gives one padded window.
    """

    starts: np.ndarray
    rows: np.ndarray
    length: int

    @property
    def count(self) -> int:
        return len(self.starts)


def window_index(lengths: np.ndarray, length: int) -> WindowIndex:
    """Every window of `length` rows of episodes with the given numbers of rows."""
    lengths = np.asarray(lengths, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    counts = np.maximum(lengths - length + 1, 1)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(offsets, counts) + within
    rows = np.repeat(np.minimum(lengths, length), counts)
    return WindowIndex(starts.astype(np.int32), rows.astype(np.int32), length)


class Cursor(NamedTuple):
    """A place in the endless sequence of windows of `seed`: position `offset` of epoch `epoch`."""

    seed: Any
    epoch: Any
    offset: Any


def cursor(step: int, batch_size: int, count: int, seed: int) -> Cursor:
    """The place where the batch of `step` begins, among `count` windows an epoch. Exact for any
    step.
    """
    epoch, offset = divmod(step * batch_size, count)
    return Cursor(np.uint32(seed), np.uint32(epoch & 0xFFFFFFFF), np.uint32(offset))


def batch_windows(at: Cursor, batch: Any, batch_size: int, count: int) -> jax.Array:
    """(batch_size,) indices of the windows of the batch that lies `batch` batches after `at`."""
    position = (
        jnp.uint32(at.offset)
        + jnp.uint32(batch) * jnp.uint32(batch_size)
        + jnp.arange(batch_size, dtype=jnp.uint32)
    )
    epoch = jnp.uint32(at.epoch) + position // jnp.uint32(count)
    return permuted(position % jnp.uint32(count), at.seed, epoch, count)


def permuted(position: jax.Array, seed: Any, epoch: Any, count: int) -> jax.Array:
    """Entry `position` of the permutation of range(count) that belongs to (seed, epoch).

    A balanced Feistel network permutes [0, 4^k), the smallest such range that holds `count`;
    walking its cycle until the value is below `count` restricts it to a permutation of
    range(count).
    """
    half_bits = max(1, (max(count - 1, 1).bit_length() + 1) // 2)

    seed, epoch = jnp.asarray(seed, jnp.uint32), jnp.asarray(epoch, jnp.uint32)
    key = _mix(epoch ^ _mix(seed + jnp.uint32(GOLDEN)))

    def network(value: jax.Array) -> jax.Array:
        return _feistel(value, key, half_bits)

    def outside(value: jax.Array) -> jax.Array:
        return jnp.any(value >= jnp.uint32(count))

    def walk(value: jax.Array) -> jax.Array:
        return jnp.where(value >= jnp.uint32(count), network(value), value)

    value = jax.lax.while_loop(outside, walk, network(position.astype(jnp.uint32)))
    return value.astype(jnp.int32)


def _feistel(value: jax.Array, key: jax.Array, half_bits: int) -> jax.Array:
    mask = jnp.uint32((1 << half_bits) - 1)
    left, right = value >> half_bits, value & mask
    for number in range(1, ROUNDS + 1):
        round_key = _mix(key + jnp.uint32(number * GOLDEN & 0xFFFFFFFF))
        left, right = right, left ^ (_mix(right ^ round_key) & mask)
    return (left << half_bits) | right


def _mix(x: jax.Array) -> jax.Array:
    """A bijective hash of 32 bits with good avalanche (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def gather(rows: Rows, starts: jax.Array, counts: jax.Array, length: int) -> Window:
    """The windows that begin at `starts` (B,) with `counts` (B,) real rows each, as (B, length,
    ...).

    Rows past an episode's end repeat its last row and are masked, so nothing of the next episode is
    ever read.
    """
    within = jnp.arange(length)
    index = starts[:, None] + jnp.minimum(within, counts[:, None] - 1)
    taken = jax.tree.map(lambda x: jnp.take(x, index, axis=0, mode="clip"), rows)
    mask = within < counts[:, None]
    return Window(
        observation=taken.observation,
        action=taken.action,
        reward=taken.reward,
        is_first=taken.is_first & mask,
        is_last=taken.is_last & mask,
        is_terminal=taken.is_terminal & mask,
        mask=mask,
    )
