"""Every form of a linear recurrence gives the states that one step after the other gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel.nn.linear_recurrence import MODES, Complex, solve

B, M = 3, 5


def problem(steps: int, largest: float = 0.0) -> tuple:
    """Coordinates that fade quickly, slowly and not at all, with random inputs."""
    rng = np.random.default_rng(0)
    log_size = jnp.asarray(np.linspace(-0.5, largest, M), jnp.float32)
    angle = jnp.asarray(rng.uniform(-3, 3, M), jnp.float32)
    start = Complex(*(jnp.asarray(rng.normal(size=(B, M)), jnp.float32) for _ in "ri"))
    inputs = Complex(*(jnp.asarray(rng.normal(size=(B, steps, M)), jnp.float32) for _ in "ri"))
    return log_size, angle, start, inputs


def reference(log_size: jax.Array, angle: jax.Array, start: Complex, inputs: Complex) -> np.ndarray:
    """One step after the other, in double precision."""
    a = np.exp(np.asarray(log_size, np.float64) + 1j * np.asarray(angle, np.float64))
    x = np.asarray(start.re, np.float64) + 1j * np.asarray(start.im, np.float64)
    b = np.asarray(inputs.re, np.float64) + 1j * np.asarray(inputs.im, np.float64)
    states = []
    for t in range(b.shape[1]):
        x = a * x + b[:, t]
        states.append(x)
    return np.stack(states, 1)


@pytest.mark.parametrize("steps", [1, 2, 17, 100])
@pytest.mark.parametrize("mode", ["auto", *MODES])
def test_all_forms_agree_with_the_sequence(mode: str, steps: int) -> None:
    arguments = problem(steps)
    expected = reference(*arguments)
    states = solve(*arguments, mode=mode)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(states.re, expected.real, atol=1e-5 * scale, rtol=0)
    np.testing.assert_allclose(states.im, expected.imag, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("mode", MODES[1:])
def test_gradients_agree(mode: str) -> None:
    arguments = problem(40)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(B, 40, M)), jnp.float32)

    def loss(arguments: tuple, mode: str) -> jax.Array:
        states = solve(*arguments, mode=mode)
        return (weights * (jnp.sin(states.re) + states.im)).sum()

    expected = jax.grad(loss)(arguments, "scan")
    found = jax.grad(loss)(arguments, mode)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        scale = float(jnp.abs(a).max())
        np.testing.assert_allclose(b, a, atol=2e-5 * scale, rtol=0)


def test_without_inputs_the_state_is_a_power() -> None:
    log_size, angle, start, inputs = problem(30)
    states = solve(log_size, angle, start, inputs.map(jnp.zeros_like))
    a = np.exp(np.asarray(log_size) + 1j * np.asarray(angle))
    x = np.asarray(start.re) + 1j * np.asarray(start.im)
    np.testing.assert_allclose(states.re[:, -1], (a**30 * x).real, atol=1e-5)


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(ValueError, match="accepted: auto, scan"):
        solve(*problem(2), mode="fast")
