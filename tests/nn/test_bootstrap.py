"""Bootstrap weights and held-out data, as functions of content."""

from __future__ import annotations

import math

import jax
import numpy as np

from worldmodel.nn import bootstrap

hash_vectors = jax.jit(bootstrap.hash_vectors)
held_out = jax.jit(bootstrap.held_out)
poisson_weights = jax.jit(bootstrap.poisson_weights, static_argnums=1)
COUNT, MEMBERS = 40_000, 3
ROWS = np.random.default_rng(0).normal(size=(COUNT, 4)).astype(np.float32)


def test_weights_are_poisson_of_mean_one_and_independent_between_members():
    weights = np.asarray(poisson_weights(hash_vectors(ROWS), MEMBERS))
    assert weights.shape == (MEMBERS, COUNT)
    for k in range(5):
        share = math.exp(-1) / math.factorial(k)
        error = math.sqrt(share * (1 - share) / COUNT)
        assert (np.abs((weights == k).mean(1) - share) < 4 * error).all()
    between = np.corrcoef(weights)[np.triu_indices(MEMBERS, 1)]
    assert (np.abs(between) < 4 / math.sqrt(COUNT)).all()


def test_a_transition_has_the_same_weight_every_time():
    order = np.random.default_rng(1).permutation(COUNT)
    weights = np.asarray(poisson_weights(hash_vectors(ROWS), MEMBERS))
    again = poisson_weights(hash_vectors(ROWS[order]), MEMBERS)
    np.testing.assert_array_equal(weights[:, order], again)


def test_salts_give_independent_weights_and_held_out_data():
    codes = [hash_vectors(ROWS, salt) for salt in (0, 1, 2)]
    for of in (lambda code: poisson_weights(code, MEMBERS)[0], lambda code: held_out(code, 0.2)):
        between = np.corrcoef([np.asarray(of(code), float) for code in codes])
        assert (np.abs(between[np.triu_indices(3, 1)]) < 4 / math.sqrt(COUNT)).all()


def test_held_out_data_is_independent_of_the_weights():
    code = hash_vectors(ROWS)
    kept = np.asarray(held_out(code, 0.1))
    assert abs(kept.mean() - 0.1) < 4 * math.sqrt(0.09 / COUNT)
    weights = np.asarray(poisson_weights(code, MEMBERS))[0]
    assert abs(weights[kept].mean() - 1) < 4 / math.sqrt(kept.sum())
    assert not np.asarray(held_out(code, 0.0)).any()


def test_hashes_depend_on_every_number_and_its_position():
    code = np.asarray(hash_vectors(ROWS))
    assert len(np.unique(code)) > 0.999 * COUNT
    for column in range(4):
        other = ROWS.copy()
        other[:, column] = np.nextafter(other[:, column], np.float32(9))
        assert (np.asarray(hash_vectors(other)) != code).mean() > 0.999
    assert (np.asarray(hash_vectors(ROWS[:, ::-1])) != code).mean() > 0.999
