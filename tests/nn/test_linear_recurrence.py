"""Linear recurrences: all forms give the same states and gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel.nn import linear_recurrence as recurrence
from worldmodel.nn.linear_recurrence import FORMS, Block, Pair, powers

B, T, M = 3, 37, 5
ANY = ("sequential", "associative")  # forms that support varying blocks and resets


def pair(rng: np.random.Generator, *shape: int) -> Pair:
    return Pair(*jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32))


@partial(jax.jit, static_argnames="mode")
def linear_recurrence(
    block: Block,
    inputs: Pair,
    start: Pair | None = None,
    resets: jax.Array | None = None,
    mode: str = "auto",
) -> Pair:
    """Batch-first, with a zero start unless given."""

    def swapped(tree: object) -> object:
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)

    start = jax.tree.map(lambda x: jnp.zeros_like(x[:, 0]), inputs) if start is None else start
    block = swapped(block) if block.a.ndim > 1 else block
    states = recurrence.linear_recurrence(block, swapped(inputs), start, swapped(resets), mode)
    return swapped(states)


def rotations(rng: np.random.Generator, *shape: int) -> Block:
    """Complex numbers of magnitude 0.8 to 1, including 1."""
    angle, size = rng.uniform(0, np.pi, shape), rng.uniform(0.8, 1.0, shape)
    size[..., 0] = 1.0
    re, im = size * np.cos(angle), size * np.sin(angle)
    return Block(*(jnp.asarray(x, jnp.float32) for x in (re, -im, im, re)))


def jordan(rng: np.random.Generator, *shape: int) -> Block:
    """Positions that integrate their velocities."""
    one, drift = jnp.ones(shape), jnp.asarray(rng.uniform(0.01, 0.1, shape), jnp.float32)
    return Block(one, drift, jnp.zeros(shape), one)


def reference(block: Block, inputs: Pair, start: Pair, resets: np.ndarray) -> np.ndarray:
    """The recurrence in numpy and double precision, (2, B, T, m)."""
    matrix = np.asarray(block, np.float64).reshape(2, 2, *block.a.shape)
    given = np.asarray(inputs, np.float64)
    state, states = np.asarray(start, np.float64), []
    for t in range(given.shape[2]):
        now = matrix[:, :, :, t] if block.a.ndim > 1 else matrix[:, :, None]
        state = np.where(resets[:, t, None], 0.0, state)
        state = (now * state).sum(1) + given[:, :, t]
        states.append(state)
    return np.stack(states, 2)


def close(a: object, b: object) -> None:
    """Equal to 1e-5 of the largest entry."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize("mode", [*FORMS, "auto"])
@pytest.mark.parametrize("blocks", [rotations, jordan])
@pytest.mark.parametrize("steps", [1, 100])
def test_every_form_solves_the_recurrence(
    mode: str, blocks: Callable[..., Block], steps: int, rng: np.random.Generator
) -> None:
    block, inputs, start = blocks(rng, M), pair(rng, B, steps, M), pair(rng, B, M)
    states = linear_recurrence(block, inputs, start, mode=mode)
    close(np.stack(states), reference(block, inputs, start, np.zeros((B, steps), bool)))


@pytest.mark.parametrize("mode", ANY)
@pytest.mark.parametrize("varying", [False, True])
def test_resets_discard_the_previous_state(
    mode: str, varying: bool, rng: np.random.Generator
) -> None:
    block = rotations(rng, B, T, M) if varying else rotations(rng, M)
    inputs, start = pair(rng, B, T, M), pair(rng, B, M)
    resets = rng.uniform(size=(B, T)) < 0.2
    resets[0, 0] = True
    states = np.stack(linear_recurrence(block, inputs, start, jnp.asarray(resets), mode))
    close(states, reference(block, inputs, start, resets))
    close(states[:, resets], np.stack(inputs)[:, resets])


@pytest.mark.parametrize("case", ["constant", "resets", "varying"])
def test_gradients_equal_those_of_a_scan(case: str, rng: np.random.Generator) -> None:
    block = rotations(rng, B, T, M) if case == "varying" else rotations(rng, M)
    inputs, start, weight = pair(rng, B, T, M), pair(rng, B, M), pair(rng, B, T, M)
    resets = None if case == "constant" else jnp.asarray(rng.uniform(size=(B, T)) < 0.2)
    keep = jnp.ones((B, T)) if resets is None else 1.0 - resets

    def plain(block: Block, inputs: Pair, start: Pair) -> jax.Array:
        """The same sum by a scan that JAX differentiates itself."""

        def advance(state: Pair, t: jax.Array) -> tuple[Pair, Pair]:
            a, b, c, d = (entry[:, t] if block.a.ndim > 1 else entry for entry in block)
            x, y = (keep[:, t, None] * part for part in state)
            state = Pair(a * x + b * y + inputs.x[:, t], c * x + d * y + inputs.y[:, t])
            return state, state

        states = jax.lax.scan(advance, start, jnp.arange(T))[1]
        return sum((jnp.swapaxes(x, 0, 1) * w).sum() for x, w in zip(states, weight, strict=True))

    expected = jax.jit(jax.grad(plain, (0, 1, 2)))(block, inputs, start)
    for mode in FORMS if case == "constant" else ANY:

        def total(block: Block, inputs: Pair, start: Pair, mode: str = mode) -> jax.Array:
            states = linear_recurrence(block, inputs, start, resets, mode)
            return sum((x * w).sum() for x, w in zip(states, weight, strict=True))

        close(jax.jit(jax.grad(total, (0, 1, 2)))(block, inputs, start), expected)


def test_without_inputs_states_are_powers_of_the_block(rng: np.random.Generator) -> None:
    block, start = rotations(rng, M), pair(rng, B, M)
    states = linear_recurrence(block, Pair(jnp.zeros((B, T, M)), jnp.zeros((B, T, M))), start)
    eigenvalue = np.asarray(block.a, np.complex128) + 1j * np.asarray(block.c)
    expected = (np.asarray(start.x) + 1j * np.asarray(start.y)) * eigenvalue**T
    close([states.x[:, -1], states.y[:, -1]], [expected.real, expected.imag])
    close(powers(block, T + 1).c[-1], (eigenvalue**T).imag)


@pytest.mark.parametrize("mode", ["sequential", "toeplitz", "associative"])
def test_no_complex_numbers_are_compiled(mode: str, rng: np.random.Generator) -> None:
    """XLA is slow to compile and run complex numbers; only the FFT needs them."""

    def total(block: Block, inputs: Pair) -> jax.Array:
        return sum(x.sum() for x in linear_recurrence(block, inputs, mode=mode))

    program = jax.jit(jax.grad(total)).lower(rotations(rng, M), pair(rng, B, T, M)).as_text()
    assert "complex" not in program


@pytest.mark.parametrize("mode", ["toeplitz", "fft"])
def test_convolutions_refuse_varying_blocks_and_resets(mode: str, rng: np.random.Generator) -> None:
    inputs, resets = pair(rng, B, T, M), jnp.zeros((B, T), bool)
    with pytest.raises(ValueError, match="no resets"):
        linear_recurrence(rotations(rng, M), inputs, resets=resets, mode=mode)
    with pytest.raises(ValueError, match="requires a constant block"):
        linear_recurrence(rotations(rng, B, T, M), inputs, mode=mode)


def test_unknown_forms_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="accepted: auto, sequential"):
        linear_recurrence(rotations(rng, M), pair(rng, B, T, M), mode="scan")
