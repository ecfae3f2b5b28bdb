"""Actions as vectors, and the distribution over numbers and classes against closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel.data.spec import ActionSpec
from worldmodel.nn.actions import (
    Mixed,
    action_vector,
    join_columns,
    split_columns,
    split_vector,
    vector_entries,
)
from worldmodel.nn.distributions import Categorical, Normal
from worldmodel.nn.heads import ActionHead

# Columns: a choice of 3, a number, a choice of 2, a number.
SPEC = ActionSpec.of_columns([3, 0, 2, 0], [0, -1, 0, -1], [2, 1, 1, 1])
LOCATION, SCALE = np.array([0.3, -0.5]), np.array([0.5, 0.2])
LOGITS = np.array([[0.5, -1.0, 2.0], [0.2, 0.7, -np.inf]])  # the second choice has two classes


def mixed() -> Mixed:
    vector = jnp.asarray([0.5, -1.0, 2.0, 0.3, 0.2, 0.7, -0.5])
    numbers, logits = split_vector(vector, SPEC)
    return Mixed(Normal(numbers, jnp.asarray(SCALE)), Categorical.from_logits(logits), SPEC)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_actions_are_vectors_of_numbers_and_one_hot_classes() -> None:
    action = jnp.asarray([[2.0, 0.25, 0.0, -1.0], [0.0, 1.0, 1.0, 0.5]])
    expected = [[0, 0, 1, 0.25, 1, 0, -1], [1, 0, 0, 1, 0, 1, 0.5]]
    np.testing.assert_array_equal(action_vector(action, SPEC, jnp.float32), expected)
    columns, labels = vector_entries(SPEC)
    assert columns.tolist() == [0, 0, 0, 1, 2, 2, 3] and labels.tolist() == [0, 1, 2, -1, 0, 1, -1]
    np.testing.assert_array_equal(join_columns(*split_columns(action, SPEC), SPEC), action)
    numbers, classes = split_vector(action_vector(action, SPEC, jnp.float32), SPEC)
    np.testing.assert_array_equal(join_columns(numbers, classes.argmax(-1), SPEC), action)
    gradient = jax.grad(lambda a: action_vector(a, SPEC, jnp.float32)[:, [3, 6]].sum())(action)
    np.testing.assert_array_equal(gradient, [[0, 1, 0, 1]] * 2)


def test_the_log_density_is_the_sum_of_those_of_the_parts() -> None:
    value = np.array([2.0, 0.1, 1.0, -0.6])
    square = np.square((value[[1, 3]] - LOCATION) / SCALE)
    normal = (-0.5 * square - np.log(SCALE) - 0.5 * np.log(2 * np.pi)).sum()
    classes = log_softmax(LOGITS)[[0, 1], [2, 1]].sum()
    np.testing.assert_allclose(mixed().log_prob(jnp.asarray(value)), normal + classes, rtol=1e-5)
    np.testing.assert_allclose(mixed().loss(jnp.asarray(value)), -normal - classes, rtol=1e-5)


def test_entropy_and_divergence_are_sums_over_the_parts() -> None:
    logs = np.where(np.isinf(LOGITS), 0.0, log_softmax(LOGITS))
    negative = (np.exp(log_softmax(LOGITS)) * logs).sum()  # of the classes
    entropy = np.log(SCALE * np.sqrt(2 * np.pi * np.e)).sum() - negative
    np.testing.assert_allclose(mixed().entropy(), entropy, rtol=1e-5)
    uniform = Categorical.from_logits(jnp.where(jnp.isinf(LOGITS), -1e9, 0.0))
    other = Mixed(Normal(jnp.zeros(2), jnp.ones(2)), uniform, SPEC)
    normal = (0.5 * (SCALE**2 + LOCATION**2 - 1) - np.log(SCALE)).sum()
    classes = np.log(3) + np.log(2) + negative
    np.testing.assert_allclose(mixed().kl(other), normal + classes, rtol=1e-5)
    np.testing.assert_allclose(mixed().kl(mixed()), 0.0, atol=1e-6)
    gradient = jax.grad(lambda x: Categorical.from_logits(x).entropy().sum())
    assert np.isfinite(gradient(jnp.where(jnp.isinf(LOGITS), -1e9, LOGITS))).all()


def test_samples_have_the_frequencies_of_the_distribution() -> None:
    draws = np.asarray(jax.vmap(mixed().sample)(jax.random.split(jax.random.key(0), 20_000)))
    assert draws.shape == (20_000, 4)
    for column, row in ((0, 0), (2, 1)):
        expected = np.exp(log_softmax(LOGITS))[row, : SPEC.classes[column]]
        shares = np.bincount(draws[:, column].astype(int), minlength=len(expected)) / len(draws)
        np.testing.assert_allclose(shares, expected, atol=0.015)
    np.testing.assert_allclose(draws[:, [1, 3]].mean(0), LOCATION, atol=0.02)
    np.testing.assert_allclose(draws[:, [1, 3]].std(0), SCALE, atol=0.02)
    assert mixed().mode().tolist() == pytest.approx([2.0, 0.3, 1.0, -0.5])


@pytest.mark.parametrize("classes", [[3, 2], [0, 4, 0], [2] * 40])
def test_heads_learn_the_actions_of_every_kind(classes: list[int]) -> None:
    spec = ActionSpec.of_columns(classes, [-1] * len(classes), [1] * len(classes))
    head = ActionHead(4, spec, 8, 1, rngs=nnx.Rngs(0))
    features = jnp.ones((5, 6, 4))
    action = head(features).sample(jax.random.key(1))
    assert action.shape == (5, 6, spec.size) and action.dtype == jnp.float32
    assert not SPEC.no_classes(np.asarray(mixed().mode())).any()
    assert head(features).log_prob(action).shape == head(features).entropy().shape == (5, 6)
    graph, params = nnx.split(head)
    gradient = jax.grad(lambda p: nnx.merge(graph, p)(features).log_prob(action).sum())(params)
    assert all(np.isfinite(x).all() and np.any(x) for x in jax.tree.leaves(gradient))
