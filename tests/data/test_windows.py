"""Windows never cross an episode, and those of a batch depend on (seed, step) alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.data.loader import DeviceLoader, make_loader, pad_episodes
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import (
    batch_indices,
    build_window_index,
    gather_windows,
    permute_index,
    step_arrays,
)


def labelled(lengths: list[int]) -> Trajectories:
    """Episodes whose observation is (episode, step), which identifies every step."""
    episode = np.repeat(np.arange(len(lengths)), lengths)
    row = np.concatenate([np.arange(n) for n in lengths])
    last = np.cumsum(lengths) - 1
    actions = (row[:, None] / 100).astype(np.float32)
    rewards = row.astype(np.float32)
    actions[last], rewards[last] = 0, 0
    return Trajectories(
        observations={"observation": np.stack([episode, row], -1).astype(np.float32)},
        actions=actions,
        rewards=rewards,
        lengths=np.asarray(lengths),
        terminated=np.arange(len(lengths)) % 2 == 0,
        action_spec=ActionSpec(False, 1, (-1.0,), (1.0,)),
        source="labelled",
    )


lengths = st.lists(st.integers(2, 12), min_size=1, max_size=8)


@settings(max_examples=12, deadline=None)
@given(lengths, st.integers(2, 9))
def test_no_window_crosses_an_episode(lengths: list[int], length: int) -> None:
    trajectories = labelled(lengths)
    index = build_window_index(trajectories, length)
    window = gather_windows(step_arrays(trajectories), index.starts, index.valid_lengths, length)
    for w in range(index.count):
        mask = np.asarray(window.mask[w])
        rows = np.asarray(window.observation["observation"][w])
        assert len(set(rows[:, 0])) == 1  # padding repeats the last step of the episode
        real = rows[mask, 1]
        np.testing.assert_array_equal(real, real[0] + np.arange(len(real)))
        assert mask.all() or (real[0] == 0 and len(real) == lengths[int(rows[0, 0])])
        np.testing.assert_array_equal(np.asarray(window.is_first[w])[mask], real == 0)
        ends = real == lengths[int(rows[0, 0])] - 1
        np.testing.assert_array_equal(np.asarray(window.is_last[w])[mask], ends)
        terminal = ends & (int(rows[0, 0]) % 2 == 0)
        np.testing.assert_array_equal(np.asarray(window.is_terminal[w])[mask], terminal)
        assert not np.asarray(window.is_last[w])[~mask].any()


@settings(max_examples=25, deadline=None)
@given(lengths, st.integers(2, 9))
def test_every_window_is_indexed_once(lengths: list[int], length: int) -> None:
    index = build_window_index(labelled(lengths), length)
    expected, offset = [], 0
    for n in lengths:
        expected += [(offset + i, length) for i in range(n - length + 1)] or [(offset, n)]
        offset += n
    assert list(zip(index.starts.tolist(), index.valid_lengths.tolist(), strict=True)) == expected


PERMUTE = jax.jit(permute_index, static_argnames="count")


def order_of(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.asarray(PERMUTE(jnp.arange(count), np.uint32(seed), np.uint32(epoch), count=count))


@pytest.mark.parametrize("count", [1, 2, 5, 17, 4097])
def test_every_epoch_visits_every_window_once(count: int) -> None:
    for seed, epoch in ((0, 0), (0, 1), (7, 0), (2**31 - 1, 2**32 - 1)):
        np.testing.assert_array_equal(np.sort(order_of(count, seed, epoch)), np.arange(count))


def test_epochs_and_seeds_shuffle_differently_and_evenly() -> None:
    count = 1000
    orders = [order_of(count, seed, epoch) for seed in range(4) for epoch in range(4)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).mean() < 0.01
    for order in orders:
        assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 0.12
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.12


DRAW = jax.jit(jax.vmap(batch_indices, in_axes=(None, 0, None, None)), static_argnums=(2, 3))


def drawn(batches: DeviceLoader, first: int, updates: int = 40) -> np.ndarray:
    """(updates, B) windows of the batches from step `first` on."""
    at, sizes = batches.feed(first, updates), (batches.batch_size, batches.count)
    return np.asarray(DRAW(at, jnp.arange(updates), *sizes))


def test_batches_do_not_depend_on_where_a_run_was_resumed() -> None:
    batches = DeviceLoader.build(labelled([30, 7, 12]), batch_size=5, length=4, seed=3)
    whole = drawn(batches, 0)
    for start in (1, 8, 39):
        np.testing.assert_array_equal(drawn(batches, start)[: 40 - start], whole[start:])


def test_consecutive_batches_cover_whole_epochs() -> None:
    batches = DeviceLoader.build(labelled([30, 7, 12]), batch_size=4, length=4, seed=3)
    walked = drawn(batches, 0, 3 * batches.count).ravel()
    for epoch in walked.reshape(-1, batches.count):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(batches.count))


def test_the_cursor_is_exact_beyond_32_bits() -> None:
    batches = DeviceLoader.build(labelled([30, 7, 12]), batch_size=256, length=4, seed=3)
    step = 10**9
    epoch, offset = divmod(step * 256, batches.count)
    at = batches.feed(step, 1)
    assert (int(at.epoch), int(at.offset)) == (epoch % 2**32, offset)
    np.testing.assert_array_equal(drawn(batches, step)[2:], drawn(batches, step + 2)[:-2])


def test_a_batch_is_the_same_inside_and_outside_jit() -> None:
    batches = DeviceLoader.build(labelled([30, 7, 12]), batch_size=5, length=4, seed=3)
    at = batches.feed(11, 1)
    inside = jax.jit(batches.batch)(batches.arrays(), at, 2)
    outside = batches.batch(batches.arrays(), at, 2)
    jax.tree.map(np.testing.assert_array_equal, inside, outside)


def test_whole_episodes_are_masked_after_their_end() -> None:
    window = pad_episodes(labelled([3, 5]))
    np.testing.assert_array_equal(window.mask, [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(window.reward[0], [0, 1, 0, 0, 0])


def test_models_see_normalized_actions() -> None:
    spec = ActionSpec(False, 2, (-2.0, 0.0), (2.0, 1.0))
    raw = np.array([[-2.0, 0.0], [0.0, 0.5], [2.0, 1.0]], np.float32)
    np.testing.assert_allclose(spec.normalize(raw), [[-1, -1], [0, 0], [1, 1]])
    np.testing.assert_allclose(spec.denormalize(spec.normalize(raw)), raw)
    np.testing.assert_allclose(spec.denormalize(np.array([[9.0, -9.0]])), [[2.0, 0.0]])


def test_the_description_of_a_batch_matches_its_content() -> None:
    """Observations identify their episode and step, so the batch shows where it is from."""
    kept = labelled([30, 7, 3, 12]).select(np.array([3, 0, 2]))
    for loader in ("device", "host"):
        batches = make_loader(kept, 6, 5, 3, loader)
        feed = batches.feed(4, 1)
        window = jax.device_get(batches.batch(batches.arrays(), feed, 0))
        batches.close()
        expected = [
            f"episode {int(rows[0, 0])}, steps {int(rows[0, 1])}-{int(rows[mask, 1].max())}"
            for rows, mask in zip(window.observation["observation"], window.mask, strict=True)
        ]
        assert batches.describe_windows(4) == expected
