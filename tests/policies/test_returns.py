"""Lambda-returns compared with a naive sum, and the running scale."""

import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel.policies.returns import lambda_returns, update_scale


def naive(
    rewards: np.ndarray, discounts: np.ndarray, values: np.ndarray, lambda_: float
) -> np.ndarray:
    """The definition: a mixture of n-step returns, weights (1 - l) l^(n-1), the rest on the
    longest. O(H^2).
    """
    batch, horizon = rewards.shape
    out = np.zeros((batch, horizon))
    for b in range(batch):
        for t in range(horizon):
            total, reached, steps = 0.0, 1.0, 0.0
            for n in range(1, horizon - t + 1):
                steps += reached * rewards[b, t + n - 1]
                reached *= discounts[b, t + n - 1]
                weight = lambda_ ** (n - 1) * ((1 - lambda_) if t + n < horizon else 1.0)
                total += weight * (steps + reached * values[b, t + n])
            out[b, t] = total
    return out


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
def test_lambda_returns_equal_the_naive_sum(rng: np.random.Generator, lambda_: float) -> None:
    rewards, values = rng.normal(size=(4, 9)), rng.normal(size=(4, 10))
    discounts = rng.uniform(0.8, 1, size=(4, 9))
    discounts[0, 3] = discounts[1, 0] = discounts[2, 8] = 0.0  # episodes that end inside
    result = lambda_returns(*(jnp.asarray(x.T) for x in (rewards, discounts, values)), lambda_)
    np.testing.assert_allclose(
        result.T, naive(rewards, discounts, values, lambda_), rtol=1e-4, atol=1e-5
    )


def test_rewards_after_the_end_do_not_count() -> None:
    rewards = jnp.asarray([[1.0, 2.0, 100.0]])
    discounts = jnp.asarray([[1.0, 0.0, 1.0]])
    result = lambda_returns(rewards.T, discounts.T, jnp.full((4, 1), 50.0), 1.0)
    np.testing.assert_allclose(result[:2, 0], [3.0, 2.0])


def test_the_scale_tracks_the_range_and_is_at_least_one() -> None:
    statistics = {"return_range": jnp.zeros(())}
    statistics, scale = update_scale(statistics, jnp.linspace(0, 100, 1001), 0.01)
    assert float(statistics["return_range"]) == pytest.approx(0.9, rel=1e-4)
    assert float(scale) == 1.0
    for _ in range(2000):
        statistics, scale = update_scale(statistics, jnp.linspace(0, 100, 1001), 0.01)
    assert float(scale) == pytest.approx(90, rel=1e-3)


def test_incompatible_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        lambda_returns(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.zeros((2, 3)), 0.9)
