"""Linear recurrences x_t = A x_{t-1} + b_t over many small independent states, in four forms.

A state is a pair of real numbers and A a real 2 x 2 block. Complex coordinates are pairs (real,
imaginary), and multiplication by a complex number is a block; real blocks also include Jordan
blocks. XLA compiles and runs separate real arrays faster than complex ones.

| form        | work    | depth | needs                             |
| ----------- | ------- | ----- | --------------------------------- |
| sequential  | T       | T     | -                                 |
| toeplitz    | T^2     | 1     | constant A, no resets             |
| fft         | T log T | log T | constant A, no resets             |
| associative | T       | log T | -                                 |

They agree up to rounding if the eigenvalues of A are at most 1 in magnitude; otherwise `fft` loses
early small values next to late large ones. `benchmarks/linear_recurrence.py` measures them;
docs/results/benchmarks.md has the table behind `auto`.
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
    result = Block(*(entry[None] for entry in (one, zero, zero, one)))
    while len(result.a) < count:
        more = compose(block, result)
        result = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), result, more)
        block = compose(block, block)
    return jax.tree.map(lambda x: x[:count], result)


# ---------------------------------------------------------------------------------------- the forms
# Each takes A, entries (m,) or (T, B, m); `keep`, None or (T, B, 1), 0 where the state is reset
# before the step; the state before the first step, (B, m); inputs (T, B, m). `reverse`: from the
# last step to the first.


def sequential(
    block: Block, keep: jax.Array | None, start: Pair, inputs: Pair, reverse: bool = False
) -> Pair:
    """One step after the other."""
    varying = block if block.a.ndim > 1 else None

    def advance(state: Pair, now: tuple) -> tuple[Pair, Pair]:
        at, keep, given = now
        state = add(apply(at or block, _reset(keep, state)), given)
        return state, state

    return jax.lax.scan(advance, start, (varying, keep, inputs), reverse=reverse)[1]


def toeplitz(block: Block, keep: None, start: Pair, inputs: Pair, reverse: bool = False) -> Pair:
    """One product with the lower-triangular matrix of all powers: (2T, 2T) for each pair."""
    inputs = _with_start(block, keep, start, inputs, reverse)
    length = inputs.x.shape[0]
    lag = jnp.arange(length)[:, None] - jnp.arange(length)
    lag = -lag if reverse else lag
    a, b, c, d = (
        jnp.where(lag >= 0, entry.T[:, jnp.maximum(lag, 0)], 0) for entry in powers(block, length)
    )
    kernel = jnp.concatenate([jnp.concatenate([a, b], 2), jnp.concatenate([c, d], 2)], 1)
    # Accelerators would round the factors, and powers amplify rounding errors.
    precision = jax.lax.Precision.HIGHEST
    both = jnp.einsum("mts,sbm->tbm", kernel, jnp.concatenate(inputs, 0), precision=precision)
    return Pair(both[:length], both[length:])


def fft(block: Block, keep: None, start: Pair, inputs: Pair, reverse: bool = False) -> Pair:
    """Convolution with the powers, zero-padded so that nothing wraps around."""
    if reverse:
        return _reversed(fft(block, keep, start, _reversed(inputs)))
    inputs = _with_start(block, keep, start, inputs, reverse)
    length = inputs.x.shape[0]

    def transform(x: jax.Array) -> jax.Array:
        return jnp.fft.rfft(x, 2 * length, axis=0)

    kernel = Block(*(transform(entry)[:, None] for entry in powers(block, length)))
    product = apply(kernel, Pair(*map(transform, inputs)))
    return Pair(*(jnp.fft.irfft(x, 2 * length, axis=0)[:length] for x in product))


def associative(
    block: Block, keep: jax.Array | None, start: Pair, inputs: Pair, reverse: bool = False
) -> Pair:
    """Steps combined in pairs, in a tree of depth log T."""
    inputs = _with_start(block, keep, start, inputs, reverse)
    ones = jnp.ones((inputs.x.shape[0], 1, 1)) if keep is None else keep
    block = jax.tree.map(lambda entry: ones * entry, block)

    def join(early: tuple[Block, Pair], late: tuple[Block, Pair]) -> tuple[Block, Pair]:
        return compose(late[0], early[0]), add(apply(late[0], early[1]), late[1])

    return jax.lax.associative_scan(join, (block, inputs), reverse=reverse)[1]


def _with_start(
    block: Block, keep: jax.Array | None, start: Pair, inputs: Pair, reverse: bool
) -> Pair:
    """Inputs whose first step includes A times the start, for a recurrence that starts at zero."""
    index = -1 if reverse else 0
    carried = apply(_at(block, index), _reset(None if keep is None else keep[index], start))
    return jax.tree.map(lambda x, y: x.at[index].add(y), inputs, carried)


def _at(block: Block, index: int) -> Block:
    return jax.tree.map(lambda entry: entry[index], block) if block.a.ndim > 1 else block


def _reset(keep: jax.Array | None, state: Pair) -> Pair:
    return state if keep is None else Pair(keep * state.x, keep * state.y)


FORMS = {f.__name__: f for f in (sequential, toeplitz, fft, associative)}
LONGEST_TOEPLITZ = 128  # steps, on accelerators; beyond, the kernel costs more than it saves


def chosen(length: int, constant: bool) -> str:
    """The form that `auto` stands for.

    On CPUs `sequential` was fastest at every length from 16 to 2048: it uses the least memory.
    Accelerators launch a kernel per step, so few large operations are preferred, as the literature
    advises; this has not been measured here.
    """
    if jax.default_backend() == "cpu":
        return "sequential"
    return "toeplitz" if constant and length <= LONGEST_TOEPLITZ else "associative"


# ----------------------------------------------------------------------------- the public function


def linear_recurrence(
    block: Block, inputs: Pair, start: Pair, resets: jax.Array | None = None, mode: str = "auto"
) -> Pair:
    """The states (T, B, m) of x_t = A x_{t-1} + b_t, time-major.

    block: entries (m,), or (T, B, m) if A varies
    inputs: (T, B, m)
    start: x_{-1} (B, m)
    resets: (T, B) bool, true where x_t = b_t
    mode: a form in the table above, or auto

    Raises ValueError for an unknown form, or one that does not support the arguments.
    """
    constant = block.a.ndim == 1 and resets is None
    mode = chosen(inputs.x.shape[0], constant) if mode == "auto" else mode
    if mode not in FORMS:
        raise ValueError(f"mode={mode!r}: accepted: auto, {', '.join(FORMS)}")
    if not constant and mode in ("toeplitz", "fft"):
        raise ValueError(f"mode={mode!r} requires a constant block and no resets")
    keep = None if resets is None else (~resets)[..., None].astype(inputs.x.dtype)
    return _solve(FORMS[mode], block, keep, start, inputs)


def _solve_form(
    form: Callable[..., Pair],
    block: Block,
    keep: jax.Array | None,
    start: Pair,
    inputs: Pair,
    reverse: bool = False,
) -> Pair:
    return form(block, keep, start, inputs, reverse)


_solve = jax.custom_vjp(_solve_form, nondiff_argnums=(0, 5))


def _forward(
    form: Callable[..., Pair],
    block: Block,
    keep: jax.Array | None,
    start: Pair,
    inputs: Pair,
    reverse: bool,
) -> tuple[Pair, tuple]:
    states = form(block, keep, start, inputs, reverse)
    return states, (block, keep, start, states)


def _backward(form: Callable[..., Pair], reverse: bool, residuals: tuple, cotangent: Pair) -> tuple:
    """The gradient is the same recurrence in reverse, with the transposed blocks:
    g_t = A_{t+1}^T g_{t+1} + dL/dx_t, and dL/dA_t = g_t x_{t-1}^T.
    """
    block, keep, start, states = residuals
    if form is sequential and block.a.ndim == 1:
        outer, gradient = _backward_in_one_pass(block, keep, start, states, cotangent, reverse)
    else:
        # Entry t + 1 at t; the one that wraps around acts on zero.
        following = partial(jax.tree.map, lambda x: jnp.roll(x, 1 if reverse else -1, 0))
        varying = following(block) if block.a.ndim > 1 else block
        zero = jax.tree.map(jnp.zeros_like, start)
        gradient = _solve(form, _transposed(varying), following(keep), zero, cotangent, not reverse)
        before = jax.tree.map(lambda x, y: _shifted(x, y, reverse), states, start)
        outer = _outer(gradient, _reset(keep, before))
        if block.a.ndim == 1:
            outer = jax.tree.map(lambda x: x.sum((0, 1)), outer)
    index = -1 if reverse else 0
    first = _reset(None if keep is None else keep[index], Pair(*(x[index] for x in gradient)))
    to_start = apply(_transposed(_at(block, index)), first)
    return outer, jax.tree.map(jnp.zeros_like, keep), to_start, gradient


def _backward_in_one_pass(
    block: Block, keep: jax.Array | None, start: Pair, states: Pair, cotangent: Pair, reverse: bool
) -> tuple[Block, Pair]:
    """Gradients of a constant block and of the inputs, step by step, each while in the caches."""
    transposed = _transposed(block)

    def back(carry: tuple[Pair, Block], now: tuple) -> tuple[tuple[Pair, Block], Pair]:
        later, total = carry  # the gradient of the next step, 0 across a reset
        keep, state, given = now
        total = jax.tree.map(lambda t, o: t + o.sum(0), total, _outer(later, state))
        gradient = add(apply(transposed, later), given)
        return (_reset(keep, gradient), total), gradient

    zero = (jax.tree.map(jnp.zeros_like, start), jax.tree.map(jnp.zeros_like, block))
    steps = (keep, states, cotangent)
    (first, total), gradient = jax.lax.scan(back, zero, steps, reverse=not reverse)
    return jax.tree.map(lambda t, o: t + o.sum(0), total, _outer(first, start)), gradient


_solve.defvjp(_forward, _backward)


def _transposed(block: Block) -> Block:
    return Block(block.a, block.c, block.b, block.d)


def _outer(left: Pair, right: Pair) -> Block:
    return Block(*(x * y for x in left for y in right))


def _reversed(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.flip(x, 0), tree)


def _shifted(x: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    """(T, ...): the state before each step."""
    start = start[None]
    return jnp.concatenate([x[1:], start] if reverse else [start, x[:-1]])
