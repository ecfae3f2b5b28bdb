"""Windows of logged episodes, and which of them make up the batch of step k: a pure function of
(seed, k).

Batch k takes the positions k B ... k B + B - 1 of an endless sequence in which every epoch is a
new permutation of all windows. The permutation is a keyed bijection that is evaluated at single
positions (a Feistel network with cycle walking), so no order is stored or shuffled, and the step
number is the whole state of the data loader.
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
from worldmodel.errors import check_count

ROUNDS = 6  # of the Feistel network
GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: spreads consecutive numbers over 32 bits

Array = jax.Array | np.ndarray


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "observation", "action", "reward", "is_first", "is_last", "is_terminal", "mask",
        "observed",
    ],
    meta_fields=[],
)  # fmt: skip
@dataclass(frozen=True)
class Window:
    """Consecutive steps of logged episodes, batch-first, in the step convention of RLDS.

    observation: name -> (B, T, ...), float32 vectors or uint8 images
    action: (B, T, A) float32 in [-1, 1], or (B, T) int32; the action taken at step t
    reward: (B, T) float32; the reward of that action
    is_first, is_last, is_terminal: (B, T) bool
    mask: (B, T) bool; False for the padding after an episode shorter than the window
    observed: (B, T) bool, whether the observation of the step was logged; None: all were
    """

    observation: dict[str, jax.Array]
    action: jax.Array
    reward: jax.Array
    is_first: jax.Array
    is_last: jax.Array
    is_terminal: jax.Array
    mask: jax.Array
    observed: jax.Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T)."""
        batch, length = self.mask.shape
        return batch, length

    @property
    def observation_mask(self) -> jax.Array:
        """(B, T) bool; False for padding and for steps whose observation was not logged."""
        return self.mask if self.observed is None else self.mask & self.observed

    def with_action(self, action: Array) -> Window:
        """The same window with other actions."""
        return replace(self, action=action)


class StepArrays(NamedTuple):
    """All steps of a dataset end to end: the fields of `Window` without the mask, (N, ...) each."""

    observation: dict[str, Any]
    action: Any
    reward: Any
    is_first: Any
    is_last: Any
    is_terminal: Any
    observed: Any = None


def step_arrays(trajectories: Trajectories, raw_actions: bool = False) -> StepArrays:
    """Returns the arrays of a dataset, with actions normalized to [-1, 1] unless `raw_actions`.

    The arrays of a selection also hold steps of other episodes, which are not marked.
    """
    t, count = trajectories, len(trajectories.actions)
    is_first, is_last, is_terminal = (np.zeros(count, bool) for _ in range(3))
    is_first[t.offsets], is_last[t.last_steps] = True, True
    is_terminal[t.last_steps] = t.terminated
    reward = np.zeros(count, np.float32) if t.rewards is None else t.rewards
    action = t.actions if raw_actions else normalize_actions(t.actions, is_last, t.action_spec)
    observed = None
    if t.final_logged is not None:
        observed = np.ones(count, bool)
        observed[t.placeholders] = False
    return StepArrays(t.observations, action, reward, is_first, is_last, is_terminal, observed)


def normalize_actions(action: Array, padding: Array, spec: ActionSpec) -> np.ndarray:
    """Actions (..., A) or classes (...) as models see them, zero where `padding` (...)."""
    action = spec.normalize(action)
    return np.where(padding if spec.discrete else padding[..., None], action.dtype.type(0), action)


@dataclass(frozen=True)
class WindowIndex:
    """The position of every window of `length` steps.

    starts: (W,) first step
    valid_lengths: (W,) steps inside the episode: `length`, or fewer for the single, padded window
        of a shorter episode
    """

    starts: np.ndarray
    valid_lengths: np.ndarray
    length: int

    @property
    def count(self) -> int:
        return len(self.starts)


def build_window_index(trajectories: Trajectories, length: int) -> WindowIndex:
    """Lists every window of `length` steps of the episodes."""
    check_count("length", length)
    lengths, offsets = trajectories.lengths, trajectories.offsets
    counts = np.maximum(lengths - length + 1, 1)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(offsets, counts) + within
    valid_lengths = np.repeat(np.minimum(lengths, length), counts)
    place = np.int32 if len(trajectories.actions) < 2**31 else np.int64
    return WindowIndex(starts.astype(place), valid_lengths.astype(np.int32), length)


def describe_batch(
    trajectories: Trajectories, index: WindowIndex, step: int, batch_size: int, seed: int
) -> list[str]:
    """Describes the windows of the batch of `step`: episode and steps of each, for messages."""
    chosen = batch_indices_on_host(step, batch_size, index.count, seed)
    starts, counts = index.starts[chosen], index.valid_lengths[chosen]
    order = np.argsort(trajectories.offsets)
    offsets = trajectories.offsets[order]
    places = np.searchsorted(offsets, starts, side="right") - 1
    first = starts - offsets[places]
    spans = zip(order[places].tolist(), first.tolist(), (first + counts - 1).tolist(), strict=True)
    return [f"{trajectories.name(e)}, steps {begin}-{end}" for e, begin, end in spans]


class Cursor(NamedTuple):
    """Position `offset` of epoch `epoch` in the endless sequence of windows of `seed`."""

    seed: Any
    epoch: Any
    offset: Any


def cursor(step: int, batch_size: int, count: int, seed: int) -> Cursor:
    """Where the batch of `step` begins, with `count` windows per epoch. Exact for any step."""
    epoch, offset = divmod(step * batch_size, count)
    return Cursor(np.uint32(seed), np.uint32(epoch & 0xFFFFFFFF), np.uint32(offset))


def batch_indices(at: Cursor, batch: Any, batch_size: int, count: int) -> jax.Array:
    """(batch_size,) window indices of the batch that comes `batch` batches after `at`."""
    position = (
        jnp.uint32(at.offset)
        + jnp.uint32(batch) * jnp.uint32(batch_size)
        + jnp.arange(batch_size, dtype=jnp.uint32)
    )
    epoch = jnp.uint32(at.epoch) + position // jnp.uint32(count)
    return permute_index(position % jnp.uint32(count), at.seed, epoch, count)


def batch_indices_on_host(step: int, batch_size: int, count: int, seed: int) -> np.ndarray:
    """The result of `batch_indices` for the batch of `step`, computed in NumPy."""
    epoch, position = np.divmod(step * batch_size + np.arange(batch_size, dtype=np.int64), count)
    seeds = np.full(batch_size, seed, np.uint32)
    return permute_index(position.astype(np.uint32), seeds, epoch.astype(np.uint32), count)


def permute_index(position: Any, seed: Any, epoch: Any, count: int) -> Any:
    """Entry `position` of the permutation of range(count) that belongs to (seed, epoch).

    A balanced Feistel network permutes [0, 4^k), the smallest such range that holds `count`;
    following its cycle until the value is below `count` restricts it to a permutation of
    range(count). NumPy arrays give a NumPy array, others a JAX array.
    """
    half_bits = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    numpy = isinstance(position, np.ndarray)
    if not numpy:
        seed, epoch = jnp.asarray(seed, jnp.uint32), jnp.asarray(epoch, jnp.uint32)
    key = mix(epoch ^ mix(seed + np.uint32(GOLDEN)))

    def network(value: Any) -> Any:
        return _feistel(value, key, half_bits)

    def outside(value: Any) -> Any:
        return (value >= np.uint32(count)).any()

    def walk(value: Any) -> Any:
        where = np.where if numpy else jnp.where
        return where(value >= np.uint32(count), network(value), value)

    value = network(position.astype(np.uint32))
    if not numpy:
        return jax.lax.while_loop(outside, walk, value).astype(jnp.int32)
    while outside(value):
        value = walk(value)
    return value.astype(np.int32)


def _feistel(value: Any, key: Any, half_bits: int) -> Any:
    mask, shift = np.uint32((1 << half_bits) - 1), np.uint32(half_bits)
    left, right = value >> shift, value & mask
    for number in range(1, ROUNDS + 1):
        round_key = mix(key + np.uint32(number * GOLDEN & 0xFFFFFFFF))
        left, right = right, left ^ (mix(right ^ round_key) & mask)
    return (left << shift) | right


def mix(x: Any) -> Any:
    """A bijective hash of uint32 with good avalanche (the finalizer of MurmurHash3)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def gather_windows(arrays: StepArrays, starts: Array, counts: Array, length: int) -> Window:
    """Gathers the windows (B, length, ...) that begin at `starts` (B,) and have `counts` (B,) valid
    steps each.

    Steps past the end of an episode repeat its last step and are masked, so the next episode is
    never read. The result has NumPy arrays if `starts` is one, else JAX arrays.
    """
    xp = starts.__array_namespace__()
    within = xp.arange(length)
    index = starts[:, None] + xp.minimum(within, counts[:, None] - 1)
    taken = jax.tree.map(lambda x: xp.take(xp.asarray(x), index, axis=0, mode="clip"), arrays)
    mask = within < counts[:, None]
    return Window(
        observation=taken.observation,
        action=taken.action,
        reward=taken.reward,
        is_first=taken.is_first & mask,
        is_last=taken.is_last & mask,
        is_terminal=taken.is_terminal & mask,
        mask=mask,
        observed=taken.observed,
    )
