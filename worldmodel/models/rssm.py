"""The recurrent state-space model of DreamerV3 (Hafner et al., arXiv 2301.04104).

State s = (h, z): h is the state of a block-diagonal GRU, z a set of one-hot categorical latents.
The filter samples z from the posterior q(z | h, observation), imagination from the prior p(z | h).
All that does not depend on the carry (tokens, actions, the logits of the prior) is computed outside
the scan over time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import Config, ModelOptions, option
from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.models.interface import Metrics
from worldmodel.models.latent import LatentModel, masked_mean, total_loss
from worldmodel.models.unobserved import predict_unobserved
from worldmodel.nn.codecs import DecoderSizes, Encoder
from worldmodel.nn.distributions import Categorical
from worldmodel.nn.layers import MLP, BlockLinear, Dense, Linear, RMSNorm
from worldmodel.nn.layout import map_blocks, scan_time


class RSSMState(NamedTuple):
    """deter: (..., D) float; latent: (..., stoch x classes) one-hot codes, concatenated."""

    deter: jax.Array
    latent: jax.Array


class Sizes(NamedTuple):
    """The sizes of a preset."""

    deter: int
    hidden: int
    classes: int
    stoch: int
    depth: int
    blocks: int


def sizes(options: RSSMOptions) -> Sizes:
    """The sizes of the preset, overridden by options that are not None."""
    preset = RSSM_PRESETS[options.preset]
    chosen = {name: getattr(options, name) for name in Sizes._fields}
    return Sizes(**{name: preset[name] if v is None else v for name, v in chosen.items()})


class Dynamics(nnx.Module):
    """The sequence model h' = f(h, z, a), the prior p(z'|h') and the posterior q(z'|h', tokens)."""

    def __init__(
        self,
        size: Sizes,
        tokens: int,
        action: int,
        options: RSSMOptions,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype,
    ):
        d, flat = size.hidden, size.stoch * size.classes
        dense = partial(Dense, rngs=rngs, dtype=dtype)
        linear = partial(Linear, rngs=rngs, dtype=dtype)
        block = partial(BlockLinear, blocks=size.blocks, rngs=rngs, dtype=dtype)
        self.from_deter = dense(size.deter, d)
        self.from_latent = dense(flat, d)
        self.from_action = dense(action, d)
        self.hidden = block(size.deter + size.blocks * 3 * d, size.deter)
        self.hidden_norm = RMSNorm(size.deter, rngs=rngs)
        self.gates = block(size.deter, 3 * size.deter)
        self.posterior_hidden = dense(size.deter + tokens, d)
        self.posterior_output = linear(d, flat)
        self.prior_hidden = MLP(size.deter, d, 2, rngs=rngs, dtype=dtype)
        self.prior_output = linear(d, flat)
        self.size, self.unimix = size, options.unimix

    def action_input(self, action: jax.Array) -> jax.Array:
        """(..., A) -> (..., hidden). Actions beyond [-1, 1] are scaled back, without gradient in
        the scale.
        """
        action = action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))
        return self.from_action(action)

    def token_input(self, tokens: jax.Array) -> jax.Array:
        """The contribution of tokens (..., E) to the posterior's hidden layer, before its norm."""
        linear = self.posterior_hidden.linear
        return linear.columns(tokens, self.size.deter) + linear.bias[...].astype(linear.dtype)

    def advance(self, state: RSSMState, action_input: jax.Array) -> jax.Array:
        """h' (B, D) from the state and the output of `action_input`."""
        shared = [self.from_deter(state.deter), self.from_latent(state.latent), action_input]
        y = self.hidden(state.deter, jnp.concatenate(shared, -1))
        y = jax.nn.silu(self.hidden_norm(y))
        return map_blocks(_gated, (y, state.deter), self.gates.parameters())

    def prior(self, deter: jax.Array) -> Categorical:
        return self._categorical(self.prior_output(self.prior_hidden(deter)))

    def posterior(self, deter: jax.Array, token_input: jax.Array) -> Categorical:
        """q(z | h, tokens) with the output of `token_input`."""
        mixed = self.posterior_hidden.linear.columns(deter, 0) + token_input
        return self._categorical(self.posterior_output(self.posterior_hidden.activate(mixed)))

    def _categorical(self, logits: jax.Array) -> Categorical:
        logits = logits.reshape(*logits.shape[:-1], self.size.stoch, self.size.classes)
        return Categorical.from_logits(logits, self.unimix)


def _gated(y: jax.Array, h: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """The new h of one block of the GRU, with gates from y."""
    reset, candidate, update = jnp.split(y @ kernel + bias, 3, -1)
    update = jax.nn.sigmoid(update - 1)
    return update * jnp.tanh(jax.nn.sigmoid(reset) * candidate) + (1 - update) * h


# DreamerV3: deter = 8 x hidden, classes = depth = hidden / 16. `tiny` is not of DreamerV3, for
# CPUs.
RSSM_PRESETS: dict[str, dict[str, int]] = {
    name: dict(zip(("deter", "hidden", "classes", "stoch", "depth", "blocks"), sizes, strict=True))
    for name, sizes in {
        "tiny": (128, 64, 8, 8, 4, 2),
        "1m": (512, 64, 4, 32, 4, 8),
        "12m": (2048, 256, 16, 32, 16, 8),
        "25m": (3072, 384, 24, 32, 24, 8),
        "50m": (4096, 512, 32, 32, 32, 8),
        "100m": (6144, 768, 48, 32, 48, 8),
        "200m": (8192, 1024, 64, 32, 64, 8),
        "400m": (12288, 1536, 96, 32, 96, 8),
    }.items()
}


@dataclass
class RSSMOptions(ModelOptions):
    """DreamerV3's recurrent state-space model."""

    name: str = option("rssm", "family of the world model")
    preset: str = option(
        "tiny", "size; the options below override single numbers", choices=tuple(RSSM_PRESETS)
    )
    deter: int | None = option(None, "units of the recurrent state (divisible by blocks)", low=8)
    hidden: int | None = option(None, "units of every hidden layer", low=1)
    classes: int | None = option(None, "classes of each categorical latent", low=2)
    stoch: int | None = option(None, "number of categorical latents", low=1)
    depth: int | None = option(None, "base channels of the image encoder and decoder", low=1)
    blocks: int | None = option(None, "blocks of the recurrent kernels", low=1)
    unimix: float = option(
        0.01, "share of the uniform distribution in every latent", low=0.0, high=1.0
    )
    free_nats: float = option(1.0, "KL below so many nats is not reduced further", low=0.0)
    dynamics_scale: float = option(1.0, "weight of KL(sg(posterior) || prior)", low=0.0)
    representation_scale: float = option(0.1, "weight of KL(posterior || sg(prior))", low=0.0)

    def errors(self, config: Config) -> Iterator[str]:
        preset = RSSM_PRESETS[self.preset]
        deter = preset["deter"] if self.deter is None else self.deter
        blocks = preset["blocks"] if self.blocks is None else self.blocks
        if deter % blocks:
            origin = f" (of preset {self.preset})" if self.deter is None else ""
            yield f"model.deter={deter}{origin}: must be divisible by model.blocks={blocks}"


@register("model", "rssm", RSSMOptions)
class RSSM(LatentModel):
    """DreamerV3's world model: encoder, dynamics, decoder, reward and terminal heads."""

    def __init__(self, options: RSSMOptions, spec: DataSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        size = sizes(options)
        rest = size.stoch * size.classes
        self.encoder = Encoder(spec, size.hidden, size.depth, rngs=rngs, dtype=dtype)
        self.dynamics = Dynamics(
            size, self.encoder.size, spec.action.vector_size, options, rngs=rngs, dtype=dtype
        )
        readouts = DecoderSizes(size.deter, rest, size.hidden, size.depth, size.blocks)
        self.add_readouts(spec, readouts, rngs=rngs, dtype=dtype)
        self.options, self.size = options, size

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, RSSMState]]:
        """Reconstruction + reward + terminal + dynamics + representation, each a masked mean."""
        states, posterior = self._filter(window, key, None, None)
        prior = self.dynamics.prior(states.deter)
        terms = self.prediction_losses(states, window)
        free = self.options.free_nats
        dynamics = posterior.detach().kl(prior).sum(-1)
        representation = posterior.kl(prior.detach()).sum(-1)
        mask = window.observation_mask
        terms["dynamics"] = (jnp.maximum(dynamics, free), mask)
        terms["representation"] = (jnp.maximum(representation, free), mask)
        scales = {
            "dynamics": self.options.dynamics_scale,
            "representation": self.options.representation_scale,
        }
        total, metrics = total_loss(terms, scales, window.shape)
        metrics |= {
            "latent/kl": masked_mean(dynamics, mask),
            "latent/prior_entropy": masked_mean(prior.entropy().sum(-1), mask),
            "latent/posterior_entropy": masked_mean(posterior.entropy().sum(-1), mask),
        }
        return total, (metrics, states)

    def initial(self, batch: tuple[int, ...]) -> RSSMState:
        deter = jnp.zeros((*batch, self.size.deter), self.dtype)
        return RSSMState(
            deter, jnp.zeros((*batch, self.feature_size - self.size.deter), self.dtype)
        )

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: RSSMState | None = None,
        action: jax.Array | None = None,
    ) -> RSSMState:
        return self._filter(window, key, state, action)[0]

    def step(self, state: RSSMState, action: jax.Array, key: jax.Array) -> RSSMState:
        deter = self.dynamics.advance(state, self.dynamics.action_input(self.action_vector(action)))
        uniform = self._uniform(key, deter.shape[0])
        return self._sample(deter, self.dynamics.prior(deter), uniform)

    def features(self, state: RSSMState) -> jax.Array:
        return jnp.concatenate(state, -1)

    def _filter(
        self, window: Window, key: jax.Array, state: RSSMState | None, action: jax.Array | None
    ) -> tuple[RSSMState, Categorical]:
        """States and posteriors at every step, (B, T, ...)."""
        batch, length = window.shape
        if state is None:
            state = self.initial((batch,))
        actions = self.action_vector(window.action)
        before = jnp.zeros_like(actions[:, 0]) if action is None else self.action_vector(action)
        previous = jnp.concatenate([before[:, None], actions[:, :-1]], 1)
        previous = jnp.where(window.is_first[..., None], 0, previous)
        inputs = (
            self.dynamics.action_input(previous),
            self.dynamics.token_input(self.encoder(window.observation)),
            window.is_first,
        )
        time_major = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), inputs)

        def advance(
            dynamics: Dynamics, state: RSSMState, inputs: tuple[jax.Array, ...]
        ) -> tuple[RSSMState, tuple[RSSMState, Categorical]]:
            action, tokens, is_first, uniform = inputs
            state = jax.tree.map(lambda x: jnp.where(is_first[:, None], 0, x), state)
            deter = dynamics.advance(state, action)
            posterior = dynamics.posterior(deter, tokens)
            state = self._sample(deter, posterior, uniform)
            return state, (state, posterior)

        uniform = jax.vmap(lambda key: self._uniform(key, batch))(jax.random.split(key, length))
        _, outputs = scan_time(advance, self.dynamics, state, (*time_major, uniform))
        states, posterior = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), outputs)
        return predict_unobserved(self, states, window, key, state, action), posterior

    def _uniform(self, key: jax.Array, batch: int) -> jax.Array:
        """(B, stoch) random numbers, from which z is sampled."""
        return jax.random.uniform(key, (batch, self.size.stoch))

    def _sample(self, deter: jax.Array, latent: Categorical, uniform: jax.Array) -> RSSMState:
        """The state with z sampled from `latent` (B, stoch, classes)."""
        z = latent.sample_onehot(uniform).astype(self.dtype)
        return RSSMState(deter, z.reshape(deter.shape[0], -1))
