"""Linear recurrences of single coordinates, x_{t+1} = a x_t + b_t with complex a, in parallel.

Real and imaginary parts are real arrays: XLA compiles and runs them faster than complex ones. All
forms give the same states; they differ in work and in depth:

- `scan`: T steps, one after the other
- `dense`: a T x T kernel of powers of a for each coordinate, as matrix products; work T^2
- `fft`: a convolution by zero-padded transforms; work T log T
- `associative`: pairs (a, b) combined in a tree of depth log T
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

MODES = ("scan", "dense", "fft", "associative")
LONGEST_DENSE = 128  # steps, on accelerators; beyond, the kernel costs more than it saves


class Complex(NamedTuple):
    """Real and imaginary parts, two real arrays of one shape."""

    re: jax.Array
    im: jax.Array

    def __mul__(self, other: Complex) -> Complex:
        return Complex(
            self.re * other.re - self.im * other.im, self.re * other.im + self.im * other.re
        )

    def __add__(self, other: Complex) -> Complex:
        return Complex(self.re + other.re, self.im + other.im)

    def map(self, function: object) -> Complex:
        return Complex(function(self.re), function(self.im))


def polar(log_size: jax.Array, angle: jax.Array) -> Complex:
    """exp(log_size + i angle)."""
    size = jnp.exp(log_size)
    return Complex(size * jnp.cos(angle), size * jnp.sin(angle))


def solve(
    log_size: jax.Array, angle: jax.Array, start: Complex, inputs: Complex, mode: str = "auto"
) -> Complex:
    """The states x_1 ... x_T, (B, T, m), of x_{t+1} = a x_t + b_t with a = exp(log_size + i angle).

    log_size, angle: (m,); start: x_0, (B, m); inputs: b_0 ... b_{T-1}, (B, T, m). Powers are formed
    from logarithm and angle, so that they stay exact over many steps.
    """
    steps = inputs.re.shape[1]
    if mode == "auto":
        mode = _best(steps)
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}; accepted: auto, {', '.join(MODES)}")
    if mode == "scan":
        return _scan(polar(log_size, angle), start, inputs)
    powers = _powers(log_size, angle, steps + 1)
    free = Complex(start.re[:, None], start.im[:, None]) * powers.map(lambda x: x[None, 1:])
    driven = {"dense": _dense, "fft": _fft, "associative": _associative}[mode](powers, inputs)
    return free + driven


def _best(steps: int) -> str:
    """On CPUs the sequence was the fastest at every length measured (docs/benchmarks.md): a step is
    a few multiplications in cache. Accelerators pay for every step, and get few large operations.
    """
    if jax.default_backend() == "cpu":
        return "scan"
    return "dense" if steps <= LONGEST_DENSE else "associative"


def _powers(log_size: jax.Array, angle: jax.Array, count: int) -> Complex:
    """(count, m): a^0 ... a^{count-1}."""
    k = jnp.arange(count, dtype=log_size.dtype)[:, None]
    return polar(k * log_size, k * angle)


def _scan(a: Complex, start: Complex, inputs: Complex) -> Complex:
    def advance(x: Complex, b: Complex) -> tuple[Complex, Complex]:
        x = a * x + b
        return x, x

    time_first = inputs.map(lambda b: jnp.swapaxes(b, 0, 1))
    return jax.lax.scan(advance, start, time_first)[1].map(lambda x: jnp.swapaxes(x, 0, 1))


def _dense(powers: Complex, inputs: Complex) -> Complex:
    """x_t = sum over s <= t of a^{t-s} b_s, with the kernel (T, T, m) written out."""
    steps = inputs.re.shape[1]
    behind = jnp.arange(steps)[:, None] - jnp.arange(steps)
    past = (behind >= 0)[..., None]
    kernel = powers.map(lambda p: jnp.where(past, p[jnp.maximum(behind, 0)], 0))

    def apply(k: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum("tsm,bsm->btm", k, b)

    # One product with both parts of the input side by side for each part of the kernel.
    both = jnp.concatenate([inputs.re, inputs.im])
    real, imaginary = apply(kernel.re, both), apply(kernel.im, both)
    batch = inputs.re.shape[0]
    return Complex(real[:batch] - imaginary[batch:], real[batch:] + imaginary[:batch])


def _fft(powers: Complex, inputs: Complex) -> Complex:
    steps = inputs.re.shape[1]
    kernel = jax.lax.complex(powers.re[:-1], powers.im[:-1])
    signal = jax.lax.complex(inputs.re, inputs.im)
    product = jnp.fft.fft(kernel, 2 * steps, axis=0) * jnp.fft.fft(signal, 2 * steps, axis=1)
    states = jnp.fft.ifft(product, axis=1)[:, :steps]
    return Complex(states.real, states.imag)


def _associative(powers: Complex, inputs: Complex) -> Complex:
    factors = powers.map(lambda p: jnp.broadcast_to(p[1], inputs.re.shape))

    def combine(left: tuple, right: tuple) -> tuple:
        (a, b), (c, d) = left, right
        return c * a, c * b + d

    return jax.lax.associative_scan(combine, (factors, inputs), axis=1)[1]
