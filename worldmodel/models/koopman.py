"""Koopman dynamics: a latent with linear dynamics (Mondal et al., ICLR 2024, arXiv 2306.11941).

The latent consists of m independent pairs, dx/dt = G x + L f(u), with a 2 x 2 block G (a complex
eigenvalue, unless `spectrum` is set otherwise) and the control held over a step of learned length.
The eigenvalues are stable for all parameters. All states of a rollout of given actions, and all of
the filter, are the solution of one linear recurrence.

The control is additive: it does not depend on the state. Encoder and decoder have to absorb such
dependence, or `bilinear` lets actions change the speed of rotation. Neither is exact for a
nonlinear system, so that predictions leave the range of the encoder within some ten steps;
`reencode_every` returns them to it.
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
from worldmodel.nn.codecs import LinearDecoder, LinearEncoder
from worldmodel.nn.layers import Dense, Linear, as_matrix
from worldmodel.nn.linear_recurrence import Block, Pair, add, apply, linear_recurrence
from worldmodel.nn.vectors import image_keys, vector_keys
from worldmodel.nn.zero_order_hold import Generator, zero_order_hold

RATE = -0.2  # real part of the eigenvalues, initially or fixed


class Spectrum(nnx.Module):
    """The blocks G of m pairs, and the learned length of a step, initially 1 / m.

    | kind   | eigenvalues of G, j = 0 ... m - 1    | guarantee for A = exp(step G)    |
    | ------ | ------------------------------------ | -------------------------------- |
    | fixed  | -0.2 + i j pi                        | norm(A) < 1                      |
    | damped | -softplus(v) + i omega, both learned | norm(A) < 1                      |
    | unit   | i omega, learned                     | norm(A) = 1                      |
    | blocks | -v^2 +- i p q of [[-v^2, p^2],       | eigenvalues of A at most 1,      |
    |        | [-q^2, -v^2]], v and q learned       | norm(A^k) <= 1 + k max(p^2, q^2) |

    At q = 0 the last are Jordan blocks, and at v = 0 also A = [[1, p^2], [0, 1]]: positions
    integrate their velocities, and nothing grows faster.

    Rates and angles are stored in units of the initial step, so that omega_j = j pi stays below
    half a turn, and an update of a given size has the same effect for every m.
    """

    def __init__(self, modes: int):
        self.modes = modes
        self.log_step = nnx.Param(-jnp.log(float(modes)))

    def generator(self, turn: jax.Array | float) -> Generator:
        """G over the initial step. `turn`, 0 or (..., m), is added to the speed of rotation."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `generator`")

    def step(self, turn: jax.Array | float = 0.0) -> tuple[Block, Block]:
        """A and B of x' = A x + B c."""
        length = jnp.exp(self.log_step[...]) * self.modes  # in initial steps
        block, held = zero_order_hold(Generator(*(length * x for x in self.generator(turn))))
        return block, jax.tree.map(lambda entry: length * entry, held)

    def _angles(self) -> jax.Array:
        return jnp.pi * jnp.arange(self.modes) / self.modes


class Fixed(Spectrum):
    def generator(self, turn: jax.Array | float) -> Generator:
        angle = self._angles() + turn
        return Generator(jnp.full(self.modes, RATE / self.modes), angle, angle, angle)


class Unit(Spectrum):
    def __init__(self, modes: int):
        super().__init__(modes)
        self.angle = nnx.Param(self._angles())

    def generator(self, turn: jax.Array | float) -> Generator:
        angle = self.angle[...] + turn
        return Generator(jnp.zeros(self.modes), angle, angle, angle)


class Damped(Unit):
    def __init__(self, modes: int):
        super().__init__(modes)
        self.damping = nnx.Param(jnp.full(modes, jnp.log(jnp.expm1(-RATE / modes))))

    def generator(self, turn: jax.Array | float) -> Generator:
        return super().generator(turn)._replace(rate=-jax.nn.softplus(self.damping[...]))


class Blocks(Spectrum):
    """p is fixed: another one would only scale the second number of the pair."""

    def __init__(self, modes: int):
        super().__init__(modes)
        self.side = nnx.Param(self._initial_side())
        self.damping = nnx.Param(jnp.full(modes, (-RATE / modes) ** 0.5))

    def generator(self, turn: jax.Array | float) -> Generator:
        p, q = self._initial_side(), self.side[...] + turn
        return Generator(-jnp.square(self.damping[...]), p * q, jnp.square(p), jnp.square(q))

    def _initial_side(self) -> jax.Array:
        """Halfway between the angles of the other kinds, so that none is 0."""
        return jnp.sqrt(self._angles() + jnp.pi / 2 / self.modes)


SPECTRA = {"damped": Damped, "fixed": Fixed, "unit": Unit, "blocks": Blocks}


@dataclass
class KoopmanOptions(EncodedOptions):
    """Linear latent dynamics."""

    name: str = option("koopman", "family of the world model")
    spectrum: str = option(
        "damped",
        "eigenvalues: learned and damped, fixed, learned on the unit circle, or real 2x2 blocks "
        "that can integrate",
        choices=tuple(SPECTRA),
    )
    bilinear: bool = option(False, "actions also change the speed of rotation of the latent")
    linear: bool = option(
        False, "linear encoder and decoder, which represent affine systems exactly (vectors only)"
    )


@register("model", "koopman", KoopmanOptions)
class Koopman(EncodedModel):
    """The first half of the latent has the first numbers of all pairs, the rest the second."""

    latent_per_unit = 2.35

    def __init__(
        self, options: KoopmanOptions, spec: DataSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ):
        if options.linear:
            _check_linear(spec)
        super().__init__(options, spec, rngs=rngs, dtype=dtype)
        actions, units, latent = spec.action.vector_size, self.size.units, self.size.latent
        if latent % 2:
            raise ConfigError(
                f"model.latent_dim={latent}: accepted: even numbers, because a pair has two"
            )
        self.spectrum = SPECTRA[options.spectrum](latent // 2)
        if options.linear:
            self.encoder = LinearEncoder(spec)
            self.to_latent = Linear(self.encoder.size, latent, rngs=rngs, dtype=dtype)
            self.decoder = LinearDecoder(spec, latent, rngs=rngs, dtype=dtype)
        # A quarter of the units is enough for actions, whose embedding is most of a rollout's cost.
        embedded = actions if options.linear else max(1, units // 4)
        self.embed = None if options.linear else Dense(actions, embedded, rngs=rngs, dtype=dtype)
        # Its bias is a constant observable, for gravity and other offsets.
        self.push = Linear(embedded, latent, rngs=rngs, dtype=dtype)
        turn = Linear(embedded, latent // 2, rngs=rngs, dtype=dtype, scale=0.0)
        self.turn = turn if options.bilinear else None

    def control(self, action: jax.Array) -> jax.Array:
        """B L f(u), which a step adds to the latent. If `bilinear`, L f(u) and the change of the
        speed of rotation, concatenated, because then B depends on the action too.
        """
        embedded = action if self.embed is None else self.embed(action)
        if self.turn is not None:
            layers = (self.push(embedded), self.turn(embedded))
            return jnp.concatenate(layers, -1).astype(jnp.float32)
        # B is applied to the weights, which are fewer than their outputs.
        _, held = self.spectrum.step()
        weights = (self.push.kernel[...], self.push.bias[...])
        kernel, bias = (jnp.concatenate(apply(held, _pair(x)), -1) for x in weights)
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        return as_matrix(lambda x: x @ kernel + bias, embedded.astype(self.dtype)).astype(
            jnp.float32
        )

    def advance(self, latent: jax.Array, control: jax.Array) -> jax.Array:
        block, pushed = self._affine(control)
        return jnp.concatenate(add(apply(block, _pair(latent)), pushed), -1)

    def unroll(self, latent: jax.Array, controls: jax.Array) -> jax.Array:
        return jnp.concatenate(linear_recurrence(*self._affine(controls), _pair(latent)), -1)

    def filter(
        self, latent: jax.Array, controls: jax.Array, encoded: jax.Array, resets: jax.Array
    ) -> jax.Array:
        """x_t = (1 - gain) (A x_{t-1} + B c_t) + gain encoded_t is a linear recurrence too."""
        block, pushed = self._affine(controls)
        kept = 1 - jax.nn.sigmoid(self.gain[...])
        mixed = kept * jnp.concatenate(pushed, -1) + (1 - kept) * encoded
        inputs = _pair(jnp.where(resets[..., None], encoded, mixed))
        x, y = _pair(kept)
        block = Block(x * block.a, x * block.b, y * block.c, y * block.d)
        states = linear_recurrence(block, inputs, _pair(latent), resets=resets)
        return jnp.concatenate(states, -1)

    def eigenvalues(self) -> tuple[jax.Array, jax.Array]:
        """One of every pair, (m,) each, for the action 0, on which they depend if `bilinear`.

        A step is [[a, b], [c, a]] with b c <= 0, so a +- i sqrt(-b c) are both.
        """
        block, _ = self._affine(self.control(jnp.zeros(self.action.vector_size)))
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


def _check_linear(spec: DataSpec) -> None:
    """Raises ConfigError for observations that a linear codec does not support."""
    if images := image_keys(spec):
        raise ConfigError(
            f"model.linear=true: requires vectors, and {', '.join(images)} are images; accepted: "
            "model.linear=false"
        )
    unscaled = [key for key in vector_keys(spec) if spec.observations[key].normalization == "none"]
    if unscaled:
        raise ConfigError(
            f"model.linear=true: {', '.join(unscaled)} would be transformed by symlog, which is "
            "not linear; accepted: data.normalize=[standardize] or data.normalize=[min_max]"
        )
