"""A constant input is integrated exactly for all eigenvalues, zero and Jordan blocks included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.nn.zero_order_hold import Generator, zero_order_hold


def in_double(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """exp(z) and expm1(z) / z by 60 terms of their series."""
    term, total = np.ones(z.shape, complex), np.zeros(z.shape, complex)
    for n in range(1, 61):
        total, term = total + term / n, term * z / n
    return np.exp(z), total


def test_a_held_input_is_integrated_exactly() -> None:
    """Including zero, and both sides of the switch to the series."""
    sizes = np.array([0.0, 1e-12, 1e-6, 1e-3, 0.1, 0.499, 0.501, 1.0, 3.0])
    turns = np.linspace(np.pi / 2, np.pi, 5)  # the left half-plane
    rate, angle = (
        jnp.asarray(np.outer(sizes, part(turns)).ravel(), jnp.float32) for part in (np.cos, np.sin)
    )
    block, held = jax.jit(zero_order_hold)(Generator(rate, angle, angle, angle))
    exponential, integral = in_double(np.asarray(rate, float) + 1j * np.asarray(angle, float))
    for actual, expected in ((block, exponential), (held, integral)):
        np.testing.assert_allclose(actual.a, expected.real, atol=1e-6)
        np.testing.assert_allclose(actual.b, expected.imag, atol=1e-6)
        assert bool((actual.c == -actual.b).all()) and bool((actual.d == actual.a).all())


def test_a_jordan_block_integrates_twice() -> None:
    """x'' = c, held for a unit step: x moves by v + c / 2, v by c."""
    zero, one = jnp.zeros(1), jnp.ones(1)
    block, held = zero_order_hold(Generator(zero, zero, one, zero))
    np.testing.assert_allclose(np.ravel(block), [1, 1, 0, 1], atol=1e-7)
    np.testing.assert_allclose(np.ravel(held), [1, 0.5, 0, 1], atol=1e-7)


def test_gradients_are_finite_at_zero_and_near_it() -> None:
    def total(rate: jax.Array, p: jax.Array, q: jax.Array) -> jax.Array:
        block, held = zero_order_hold(Generator(rate, p * q, p * p, q * q))
        return sum(x.sum() for x in (*block, *held))

    sizes = np.concatenate([np.zeros(1), 10.0 ** np.arange(-36, 1)]).astype(np.float32)
    gradient = jax.jit(jax.grad(total, (0, 1, 2)))
    for side in (1e-3, 1.0, 3.0):
        grads = gradient(-sizes, np.full_like(sizes, side), sizes)
        assert all(np.isfinite(g).all() for g in grads), side
