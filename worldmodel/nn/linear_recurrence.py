"""Linear recurrences x_t = A x_{t-1} + b_t over many small independent states, in four forms.

A state is a pair of real numbers and A a real 2 x 2 block. A complex coordinate is such a pair
(real, imaginary), and multiplication by a complex number is a block; real blocks hold Jordan blocks
besides. Parts are real arrays of their own, which XLA compiles and runs faster than complex ones.

| form        | work    | depth | needs                             |
| ----------- | ------- | ----- | --------------------------------- |
| sequential  | T       | T     | -                                 |
| toeplitz    | T^2     | 1     | A that does not change, no resets |
| fft         | T log T | log T | A that does not change, no resets |
| associative | T       | log T | -                                 |

They agree up to rounding where A's eigenvalues are at most 1 in size. Beyond that the transform
loses what is early and small beside what is late and large. `benchmarks/linear_recurrence.py` times
them; docs/benchmarks.md holds the table behind `auto`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Pair(NamedTuple):
    """A state, or an input to it: two arrays (..., m)."""

    x: jax.Array
    y: jax.Array


class Block(NamedTuple):
    """The real matrix [[a, b], [c, d]], entry by entry: arrays (..., m)."""

    a: jax.Array
    b: jax.Array
    c: jax.Array
    d: jax.Array


def apply(block: Block, pair: Pair) -> Pair:
    a, b, c, d = block
    return Pair(a * pair.x + b * pair.y, c * pair.x + d * pair.y)


def compose(left: Block, right: Block) -> Block:
    """The matrix product: `right` acts first."""
    (a, b, c, d), (e, f, g, h) = left, right
    return Block(a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)


def add(left: Pair, right: Pair) -> Pair:
    return Pair(left.x + right.x, left.y + right.y)


def powers(block: Block, count: int) -> Block:
    """A^0 ... A^(count - 1), entries (count, m), by doubling."""
    one, zero = jnp.ones_like(block.a), jnp.zeros_like(block.a)
    known = Block(*(entry[None] for entry in (one, zero, zero, one)))
    while len(known.a) < count:
        more = compose(block, known)
        known = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), known, more)
        block = compose(block, block)
    return jax.tree.map(lambda x: x[:count], known)


# ---------------------------------------------------------------------------------------- the forms
# Each takes A, entries (m,) or (T, B, m); `keep`, None or (T, B, 1), 0 where the state is forgotten
# before the step; inputs (T, B, m). The state before the first step is zero. `reverse`: from the
# last row to the first.


def sequential(block: Block, keep: jax.Array | None, inputs: Pair, reverse: bool = False) -> Pair:
    """One step after the other."""
    changing = block if block.a.ndim > 1 else None

    def advance(state: Pair, now: tuple) -> tuple[Pair, Pair]:
        at, kept, given = now
        if kept is not None:
            state = Pair(kept * state.x, kept * state.y)
        state = add(apply(at or block, state), given)
        return state, state

    zero = jax.tree.map(lambda x: jnp.zeros_like(x[0]), inputs)
    return jax.lax.scan(advance, zero, (changing, keep, inputs), reverse=reverse)[1]


def toeplitz(block: Block, keep: None, inputs: Pair, reverse: bool = False) -> Pair:
    """One product with the lower-triangular matrix of all powers: (2T, 2T) for each pair."""
    rows = inputs.x.shape[0]
    lag = jnp.arange(rows)[:, None] - jnp.arange(rows)
    lag = -lag if reverse else lag
    a, b, c, d = (
        jnp.where(lag >= 0, entry.T[:, jnp.maximum(lag, 0)], 0) for entry in powers(block, rows)
    )
    kernel = jnp.concatenate([jnp.concatenate([a, b], 2), jnp.concatenate([c, d], 2)], 1)
    # Accelerators would round the factors, and powers forgive no rounding.
    precision = jax.lax.Precision.HIGHEST
    both = jnp.einsum("mts,sbm->tbm", kernel, jnp.concatenate(inputs, 0), precision=precision)
    return Pair(both[:rows], both[rows:])


def fft(block: Block, keep: None, inputs: Pair, reverse: bool = False) -> Pair:
    """Convolution with the powers, padded with as many zeros, so that nothing wraps around."""
    rows = inputs.x.shape[0]

    def transform(x: jax.Array) -> jax.Array:
        return jnp.fft.rfft(x, 2 * rows, axis=0)

    if reverse:
        return _reversed(fft(block, keep, _reversed(inputs)))
    kernel = Block(*(transform(entry)[:, None] for entry in powers(block, rows)))
    product = apply(kernel, Pair(*map(transform, inputs)))
    return Pair(*(jnp.fft.irfft(x, 2 * rows, axis=0)[:rows] for x in product))


def associative(block: Block, keep: jax.Array | None, inputs: Pair, reverse: bool = False) -> Pair:
    """Steps joined two by two, in a tree of depth log T."""
    ones = jnp.ones((inputs.x.shape[0], 1, 1)) if keep is None else keep
    block = jax.tree.map(lambda entry: ones * entry, block)

    def join(early: tuple[Block, Pair], late: tuple[Block, Pair]) -> tuple[Block, Pair]:
        return compose(late[0], early[0]), add(apply(late[0], early[1]), late[1])

    return jax.lax.associative_scan(join, (block, inputs), reverse=reverse)[1]


FORMS = {f.__name__: f for f in (sequential, toeplitz, fft, associative)}
LONGEST_TOEPLITZ = 128  # steps, on accelerators; beyond, the kernel costs more than it saves


def chosen(length: int, constant: bool) -> str:
    """The form that `auto` stands for.

    On CPUs steps one after the other were fastest at every length from 16 to 2048: they touch
    memory least. Elsewhere a step is a launch, so few large operations are taken: what the
    literature advises, not yet measured here.
    """
    if jax.default_backend() == "cpu":
        return "sequential"
    return "toeplitz" if constant and length <= LONGEST_TOEPLITZ else "associative"


# ----------------------------------------------------------------------------------- what is called


def linear_recurrence(
    block: Block,
    inputs: Pair,
    start: Pair | None = None,
    resets: jax.Array | None = None,
    mode: str = "auto",
) -> Pair:
    """The states (B, T, m) of x_t = A x_{t-1} + b_t.

    block: entries (m,), or (B, T, m) where A changes; inputs: (B, T, m); start: x_{-1} (B, m), zero
    if None; resets: (B, T) bool, true where x_{t-1} is forgotten, so that x_t = b_t
    """
    constant = block.a.ndim == 1 and resets is None
    mode = chosen(inputs.x.shape[1], constant) if mode == "auto" else mode
    if mode not in FORMS:
        raise ValueError(f"mode={mode!r}: accepted are auto, {', '.join(FORMS)}")
    if not constant and mode in ("toeplitz", "fft"):
        raise ValueError(f"mode={mode!r} needs blocks that do not change and no resets")
    if block.a.ndim > 1:
        block = _swapped(block)
    inputs = _swapped(inputs)
    keep = None if resets is None else (~resets).T[..., None].astype(inputs.x.dtype)
    if start is not None:
        first = jax.tree.map(lambda entry: entry[0], block) if block.a.ndim > 1 else block
        carried = apply(first, start if keep is None else Pair(*(keep[0] * x for x in start)))
        inputs = jax.tree.map(lambda x, y: x.at[0].add(y), inputs, carried)
    return _swapped(_solve(FORMS[mode], block, keep, inputs))


@partial(jax.custom_vjp, nondiff_argnums=(0, 4))
def _solve(
    form: Callable[..., Pair],
    block: Block,
    keep: jax.Array | None,
    inputs: Pair,
    reverse: bool = False,
) -> Pair:
    return form(block, keep, inputs, reverse)


def _forward(
    form: Callable[..., Pair], block: Block, keep: jax.Array | None, inputs: Pair, reverse: bool
) -> Any:
    states = form(block, keep, inputs, reverse)
    return states, (block, keep, states)


def _backward(form: Callable[..., Pair], reverse: bool, residuals: tuple, cotangent: Pair) -> tuple:
    """The gradient is the same recurrence the other way, with the transposed blocks:
    g_t = A_{t+1}^T g_{t+1} + dL/dx_t, and dL/dA_t = g_t x_{t-1}^T.
    """
    block, keep, states = residuals
    transposed = Block(block.a, block.c, block.b, block.d)
    # Entry t + 1 at t; what comes round from the other end acts on zero.
    next_row = partial(jax.tree.map, lambda x: jnp.roll(x, 1 if reverse else -1, 0))
    if block.a.ndim > 1:
        transposed = next_row(transposed)
    gradient = _solve(form, transposed, next_row(keep), cotangent, not reverse)
    before = jax.tree.map(lambda x: _shifted(x, reverse), states)
    if keep is not None:
        before = Pair(*(keep * x for x in before))
    outer = Block(*(g * x for g in gradient for x in before))
    if block.a.ndim == 1:
        outer = jax.tree.map(lambda x: x.sum((0, 1)), outer)
    return outer, jax.tree.map(jnp.zeros_like, keep), gradient


_solve.defvjp(_forward, _backward)


def _swapped(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def _reversed(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.flip(x, 0), tree)


def _shifted(x: jax.Array, reverse: bool) -> jax.Array:
    """(T, ...): the state before each step, zero before the first."""
    zero = jnp.zeros_like(x[:1])
    return jnp.concatenate([x[1:], zero] if reverse else [zero, x[:-1]])
