"""The buffer keeps exactly the rows that count of the last refreshes, and draws nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.imagination import replay_buffer

ROWS, RETENTION = 6, 3
KEY = jax.random.key(0)
add, sample = jax.jit(replay_buffer.add), jax.jit(replay_buffer.sample, static_argnums=2)


def refreshed(counts: list[int]) -> tuple[replay_buffer.ReplayBuffer, list[set[int]]]:
    """A buffer after refreshes of which so many rows count, and the numbers that those hold."""
    shape = {"number": jax.ShapeDtypeStruct((), jnp.int32)}
    made, kept = replay_buffer.empty(shape, ROWS, RETENTION), []
    rng = np.random.default_rng(0)
    for number, count in enumerate(counts):
        rows = np.arange(1 + number * ROWS, 1 + (number + 1) * ROWS, dtype=np.int32)
        valid = rng.permutation(np.arange(ROWS) < count)
        made = add(made, {"number": rows}, valid)
        kept.append(set(rows[valid].tolist()))
    return made, kept


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, ROWS), min_size=1, max_size=7))
def test_only_rows_that_count_of_the_last_refreshes_are_there(counts: list[int]) -> None:
    made, kept = refreshed(counts)
    there = set().union(*kept[-RETENTION:])
    assert int(made.counts.sum()) == len(there) == sum(counts[-RETENTION:])
    if there:
        drawn = sample(made, KEY, 400)["number"]
        assert set(np.asarray(drawn).tolist()) == there


@pytest.mark.parametrize("refreshes", [1, 2, 3, 5])
def test_after_k_refreshes_min_k_retention_times_n_rows_are_there(refreshes: int) -> None:
    made, _ = refreshed([ROWS] * refreshes)
    assert int(made.counts.sum()) == min(refreshes, RETENTION) * ROWS
    drawn = np.asarray(sample(made, KEY, 1000)["number"])
    assert (drawn > 0).all()  # an unfilled row would be zero


def test_every_row_is_as_likely_as_any_other() -> None:
    """Also where refreshes left different numbers of rows: each count within four sigma."""
    made, kept = refreshed([1, 6, 3])
    draws = 20_000
    drawn = np.asarray(sample(made, KEY, draws)["number"])
    there = sorted(set().union(*kept))
    counts = np.array([(drawn == number).sum() for number in there])
    expected = draws / len(there)
    assert (np.abs(counts - expected) < 4 * expected**0.5).all()


def test_an_empty_buffer_gives_zeros() -> None:
    made, _ = refreshed([0])
    assert not np.asarray(sample(made, KEY, 10)["number"]).any()
