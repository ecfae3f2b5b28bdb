"""Transitions of datasets and of rollouts: pairing and validity."""

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
    """An episode with observation first + t and action -t / 10 at step t."""
    number = np.arange(steps + 1, dtype=np.float32)[:, None]
    return Episode({"x": first + number}, -number[:-1] / 10, 10 + number[:-1, 0], terminated)


@cache
def transitions():
    """Of an episode that terminates, one that times out, and one shorter than the window."""
    episodes = [episode(4, 100, True), episode(4, 200, False), episode(2, 300, True)]
    dataset = stack_episodes(episodes, "numbers")
    model = models.build(MLPOptions(units=4, latent_dim=4), dataset.spec(), KEY)
    window = pad_episodes(dataset, length=5)
    features = jax.jit(lambda w: model.features(model.observe(w, KEY)))(window)
    flat = jax.device_get(jax.jit(lambda w: transitions_from_window(model, w, KEY))(window))
    result = jax.tree.map(lambda x: x.reshape(3, 4, *x.shape[1:]), flat)
    return result, np.asarray(features)


def test_steps_are_paired_within_their_episode():
    result, features = transitions()
    np.testing.assert_array_equal(result.features, features[:, :-1])
    np.testing.assert_array_equal(result.next_features, features[:, 1:])
    np.testing.assert_array_equal(result.reward[0], [10, 11, 12, 13])
    np.testing.assert_array_equal(result.weight, [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])


def test_time_outs_are_not_terminal():
    result, _ = transitions()
    np.testing.assert_array_equal(
        result.terminal * result.weight, [[0, 0, 0, 1], [0] * 4, [0, 1, 0, 0]]
    )


def test_next_actions_are_valid_within_an_episode():
    result, _ = transitions()
    known = result.next_action_valid & (result.weight > 0)
    np.testing.assert_array_equal(known, [[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(result.next_action[:, 0], result.action[:, 1])


def rollout(continues: np.ndarray, valid: np.ndarray | None = None) -> Rollout:
    starts, steps = continues.shape
    features = jnp.arange(starts * (steps + 1), dtype=jnp.float32).reshape(starts, steps + 1, 1)
    actions = jnp.ones((starts, steps, 1))
    rewards = jnp.ones((starts, steps))
    return Rollout((), features, actions, rewards, jnp.asarray(continues), None, valid)


def test_transitions_after_an_end_and_from_ended_starts_are_invalid():
    continues = np.array([[1.0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
    alive = jnp.array([True, False, True, True])
    result, valid = transitions_from_rollout(rollout(continues), alive, KEY)
    expected = [[1, 1, 0, 0], [0] * 4, [1] * 4, [1] * 4]
    np.testing.assert_array_equal(valid.reshape(4, 4), expected)
    np.testing.assert_array_equal((result.terminal * valid).reshape(4, 4).sum(1), [1, 0, 1, 0])
    assert bool(result.imagined.all())


def test_invalid_steps_of_a_rollout_are_invalid_transitions():
    cut = jnp.array([[True, True, False, False]])
    _, valid = transitions_from_rollout(rollout(np.ones((1, 4)), cut), jnp.array([True]), KEY)
    np.testing.assert_array_equal(valid, [1, 1, 0, 0])


def test_ends_are_sampled_with_their_probability():
    count, end = 20_000, 0.25
    continues = np.full((count, 1), 1 - end)
    result, _ = transitions_from_rollout(rollout(continues), jnp.ones(count, bool), KEY)
    assert abs(float(result.terminal.mean()) - end) < 4 * (end * (1 - end) / count) ** 0.5
