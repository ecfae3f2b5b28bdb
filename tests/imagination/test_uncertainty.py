"""Uncertainty measures compared with NumPy, and transforms of rollouts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel.errors import ConfigError
from worldmodel.imagination import (
    UNCERTAINTIES,
    Rollout,
    imagine,
    penalize,
    time_major,
    truncate,
    with_uncertainty,
)
from worldmodel.models.interface import WorldModel
from worldmodel.nn.distributions import Bernoulli, Normal, ScalarMSE


def log_density(x, mean, variance):
    return -0.5 * np.sum((x - mean) ** 2 / variance + np.log(2 * np.pi * variance))


def kl(mean, variance, other_mean, other_variance):
    off = (mean - other_mean) ** 2
    terms = np.log(other_variance / variance) + (variance + off) / other_variance - 1
    return 0.5 * np.sum(terms)


def leave_one_out(mu, sigma):
    found = []
    for i in range(len(mu)):
        others, widths = np.delete(mu, i, 0), np.delete(sigma, i, 0)
        mean = others.mean(0)
        variance = (widths**2 + others**2).mean(0) - mean**2
        found.append(kl(mu[i], sigma[i] ** 2, mean, variance))
    return np.mean(found)


def total_variance(mu, sigma):
    return np.mean((sigma**2 + mu**2).mean(0) - mu.mean(0) ** 2)


NAIVE = {  # from mu, sigma (M, D)
    "max_aleatoric": lambda mu, sigma: max(np.linalg.norm(s) for s in sigma),
    "max_pairwise": lambda mu, sigma: max(np.linalg.norm(a - b) for a in mu for b in mu),
    "max_deviation": lambda mu, sigma: max(np.linalg.norm(m - mu.mean(0)) for m in mu),
    "ensemble_variance": total_variance,
    "ensemble_std": lambda mu, sigma: np.sqrt(total_variance(mu, sigma)),
    "epistemic_std": lambda mu, sigma: np.sqrt(np.mean(mu.var(0))),
    "log_likelihood_variance": lambda mu, sigma: np.var(
        [log_density(mu.mean(0), m, s**2) for m, s in zip(mu, sigma, strict=True)]
    ),
    "leave_one_out_kl": leave_one_out,
}


def random_members(members=5, batch=(3, 4), size=6):
    generator = np.random.default_rng(0)
    mu = generator.normal(size=(members, *batch, size))
    sigma = np.exp(generator.normal(size=mu.shape) - 1)
    return mu, sigma, Normal(jnp.asarray(mu, jnp.float32), jnp.asarray(sigma, jnp.float32))


def test_every_measure_has_a_reference():
    assert NAIVE.keys() == UNCERTAINTIES.keys()


@pytest.mark.parametrize("name", UNCERTAINTIES)
def test_measures_follow_their_papers(name):
    mu, sigma, members = random_members()
    expected = [[NAIVE[name](mu[:, b, h], sigma[:, b, h]) for h in range(4)] for b in range(3)]
    np.testing.assert_allclose(UNCERTAINTIES[name](members), expected, rtol=2e-4)


def test_equal_members_have_noise_only():
    """sigma is 0.3 in 4 dimensions."""
    members = Normal(jnp.full((5, 2, 4), 1e3), jnp.full((5, 2, 4), 0.3))
    known = {"max_aleatoric": 0.6, "ensemble_variance": 0.09, "ensemble_std": 0.3}
    for name, measure in UNCERTAINTIES.items():
        np.testing.assert_allclose(measure(members), known.get(name, 0.0), atol=1e-6)


def test_leave_one_out_kl_needs_two_members():
    with pytest.raises(ConfigError, match="2 or more"):
        UNCERTAINTIES["leave_one_out_kl"](random_members(members=1)[2])


class Pair(WorldModel):
    """Two nearly deterministic members, x' = x + a +- |x| / 2; reward x."""

    feature_size = 1

    def initial(self, batch):
        return jnp.zeros((*batch, 1))

    def observe(self, window, key, state=None, action=None):
        return window.observation["x"]

    def step(self, state, action, key):
        return state + action

    def features(self, state):
        return state

    def reward(self, state):
        return ScalarMSE(state[..., 0], 1.0)

    def terminal(self, state):
        return Bernoulli(jnp.full(state.shape[:-1], -jnp.inf))

    def predict_members(self, state, action):
        off = jnp.stack([state, -state]) / 2
        location = jnp.concatenate([action + off, jnp.broadcast_to(state, off.shape)], -1)
        return Normal(location, jnp.full(location.shape, 1e-3))


class Single(Pair):
    def predict_members(self, state, action):
        return None


def rollout() -> Rollout:
    """From 0 and from 1, in steps of 1: states (2, 5)."""
    actions = jnp.ones((2, 4, 1))
    return imagine(Pair(), jnp.array([[0.0], [1.0]]), actions, 4, jax.random.key(0))


STATES = np.array(
    [[0.0, 1, 2, 3], [1, 2, 3, 4]]
)  # before each step, and the distance of the members


def test_uncertainty_is_measured_at_each_step_inside_jit():
    measured = jax.jit(with_uncertainty(Pair(), "max_pairwise"))(rollout())
    np.testing.assert_allclose(measured.uncertainty, STATES)
    assert measured.valid is None
    np.testing.assert_array_equal(measured.rewards, rollout().rewards)


def test_penalties_are_subtracted_from_rewards():
    measured = with_uncertainty(Pair(), "max_pairwise")(rollout())
    np.testing.assert_allclose(penalize(measured, 0.5).rewards, STATES + 1 - 0.5 * STATES)


def test_rollouts_are_truncated_at_the_first_step_beyond_the_limit():
    measured = dataclasses.replace(
        rollout(), uncertainty=jnp.array([[0.1, 0.5, 0.6, 0.2], [jnp.nan, 0, 0, 0]])
    )
    cut = truncate(measured, 0.5)  # the limit itself is valid
    assert cut.valid.tolist() == [[True, True, False, False], [False] * 4]
    np.testing.assert_array_equal(cut.continues, 1.0)  # not an end: the last valid step bootstraps
    assert cut.valid.dtype == bool
    before = dataclasses.replace(measured, valid=jnp.array([[False, True, True, True]] * 2))
    assert truncate(before, 0.5).valid.tolist() == [[False, True, False, False], [False] * 4]


def test_time_major_transposes_optional_fields():
    cut = truncate(with_uncertainty(Pair(), "max_pairwise")(rollout()), 1.5)
    turned = time_major(cut)
    assert turned.valid.tolist() == cut.valid.T.tolist() and turned.uncertainty.shape == (4, 2)
    assert time_major(rollout()).valid is None


def test_models_without_members_and_unknown_measures_are_refused():
    with pytest.raises(ConfigError, match=r"Single has no members.*model=ensemble"):
        with_uncertainty(Single(), "ensemble_std")(rollout())
    with pytest.raises(ConfigError, match="'max'; accepted: max_aleatoric"):
        with_uncertainty(Pair(), "max")(rollout())
