"""Transitions of logs and of rollouts: what belongs together, and what is to be learned from."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel import models
from worldmodel.data.episodes import Episode, stack_episodes
from worldmodel.data.loader import pad_episodes
from worldmodel.imagination import Rollout
from worldmodel.imagination.transitions import transitions_from_rollout, transitions_from_window
from worldmodel.models.mlp import MLPOptions

KEY = jax.random.key(0)


def episode(steps: int, first: int, terminated: bool) -> Episode:
    """One whose rows are numbered: the observation of row t is first + t, its action -t / 10."""
    number = np.arange(steps + 1, dtype=np.float32)[:, None]
    return Episode({"x": first + number}, -number[:-1] / 10, 10 + number[:-1, 0], terminated)


@cache
def transitions():
    """Those of an episode that ends, one that times out, and one shorter than the window."""
    episodes = [episode(4, 100, True), episode(4, 200, False), episode(2, 300, True)]
    logs = stack_episodes(episodes, "numbers")
    model = models.build(MLPOptions(units=4, latent_dim=4), logs.spec(), KEY)
    window = pad_episodes(logs, rows=5)
    features = jax.jit(lambda w: model.features(model.observe(w, KEY)))(window)
    flat = jax.device_get(jax.jit(lambda w: transitions_from_window(model, w, KEY))(window))
    made = jax.tree.map(lambda x: x.reshape(3, 4, *x.shape[1:]), flat)
    return made, np.asarray(features)


def test_rows_are_paired_within_their_episode():
    made, features = transitions()
    np.testing.assert_array_equal(made.features, features[:, :-1])
    np.testing.assert_array_equal(made.next_features, features[:, 1:])
    np.testing.assert_array_equal(made.reward[0], [10, 11, 12, 13])
    np.testing.assert_array_equal(made.weight, [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])


def test_an_end_is_an_end_and_a_time_out_goes_on():
    made, _ = transitions()
    np.testing.assert_array_equal(
        made.terminal * made.weight, [[0, 0, 0, 1], [0] * 4, [0, 1, 0, 0]]
    )


def test_the_next_action_is_known_where_it_was_logged():
    made, _ = transitions()
    known = made.next_action_valid & (made.weight > 0)
    np.testing.assert_array_equal(known, [[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(made.next_action[:, 0], made.action[:, 1])


def rollout(continues: np.ndarray, valid: np.ndarray | None = None) -> Rollout:
    starts, steps = continues.shape
    features = jnp.arange(starts * (steps + 1), dtype=jnp.float32).reshape(starts, steps + 1, 1)
    actions = jnp.ones((starts, steps, 1))
    rewards = jnp.ones((starts, steps))
    return Rollout((), features, actions, rewards, jnp.asarray(continues), None, valid)


def test_nothing_is_learned_after_an_end_nor_from_a_dead_start():
    continues = np.array([[1.0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
    alive = jnp.array([True, False, True, True])
    made, valid = transitions_from_rollout(rollout(continues), alive, KEY)
    expected = [[1, 1, 0, 0], [0] * 4, [1] * 4, [1] * 4]
    np.testing.assert_array_equal(valid.reshape(4, 4), expected)
    np.testing.assert_array_equal((made.terminal * valid).reshape(4, 4).sum(1), [1, 0, 1, 0])
    assert bool(made.imagined.all())


def test_rows_that_a_rollout_says_not_to_learn_from_are_left_out():
    cut = jnp.array([[True, True, False, False]])
    _, valid = transitions_from_rollout(rollout(np.ones((1, 4)), cut), jnp.array([True]), KEY)
    np.testing.assert_array_equal(valid, [1, 1, 0, 0])


def test_ends_are_drawn_with_their_probability():
    count, end = 20_000, 0.25
    continues = np.full((count, 1), 1 - end)
    made, _ = transitions_from_rollout(rollout(continues), jnp.ones(count, bool), KEY)
    assert abs(float(made.terminal.mean()) - end) < 4 * (end * (1 - end) / count) ** 0.5
