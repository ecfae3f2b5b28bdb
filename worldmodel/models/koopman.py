"""Koopman dynamics: a latent that moves linearly (Mondal et al., ICLR 2024, arXiv 2306.11941).

The latent is m pairs of numbers. Each moves on its own, dx/dt = G x + L f(u), with G a 2 x 2 block
(a complex eigenvalue, unless `spectrum` says otherwise) and the control held over a step of learned
length. Whatever the parameters, no eigenvalue leaves the stable region. All states of a rollout
with given actions, and all of the filter's, come from one linear recurrence each.

Control is added: it does not depend on the state. Where it should, encoder and decoder have to
absorb that, or `bilinear` lets the action turn the state faster or slower. Neither is exact for a
nonlinear system, so predictions leave what the encoder would say within some ten steps: `reencode_every`
leads them back.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.models.encoded import EncodedModel, EncodedOptions
from worldmodel.nn.layers import Dense, Linear, over_rows
from worldmodel.nn.linear_codecs import LinearDecoder, LinearEncoder, check_linear
from worldmodel.nn.linear_recurrence import Block, Pair, add, apply, linear_recurrence
from worldmodel.nn.zero_order_hold import Generator, zero_order_hold

RATE = -0.2  # real part of the eigenvalues, at first or always


class Spectrum(nnx.Module):
    """The blocks G of m pairs, and the learned length of a step, at first 1 / m.

    | kind   | eigenvalues of G, j = 0 ... m - 1    | promise for A = exp(step G)      |
    | ------ | ------------------------------------ | -------------------------------- |
    | fixed  | -0.2 + i j pi                        | norm(A) < 1                      |
    | damped | -softplus(v) + i omega, both learned | norm(A) < 1                      |
    | unit   | i omega, learned                     | norm(A) = 1                      |
    | blocks | -v^2 +- i p q of [[-v^2, p^2],       | eigenvalues of A at most 1,      |
    |        | [-q^2, -v^2]], v and q learned       | norm(A^k) <= 1 + k max(p^2, q^2) |

    At q = 0 the last are Jordan blocks, and A = [[1, p^2], [0, 1]] at v = 0 too: positions drift
    with their velocities, and nothing grows faster than that.

    Rates and angles are kept in units of the first step, so that omega_j = j pi stays below half a
    turn, and an update of a given size means the same for every m.
    """

    def __init__(self, modes: int):
        self.modes = modes
        self.log_step = nnx.Param(-jnp.log(float(modes)))

    def turned(self, turn: jax.Array | float) -> Generator:
        """G, a first step long: every kind's own. `turn`, 0 or (..., m), is added to what says how
        fast pairs turn.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how its pairs turn")

    def step(self, turn: jax.Array | float = 0.0) -> tuple[Block, Block]:
        """A and B of x' = A x + B c."""
        length = jnp.exp(self.log_step[...]) * self.modes  # in first steps
        block, held = zero_order_hold(Generator(*(length * x for x in self.turned(turn))))
        return block, jax.tree.map(lambda entry: length * entry, held)

    def _angles(self) -> jax.Array:
        return jnp.pi * jnp.arange(self.modes) / self.modes


class Fixed(Spectrum):
    def turned(self, turn: jax.Array | float) -> Generator:
        angle = self._angles() + turn
        return Generator(jnp.full(self.modes, RATE / self.modes), angle, angle, angle)


class Unit(Spectrum):
    def __init__(self, modes: int):
        super().__init__(modes)
        self.angle = nnx.Param(self._angles())

    def turned(self, turn: jax.Array | float) -> Generator:
        angle = self.angle[...] + turn
        return Generator(jnp.zeros(self.modes), angle, angle, angle)


class Damped(Unit):
    def __init__(self, modes: int):
        super().__init__(modes)
        self.damping = nnx.Param(jnp.full(modes, jnp.log(jnp.expm1(-RATE / modes))))

    def turned(self, turn: jax.Array | float) -> Generator:
        return super().turned(turn)._replace(rate=-jax.nn.softplus(self.damping[...]))


class Blocks(Spectrum):
    """p stays as it is: another one only stretches the pair's second number."""

    def __init__(self, modes: int):
        super().__init__(modes)
        self.side = nnx.Param(self._first_side())
        self.damping = nnx.Param(jnp.full(modes, (-RATE / modes) ** 0.5))

    def turned(self, turn: jax.Array | float) -> Generator:
        p, q = self._first_side(), self.side[...] + turn
        return Generator(-jnp.square(self.damping[...]), p * q, jnp.square(p), jnp.square(q))

    def _first_side(self) -> jax.Array:
        """Halfway between the others' angles, none of them 0."""
        return jnp.sqrt(self._angles() + jnp.pi / 2 / self.modes)


SPECTRA = {"damped": Damped, "fixed": Fixed, "unit": Unit, "blocks": Blocks}


@dataclass
class KoopmanOptions(EncodedOptions):
    """A latent that moves linearly."""

    name: str = option("koopman", "family of the world model")
    spectrum: str = option(
        "damped",
        "eigenvalues: learned and damped, fixed, learned on the unit circle, or real 2x2 blocks "
        "that can integrate",
        choices=("damped", "fixed", "unit", "blocks"),
    )
    bilinear: bool = option(False, "actions also turn the latent faster or slower")
    linear: bool = option(
        False, "linear encoder and decoder, which learn affine systems exactly (vectors only)"
    )


@register("model", "koopman", KoopmanOptions)
class Koopman(EncodedModel):
    """The latent's first half holds the pairs' first numbers, the second half their second ones."""

    latent_per_unit = 2.35

    def __init__(
        self,
        options: KoopmanOptions,
        spec: DataSpec,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        if options.linear:
            check_linear(spec)
        super().__init__(options, spec, rngs=rngs, dtype=dtype)
        actions, (units, _, latent) = spec.action.size, self.size
        if latent % 2:
            raise ConfigError(f"model.latent_dim={latent}: accepts even numbers, a pair has two")
        self.spectrum = SPECTRA[options.spectrum](latent // 2)
        if options.linear:
            self.encoder = LinearEncoder(spec)
            self.to_latent = Linear(self.encoder.size, latent, rngs=rngs, dtype=dtype)
            self.decoder = LinearDecoder(spec, latent, rngs=rngs, dtype=dtype)
        # Actions are few: a quarter of the units is enough for them, and most of a rollout's cost.
        embedded = actions if options.linear else max(1, units // 4)
        self.embed = None if options.linear else Dense(actions, embedded, rngs=rngs, dtype=dtype)
        # Its bias is a constant observable: it carries gravity and other offsets.
        self.push = Linear(embedded, latent, rngs=rngs, dtype=dtype)
        turn = Linear(embedded, latent // 2, rngs=rngs, dtype=dtype, scale=0.0)
        self.turn = turn if options.bilinear else None

    def control(self, action: jax.Array) -> jax.Array:
        """What a step adds to the latent; if `bilinear`, what is added to dx/dt and to the pairs'
        turning, end to end, since then that step depends on the action too.
        """
        embedded = action if self.embed is None else self.embed(action)
        if self.turn is not None:
            layers = (self.push(embedded), self.turn(embedded))
            return jnp.concatenate(layers, -1).astype(jnp.float32)
        # The integral over the step goes into the weights, which are fewer than what they push.
        _, held = self.spectrum.step()
        weights = (self.push.kernel[...], self.push.bias[...])
        kernel, bias = (jnp.concatenate(apply(held, _pair(x)), -1) for x in weights)
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        pushed = over_rows(lambda rows: rows @ kernel + bias, embedded.astype(self.dtype))
        return pushed.astype(jnp.float32)

    def advance(self, latent: jax.Array, control: jax.Array) -> jax.Array:
        block, pushed = self._affine(control)
        return jnp.concatenate(add(apply(block, _pair(latent)), pushed), -1)

    def unroll(self, latent: jax.Array, controls: jax.Array) -> jax.Array:
        return jnp.concatenate(linear_recurrence(*self._affine(controls), _pair(latent)), -1)

    def filter(
        self, latent: jax.Array, controls: jax.Array, seen: jax.Array, afresh: jax.Array
    ) -> jax.Array:
        """x_t = (1 - gain) (A x_{t-1} + B c_t) + gain seen_t is a linear recurrence as well."""
        block, pushed = self._affine(controls)
        kept = 1 - jax.nn.sigmoid(self.gain[...])
        mixed = kept * jnp.concatenate(pushed, -1) + (1 - kept) * seen
        inputs = _pair(jnp.where(afresh[..., None], seen, mixed))
        x, y = _pair(kept)
        block = Block(x * block.a, x * block.b, y * block.c, y * block.d)
        states = linear_recurrence(block, inputs, _pair(latent), resets=afresh)
        return jnp.concatenate(states, -1)

    def eigenvalues(self) -> tuple[jax.Array, jax.Array]:
        """One of every pair of numbers, m in all, for the action 0: others turn it if `bilinear`.

        A step is [[a, b], [c, a]] with b c <= 0, so a +- i sqrt(-b c) are both.
        """
        block, _ = self._affine(self.control(jnp.zeros(self.action.size)))
        return block.a, jnp.sqrt(jnp.maximum(-block.b * block.c, 0))

    def _affine(self, control: jax.Array) -> tuple[Block, Pair]:
        """A and B c of the step under control (..., C)."""
        if self.turn is None:
            return self.spectrum.step()[0], _pair(control)
        pushed, turn = jnp.split(control, [self.size.latent], -1)
        block, held = self.spectrum.step(turn)
        return block, apply(held, _pair(pushed))


def _pair(latent: jax.Array) -> Pair:
    return Pair(*jnp.split(latent, 2, -1))
