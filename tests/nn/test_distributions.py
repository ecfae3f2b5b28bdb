"""Distributions compared with closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel.nn.distributions import (
    Bernoulli,
    Categorical,
    Normal,
    TwoHot,
    symexp,
    symlog,
    twohot_bins,
    twohot_dot,
)


def test_symexp_inverts_symlog() -> None:
    x = jnp.concatenate([-jnp.logspace(-6, 6, 200), jnp.zeros(1), jnp.logspace(-6, 6, 200)])
    np.testing.assert_allclose(symexp(symlog(x)), x, rtol=1e-5, atol=1e-7)


def test_bins_are_antisymmetric_with_one_zero() -> None:
    bins = twohot_bins()
    assert bins.shape == (255,) and (bins == 0).sum() == 1
    np.testing.assert_array_equal(bins, -bins[::-1])
    assert (np.diff(bins) > 0).all()


dot = jax.jit(twohot_dot)


def code(target: float) -> np.ndarray:
    """The two-hot code of a number, by inner products with unit vectors."""
    return np.asarray(dot(np.eye(255, dtype=np.float32), np.full(255, target, np.float32)))


BINS = twohot_bins()


@pytest.mark.parametrize("target", [0.0, 0.3, -0.3, 1.0, -17.5, 1234.5, float(BINS[140])])
def test_two_hot_round_trip(target: float) -> None:
    weights = code(target)
    assert weights.sum() == pytest.approx(1, abs=1e-6) and (weights > 0).sum() <= 2
    assert (weights * BINS.astype(np.float64)).sum() == pytest.approx(target, rel=1e-5, abs=1e-5)


def test_targets_on_a_bin_and_beyond_the_last_use_one_bin() -> None:
    assert code(float(BINS[140])).argmax() == 140 and code(float(BINS[140])).max() == 1
    assert code(1e12)[-1] == 1 and code(-1e12)[0] == 1


def test_two_hot_loss_is_cross_entropy_to_the_code(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(7, 255)).astype(np.float32)
    targets = np.array([-900.0, -3.2, 0.0, 0.01, 5.0, 80.0, 1e5], np.float32)
    logs = np.asarray(jax.nn.log_softmax(logits))
    expected = [-(code(float(t)) * x).sum() for t, x in zip(targets, logs, strict=True)]
    loss = jax.jit(lambda logits, targets: TwoHot(logits).loss(targets))
    np.testing.assert_allclose(loss(logits, targets), expected, rtol=1e-5)


def test_two_hot_mean_recovers_a_confident_code() -> None:
    logits = jnp.log(jnp.asarray(code(42.0)) + 1e-30)
    assert float(TwoHot(logits).mean()) == pytest.approx(42.0, rel=1e-4)


def test_equal_logits_predict_exactly_zero() -> None:
    for value in (0.0, 3.7, -11.0):
        assert float(TwoHot(jnp.full(255, value)).mean()) == 0.0


def test_unimix_probabilities_in_closed_form(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(5, 4)) * 10
    softmax = np.exp(logits - logits.max(-1, keepdims=True))
    softmax /= softmax.sum(-1, keepdims=True)
    mixed = Categorical.from_logits(jnp.asarray(logits, jnp.float32), 0.01).probabilities
    np.testing.assert_allclose(mixed, 0.99 * softmax + 0.01 / 4, rtol=1e-5)
    assert mixed.min() >= 0.01 / 4 * 0.999


def test_categorical_kl_and_entropy_in_closed_form() -> None:
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.25, 0.25, 0.5])
    a, b = (Categorical(jnp.log(jnp.asarray(x, jnp.float32))) for x in (p, q))
    assert float(a.kl(b)) == pytest.approx((p * np.log(p / q)).sum(), rel=1e-5)
    assert float(a.entropy()) == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    assert float(a.kl(a)) == 0.0


def test_one_hot_samples_have_the_right_frequencies() -> None:
    p = jnp.asarray([0.05, 0.6, 0.05, 0.3])
    uniform = (jnp.arange(10_000) + 0.5) / 10_000
    onehot = Categorical(jnp.log(jnp.broadcast_to(p, (10_000, 4)))).sample_onehot(uniform)
    np.testing.assert_allclose(onehot.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(onehot.mean(0), p, atol=2e-4)


def test_the_largest_random_number_samples_a_class() -> None:
    latent = Categorical.from_logits(
        jnp.asarray(np.random.default_rng(1).normal(size=(500, 48)), jnp.float32)
    )
    onehot = latent.sample_onehot(jnp.full(500, 1 - 2**-24))
    np.testing.assert_allclose(onehot.sum(-1), 1, atol=1e-6)


def test_sampling_is_straight_through() -> None:
    def first(logits: jax.Array) -> jax.Array:
        return Categorical.from_logits(logits).sample_onehot(jnp.asarray(0.9))[0]

    logits = jnp.asarray([0.1, 0.5, -0.3])
    expected = jax.grad(lambda x: jax.nn.softmax(x)[0])(logits)
    np.testing.assert_allclose(jax.grad(first)(logits), expected, rtol=1e-5)


def test_normal_and_bernoulli_in_closed_form() -> None:
    normal = Normal(jnp.asarray([0.3, -1.0]), jnp.asarray([0.5, 2.0]))
    x = np.array([0.1, 0.7])
    density = np.exp(-0.5 * ((x - [0.3, -1.0]) / [0.5, 2.0]) ** 2) / (
        np.array([0.5, 2.0]) * np.sqrt(2 * np.pi)
    )
    assert float(normal.log_prob(jnp.asarray(x))) == pytest.approx(np.log(density).sum(), rel=1e-5)
    assert float(normal.entropy()) == pytest.approx(
        sum(0.5 * np.log(2 * np.pi * np.e * s**2) for s in (0.5, 2.0)), rel=1e-5
    )
    p = 1 / (1 + np.exp(-0.4))
    assert float(Bernoulli(jnp.asarray(0.4)).loss(jnp.asarray(1))) == pytest.approx(
        -np.log(p), rel=1e-5
    )
    assert float(Bernoulli(jnp.asarray(0.4)).loss(jnp.asarray(0))) == pytest.approx(
        -np.log(1 - p), rel=1e-5
    )
