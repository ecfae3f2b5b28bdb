"""Windows of logged episodes, and which of them make up the batch of step k: a pure function of
(seed, k).

Batch k takes the positions k B ... k B + B - 1 of an endless sequence in which every epoch is a
fresh permutation of all windows. The permutation is a keyed bijection that is evaluated at single
positions (a Feistel network walked until it lands inside the range), so nothing is stored, shuffled
or saved, and the step number is the whole state of the data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.data.spec import ActionSpec
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

    def with_action(self, action: jax.Array) -> Window:
        return replace(self, action=action)


class StepArrays(NamedTuple):
    """All rows of a set of episodes laid end to end, as `Window` names them, without the mask."""

    observation: dict[str, Any]
    action: Any
    reward: Any
    is_first: Any
    is_last: Any
    is_terminal: Any


def step_arrays(trajectories: Trajectories, raw_actions: bool = False) -> StepArrays:
    """The arrays of `trajectories` as numpy rows, with continuous actions brought to [-1, 1].

    Rows of other episodes that a selection's arrays hold are there too, unmarked. With
    `raw_actions` nothing but the marks is computed, and `normalize_actions` is left to do.
    """
    t, count = trajectories, len(trajectories.actions)
    is_first, is_last, is_terminal = (np.zeros(count, bool) for _ in range(3))
    is_first[t.offsets], is_last[t.last_steps] = True, True
    is_terminal[t.last_steps] = t.terminated
    reward = np.zeros(count, np.float32) if t.rewards is None else t.rewards
    action = t.actions if raw_actions else normalize_actions(t.actions, is_last, t.action_spec)
    return StepArrays(t.observations, action, reward, is_first, is_last, is_terminal)


def normalize_actions(action: np.ndarray, padding: np.ndarray, spec: ActionSpec) -> np.ndarray:
    """Raw actions (..., A) or classes (...) as models see them, zero where `padding` (...)."""
    action = spec.normalize(action)
    return np.where(padding if spec.discrete else padding[..., None], action.dtype.type(0), action)


@dataclass(frozen=True)
class WindowIndex:
    """Where every window of `length` rows starts.

    starts: (W,) first row; valid_lengths: (W,) rows of the window inside its episode: `length`, or fewer for
    an episode that is shorter and gives one padded window.
    """

    starts: np.ndarray
    valid_lengths: np.ndarray
    length: int

    @property
    def count(self) -> int:
        return len(self.starts)


def build_window_index(trajectories: Trajectories, length: int) -> WindowIndex:
    """Every window of `length` rows of the episodes."""
    lengths, offsets = trajectories.lengths, trajectories.offsets
    counts = np.maximum(lengths - length + 1, 1)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(offsets, counts) + within
    rows = np.repeat(np.minimum(lengths, length), counts)
    place = np.int32 if len(trajectories.actions) < 2**31 else np.int64
    return WindowIndex(starts.astype(place), rows.astype(np.int32), length)


def describe_windows(
    trajectories: Trajectories, starts: np.ndarray, counts: np.ndarray
) -> list[str]:
    """Where the windows of `counts` rows that begin at `starts` were taken from, for messages:
    the episode's name, and its rows.
    """
    order = np.argsort(trajectories.offsets)
    offsets = trajectories.offsets[order]
    places = np.searchsorted(offsets, starts, side="right") - 1
    first = starts - offsets[places]
    rows = zip(order[places].tolist(), first.tolist(), (first + counts - 1).tolist(), strict=True)
    return [f"{trajectories.name(e)}, rows {begin}-{end}" for e, begin, end in rows]


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


def batch_indices(at: Cursor, batch: Any, batch_size: int, count: int) -> jax.Array:
    """(batch_size,) indices of the windows of the batch that lies `batch` batches after `at`."""
    position = (
        jnp.uint32(at.offset)
        + jnp.uint32(batch) * jnp.uint32(batch_size)
        + jnp.arange(batch_size, dtype=jnp.uint32)
    )
    epoch = jnp.uint32(at.epoch) + position // jnp.uint32(count)
    return permute_index(position % jnp.uint32(count), at.seed, epoch, count)


def batch_indices_on_host(step: int, batch_size: int, count: int, seed: int) -> np.ndarray:
    """What `batch_indices` gives for the batch of `step`, in numpy: for processes without JAX."""
    epoch, position = np.divmod(step * batch_size + np.arange(batch_size, dtype=np.int64), count)
    seed, epoch = np.full(batch_size, seed, np.uint32), epoch.astype(np.uint32)
    return permute_index(position.astype(np.uint32), seed, epoch, count)


def permute_index(position: jax.Array, seed: Any, epoch: Any, count: int) -> jax.Array:
    """Entry `position` of the permutation of range(count) that belongs to (seed, epoch).

    A balanced Feistel network permutes [0, 4^k), the smallest such range that holds `count`;
    walking its cycle until the value is below `count` restricts it to a permutation of
    range(count).
    """
    half_bits = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    numpy = isinstance(position, np.ndarray)
    if not numpy:
        seed, epoch = jnp.asarray(seed, jnp.uint32), jnp.asarray(epoch, jnp.uint32)
    key = mix(epoch ^ mix(seed + np.uint32(GOLDEN)))

    def network(value: jax.Array) -> jax.Array:
        return _feistel(value, key, half_bits)

    def outside(value: jax.Array) -> jax.Array:
        return (value >= np.uint32(count)).any()

    def walk(value: jax.Array) -> jax.Array:
        where = np.where if numpy else jnp.where
        return where(value >= np.uint32(count), network(value), value)

    value = network(position.astype(np.uint32))
    if not numpy:
        return jax.lax.while_loop(outside, walk, value).astype(jnp.int32)
    while outside(value):
        value = walk(value)
    return value.astype(np.int32)


def _feistel(value: jax.Array, key: jax.Array, half_bits: int) -> jax.Array:
    mask, shift = np.uint32((1 << half_bits) - 1), np.uint32(half_bits)
    left, right = value >> shift, value & mask
    for number in range(1, ROUNDS + 1):
        round_key = mix(key + np.uint32(number * GOLDEN & 0xFFFFFFFF))
        left, right = right, left ^ (mix(right ^ round_key) & mask)
    return (left << shift) | right


def mix(x: jax.Array) -> jax.Array:
    """A bijective hash of 32 bits with good avalanche (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def gather_windows(rows: StepArrays, starts: jax.Array, counts: jax.Array, length: int) -> Window:
    """The windows that begin at `starts` (B,) with `counts` (B,) real rows each, as (B, length,
    ...): numpy arrays of numpy rows, else JAX's.

    Rows past an episode's end repeat its last row and are masked, so nothing of the next episode is
    ever read.
    """
    xp = starts.__array_namespace__()
    within = xp.arange(length)
    index = starts[:, None] + xp.minimum(within, counts[:, None] - 1)
    taken = jax.tree.map(lambda x: xp.take(xp.asarray(x), index, axis=0, mode="clip"), rows)
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
