"""A Koopman world model (Mondal et al., ICLR 2024, arXiv 2306.11941): the latent evolves linearly.

In continuous time dx/dt = lam x + c(u) for each of m complex coordinates, with lam = mu + i omega;
with the action held over a step of length dt (zero-order hold),

    x' = exp(dt lam) x + dt phi(dt lam) c(u),      phi(z) = (exp(z) - 1) / z

mu is never positive, whatever is learned, so no coordinate can grow by itself. A diagonal cannot
hold free motion (x' = v, v' = 0); the last `jordan` pairs of real coordinates are therefore blocks
[[a, a dt], [0, a]] with real a = exp(dt mu), in which the first one integrates the second.

State: (B, 2 m), real parts, then imaginary ones; in a block, the integral, then what is integrated.
Actions enter by addition: a gain that depends on the state must be in encoder and decoder.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.models.encoded import EncodedModel
from worldmodel.nn.layers import Dense, Linear
from worldmodel.nn.linear_recurrence import Complex, polar, solve

FIXED_DAMPING = 0.2  # the published default of -mu
SMALL = 1e-4  # |z| below which phi is computed by its series


class Koopman(EncodedModel):
    """Linear dynamics, one step at a time or all at once."""

    def add_dynamics(self, units: int, *, rngs: nnx.Rngs) -> None:
        modes = self.state_size // 2
        self.action_hidden = Dense(self.action.size, units, rngs=rngs, dtype=self.dtype)
        self.control = Linear(units, self.state_size, rngs=rngs, dtype=self.dtype)
        # Frequencies up to half a turn a step: omega = pi j would alias at a step of 1.
        self.log_step = nnx.Param(jnp.full(modes, -math.log(modes)))
        self.frequency = nnx.Param(jnp.pi * jnp.arange(modes, dtype=jnp.float32))
        if self.options.spectrum == "damped":
            initial = math.log(math.expm1(FIXED_DAMPING))
            self.damping = nnx.Param(jnp.full(modes, initial))
        self.rotating = modes - self.options.jordan

    def step(self, state: jax.Array, action: jax.Array, key: jax.Array) -> jax.Array:
        log_size, angle = self.log_multipliers()
        x, b = self._complex(state), self._control(action)
        moved = polar(log_size, angle) * x + b
        return jnp.concatenate([moved.re + self._integrated(x.im), moved.im], -1)

    def rollout(self, state: jax.Array, actions: jax.Array, key: jax.Array) -> jax.Array:
        """All steps at once. In a block, what is integrated is solved first."""
        log_size, angle = self.log_multipliers()
        x, b = self._complex(state), self._control(actions)
        states = solve(log_size, angle, x, b)
        if self.options.jordan:
            before = jnp.concatenate([x.im[:, None], states.im[:, :-1]], 1)
            states = solve(log_size, angle, x, Complex(b.re + self._integrated(before), b.im))
        return jnp.concatenate([states.re, states.im], -1)

    def log_multipliers(self) -> tuple[jax.Array, jax.Array]:
        """Logarithm of size and angle of exp(dt lam), (m,) each; a size is never above 1."""
        step = jnp.exp(self.log_step[...])
        turns = jnp.arange(step.shape[0]) < self.rotating
        return step * self._growth(), jnp.where(turns, step * self.frequency[...], 0.0)

    def _growth(self) -> jax.Array:
        """mu, (m,)."""
        if self.options.spectrum == "damped":
            return -jax.nn.softplus(self.damping[...])
        size = FIXED_DAMPING if self.options.spectrum == "fixed" else 0.0
        return jnp.full(self.log_step.shape, -size)

    def _integrated(self, velocity: jax.Array) -> jax.Array:
        """a dt v in the blocks, 0 elsewhere: (..., m)."""
        log_size, _ = self.log_multipliers()
        blocks = jnp.arange(log_size.shape[0]) >= self.rotating
        return jnp.where(blocks, jnp.exp(self.log_step[...] + log_size), 0.0) * velocity

    def _control(self, action: jax.Array) -> Complex:
        """dt phi(dt lam) c(u), (..., m)."""
        hidden = self.action_hidden(self.action_vector(action))
        effect = self._complex(self.control(hidden).astype(jnp.float32))
        return phi(*self.log_multipliers()) * effect * Complex(jnp.exp(self.log_step[...]), 0.0)

    def _complex(self, state: jax.Array) -> Complex:
        return Complex(*jnp.split(state, 2, -1))


def phi(re: jax.Array, im: jax.Array) -> Complex:
    """(exp(z) - 1) / z of z = re + i im, with finite values and gradients at 0."""
    square = re**2 + im**2
    small = square < SMALL**2
    safe = jnp.where(small, 1.0, square)
    # exp(z) - 1 without the loss of digits near 0.
    above = jnp.expm1(re) * jnp.cos(im) - 2 * jnp.sin(im / 2) ** 2
    beside = jnp.exp(re) * jnp.sin(im)
    exact = Complex((above * re + beside * im) / safe, (beside * re - above * im) / safe)
    return Complex(jnp.where(small, 1 + re / 2, exact.re), jnp.where(small, im / 2, exact.im))
