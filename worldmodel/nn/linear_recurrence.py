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
them; docs/results/benchmarks.md holds the table behind `auto`.
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
# before the step; the state before the first step, (B, m); inputs (T, B, m). `reverse`: from the
# last row to the first.


def sequential(
    block: Block, keep: jax.Array | None, start: Pair, inputs: Pair, reverse: bool = False
) -> Pair:
    """One step after the other."""
    changing = block if block.a.ndim > 1 else None

    def advance(state: Pair, now: tuple) -> tuple[Pair, Pair]:
        at, kept, given = now
        state = add(apply(at or block, _kept(kept, state)), given)
        return state, state

    return jax.lax.scan(advance, start, (changing, keep, inputs), reverse=reverse)[1]


def toeplitz(block: Block, keep: None, start: Pair, inputs: Pair, reverse: bool = False) -> Pair:
    """One product with the lower-triangular matrix of all powers: (2T, 2T) for each pair."""
    inputs = _started(block, keep, start, inputs, reverse)
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


def fft(block: Block, keep: None, start: Pair, inputs: Pair, reverse: bool = False) -> Pair:
    """Convolution with the powers, padded with as many zeros, so that nothing wraps around."""
    if reverse:
        return _reversed(fft(block, keep, start, _reversed(inputs)))
    inputs = _started(block, keep, start, inputs, reverse)
    rows = inputs.x.shape[0]

    def transform(x: jax.Array) -> jax.Array:
        return jnp.fft.rfft(x, 2 * rows, axis=0)

    kernel = Block(*(transform(entry)[:, None] for entry in powers(block, rows)))
    product = apply(kernel, Pair(*map(transform, inputs)))
    return Pair(*(jnp.fft.irfft(x, 2 * rows, axis=0)[:rows] for x in product))


def associative(
    block: Block, keep: jax.Array | None, start: Pair, inputs: Pair, reverse: bool = False
) -> Pair:
    """Steps joined two by two, in a tree of depth log T."""
    inputs = _started(block, keep, start, inputs, reverse)
    ones = jnp.ones((inputs.x.shape[0], 1, 1)) if keep is None else keep
    block = jax.tree.map(lambda entry: ones * entry, block)

    def join(early: tuple[Block, Pair], late: tuple[Block, Pair]) -> tuple[Block, Pair]:
        return compose(late[0], early[0]), add(apply(late[0], early[1]), late[1])

    return jax.lax.associative_scan(join, (block, inputs), reverse=reverse)[1]


def _started(
    block: Block, keep: jax.Array | None, start: Pair, inputs: Pair, reverse: bool
) -> Pair:
    """Inputs whose first row holds what the start becomes, as if it had been zero."""
    row = -1 if reverse else 0
    carried = apply(_row(block, row), _kept(None if keep is None else keep[row], start))
    return jax.tree.map(lambda x, y: x.at[row].add(y), inputs, carried)


def _row(block: Block, row: int) -> Block:
    return jax.tree.map(lambda entry: entry[row], block) if block.a.ndim > 1 else block


def _kept(keep: jax.Array | None, state: Pair) -> Pair:
    return state if keep is None else Pair(keep * state.x, keep * state.y)


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
    start: Pair,
    resets: jax.Array | None = None,
    mode: str = "auto",
) -> Pair:
    """The states (T, B, m) of x_t = A x_{t-1} + b_t, time first.

    block: entries (m,), or (T, B, m) where A changes; inputs: (T, B, m); start: x_{-1} (B, m);
    resets: (T, B) bool, true where x_{t-1} is forgotten, so that x_t = b_t
    """
    constant = block.a.ndim == 1 and resets is None
    mode = chosen(inputs.x.shape[0], constant) if mode == "auto" else mode
    if mode not in FORMS:
        raise ValueError(f"mode={mode!r}: accepted are auto, {', '.join(FORMS)}")
    if not constant and mode in ("toeplitz", "fft"):
        raise ValueError(f"mode={mode!r} needs blocks that do not change and no resets")
    keep = None if resets is None else (~resets)[..., None].astype(inputs.x.dtype)
    return _solve(FORMS[mode], block, keep, start, inputs)


@partial(jax.custom_vjp, nondiff_argnums=(0, 5))
def _solve(
    form: Callable[..., Pair],
    block: Block,
    keep: jax.Array | None,
    start: Pair,
    inputs: Pair,
    reverse: bool = False,
) -> Pair:
    return form(block, keep, start, inputs, reverse)


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
    """The gradient is the same recurrence the other way, with the transposed blocks:
    g_t = A_{t+1}^T g_{t+1} + dL/dx_t, and dL/dA_t = g_t x_{t-1}^T.
    """
    block, keep, start, states = residuals
    if form is sequential and block.a.ndim == 1:
        outer, gradient = _backward_in_one_pass(block, keep, start, states, cotangent, reverse)
    else:
        # Entry t + 1 at t; what comes round from the other end acts on zero.
        following = partial(jax.tree.map, lambda x: jnp.roll(x, 1 if reverse else -1, 0))
        changing = following(block) if block.a.ndim > 1 else block
        zero = jax.tree.map(jnp.zeros_like, start)
        arguments = (_transposed(changing), following(keep), zero, cotangent)
        gradient = _solve(form, *arguments, not reverse)
        before = jax.tree.map(lambda x, y: _shifted(x, y, reverse), states, start)
        outer = _outer(gradient, _kept(keep, before))
        if block.a.ndim == 1:
            outer = jax.tree.map(lambda x: x.sum((0, 1)), outer)
    row = -1 if reverse else 0
    first = _kept(None if keep is None else keep[row], Pair(*(x[row] for x in gradient)))
    to_start = apply(_transposed(_row(block, row)), first)
    return outer, jax.tree.map(jnp.zeros_like, keep), to_start, gradient


def _backward_in_one_pass(
    block: Block,
    keep: jax.Array | None,
    start: Pair,
    states: Pair,
    cotangent: Pair,
    reverse: bool,
) -> tuple[Block, Pair]:
    """Gradients of a constant block and of the inputs, row by row, while a row is in the caches."""
    transposed = _transposed(block)

    def back(carry: tuple[Pair, Block], now: tuple) -> tuple[tuple[Pair, Block], Pair]:
        later, total = carry  # of the step after, where it remembers this one
        kept, state, given = now
        total = jax.tree.map(lambda t, o: t + o.sum(0), total, _outer(later, state))
        gradient = add(apply(transposed, later), given)
        return (_kept(kept, gradient), total), gradient

    zero = (jax.tree.map(jnp.zeros_like, start), jax.tree.map(jnp.zeros_like, block))
    rows = (keep, states, cotangent)
    (first, total), gradient = jax.lax.scan(back, zero, rows, reverse=not reverse)
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
