"""The replay buffer keeps and samples the valid elements of the last refreshes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.imagination import replay_buffer

CAPACITY, SEGMENTS = 6, 3
KEY = jax.random.key(0)
add, sample = jax.jit(replay_buffer.add), jax.jit(replay_buffer.sample, static_argnums=2)


def refreshed(counts: list[int]) -> tuple[replay_buffer.ReplayBuffer, list[set[int]]]:
    """A buffer after refreshes with so many valid elements, and the numbers of these."""
    shape = {"number": jax.ShapeDtypeStruct((), jnp.int32)}
    buffer, valid_sets = replay_buffer.empty(shape, CAPACITY, SEGMENTS), []
    rng = np.random.default_rng(0)
    for number, count in enumerate(counts):
        rows = np.arange(1 + number * CAPACITY, 1 + (number + 1) * CAPACITY, dtype=np.int32)
        valid = rng.permutation(np.arange(CAPACITY) < count)
        buffer = add(buffer, {"number": rows}, valid)
        valid_sets.append(set(rows[valid].tolist()))
    return buffer, valid_sets


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, CAPACITY), min_size=1, max_size=7))
def test_only_valid_elements_of_the_last_refreshes_are_sampled(counts: list[int]) -> None:
    buffer, valid_sets = refreshed(counts)
    expected_set = set().union(*valid_sets[-SEGMENTS:])
    assert int(buffer.counts.sum()) == len(expected_set) == sum(counts[-SEGMENTS:])
    if expected_set:
        drawn = sample(buffer, KEY, 400)["number"]
        assert set(np.asarray(drawn).tolist()) == expected_set


@pytest.mark.parametrize("refreshes", [1, 2, 3, 5])
def test_the_buffer_keeps_the_last_refreshes(refreshes: int) -> None:
    buffer, _ = refreshed([CAPACITY] * refreshes)
    assert int(buffer.counts.sum()) == min(refreshes, SEGMENTS) * CAPACITY
    drawn = np.asarray(sample(buffer, KEY, 1000)["number"])
    assert (drawn > 0).all()  # empty segments are zero


def test_samples_are_uniform_over_valid_elements() -> None:
    """Also for segments of different sizes: each count is within four sigma."""
    buffer, valid_sets = refreshed([1, 6, 3])
    draws = 20_000
    drawn = np.asarray(sample(buffer, KEY, draws)["number"])
    expected_set = sorted(set().union(*valid_sets))
    counts = np.array([(drawn == number).sum() for number in expected_set])
    expected = draws / len(expected_set)
    assert (np.abs(counts - expected) < 4 * expected**0.5).all()


def test_samples_of_an_empty_buffer_are_zero() -> None:
    buffer, _ = refreshed([0])
    assert not np.asarray(sample(buffer, KEY, 10)["number"]).any()
