"""Deterministic latents that an encoder reads from every observation: koopman, gru and mlp differ
in how the latent moves alone.

The filter is an observer: what is predicted is corrected towards what the encoder sees, by a
learned gain for each coordinate (1: the observation alone is believed, 0: the prediction alone).
Training follows the logged actions over the rest of the window, from a row on that a few rows have
led up to, so errors over long horizons are what is minimised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import ModelOptions, option
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.models.interface import Metrics
from worldmodel.models.latent import LatentModel, masked_mean, total_loss
from worldmodel.nn.codecs import Encoder
from worldmodel.nn.layers import Linear
from worldmodel.nn.layout import scan_time

# Units of every hidden layer, base channels of images. Koopman, gru and mlp have the same number of
# parameters at a preset; from `1m` on, that of the RSSM's preset of this name.
ENCODED_PRESETS: dict[str, tuple[int, int]] = {
    "tiny": (64, 4),
    "1m": (184, 4),
    "12m": (752, 16),
    "25m": (1120, 24),
    "50m": (1504, 32),
}


@dataclass
class EncodedOptions(ModelOptions):
    """What families have whose latent an encoder reads from every observation."""

    preset: str = option(
        "tiny", "size; the options below override single numbers", choices=tuple(ENCODED_PRESETS)
    )
    units: int | None = option(None, "units of every hidden layer", low=1)
    depth: int | None = option(None, "base channels of the image encoder and decoder", low=1)
    latent_dim: int | None = option(None, "numbers of the latent", low=2)
    burn_in: int = option(
        3, "rows of a window that lead up to the one that predictions start from", low=0
    )
    consistency_scale: float = option(
        1.0, "weight of the distance between predicted and filtered latents", low=0.0
    )
    filtered_scale: float = option(
        1.0, "weight of what filtered latents say, beside what predicted ones do", low=0.0
    )
    gain: float = option(
        2.0, "gain of the filter at first, before the sigmoid (2: 0.88 of what is seen, -4: 0.02)"
    )
    reencode_every: int = option(
        0, "decode and encode again after so many steps without observations (0: never)", low=0
    )


class EncodedState(NamedTuple):
    """latent: (..., S) float32; age: (...,) int32, steps since it was read from an observation."""

    latent: jax.Array
    age: jax.Array


class Sizes(NamedTuple):
    """The numbers that a preset stands for."""

    units: int
    depth: int
    latent: int


def sizes(options: EncodedOptions, latent_per_unit: float) -> Sizes:
    """The preset's numbers, with single ones overridden by options that are not None."""
    units, depth = ENCODED_PRESETS[options.preset]
    units, depth = options.units or units, options.depth or depth
    return Sizes(units, depth, options.latent_dim or 2 * round(latent_per_unit * units / 2))


class EncodedModel(LatentModel):
    """Families give `control` and `advance`, and `unroll` and `filter` where they can do better."""

    latent_per_unit = 1  # chosen so that at a preset all families have equally many parameters

    def __init__(
        self,
        options: EncodedOptions,
        spec: DataSpec,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        self.options, self.size = options, sizes(options, self.latent_per_unit)
        units, depth, latent = self.size
        self.encoder = Encoder(spec, units, depth, rngs=rngs, dtype=dtype)
        self.to_latent = Linear(self.encoder.size, latent, rngs=rngs, dtype=dtype)
        self.gain = nnx.Param(jnp.full(latent, options.gain))  # before the sigmoid
        halves = (latent // 2, latent - latent // 2)
        self.add_readouts(spec, halves, units, depth, 1, rngs=rngs, dtype=dtype)

    # ------------------------------------------------------------------------- what families give

    def control(self, action: jax.Array) -> jax.Array:
        """What actions, as vectors (..., A), do to the latent: (..., C)."""
        raise self._lacking("control")

    def advance(self, latent: jax.Array, control: jax.Array) -> jax.Array:
        """The latent (B, S) one step on."""
        raise self._lacking("advance")

    def unroll(self, latent: jax.Array, controls: jax.Array) -> jax.Array:
        """The latents (H, B, S) after each of the controls (H, B, C), time first."""

        def advance(
            model: EncodedModel, latent: jax.Array, control: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            latent = model.advance(latent, control)
            return latent, latent

        return scan_time(advance, self, latent, controls)[1]

    def filter(
        self, latent: jax.Array, controls: jax.Array, seen: jax.Array, afresh: jax.Array
    ) -> jax.Array:
        """The latents (T, B, S) x_t = p_t + gain (seen_t - p_t), p_t the step from x_{t-1} under
        controls_t; where `afresh` (T, B), x_t = seen_t. Time first.
        """

        def correct(
            model: EncodedModel, latent: jax.Array, inputs: tuple
        ) -> tuple[jax.Array, jax.Array]:
            control, seen, afresh = inputs
            predicted = model.advance(latent, control)
            gain = jax.nn.sigmoid(model.gain[...])
            latent = predicted + jnp.where(afresh[:, None], 1.0, gain) * (seen - predicted)
            return latent, latent

        return scan_time(correct, self, latent, (controls, seen, afresh))[1]

    # -------------------------------------------------------------------------------- the interface

    def initial(self, batch: tuple[int, ...]) -> EncodedState:
        return _read(jnp.zeros((*batch, self.size.latent), jnp.float32))

    def features(self, state: EncodedState) -> jax.Array:
        return state.latent

    def step(self, state: EncodedState, action: jax.Array, key: jax.Array) -> EncodedState:
        latent = self.advance(state.latent, self.control(self.action_input(action)))
        return self._read_again(EncodedState(latent, state.age + 1))

    def rollout(self, state: EncodedState, actions: jax.Array, key: jax.Array) -> EncodedState:
        if self.options.reencode_every:
            return super().rollout(state, actions, key)
        latents = self._unrolled(state.latent, actions)
        return EncodedState(latents, state.age[:, None] + 1 + jnp.arange(latents.shape[1]))

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: EncodedState | None = None,
        action: jax.Array | None = None,
    ) -> EncodedState:
        # Without a known row before it, a window's first row is believed as it is seen.
        known = state is not None
        state = state if known else self.initial(window.shape[:1])
        before = jnp.zeros_like(window.action[:, 0]) if action is None else action
        actions = jnp.concatenate([before[:, None], window.action[:, :-1]], 1)
        afresh = window.is_first | ((jnp.arange(window.shape[1]) == 0) & (not known))
        # Time first before the wide layers, so that only narrow arrays are turned round.
        observed, actions, afresh = jax.tree.map(_swapped, (window.observation, actions, afresh))
        controls = self.control(self.action_input(actions))
        latents = self.filter(state.latent, controls, self.encode(observed), afresh)
        return _read(_swapped(latents))

    def loss(
        self, window: Window, key: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, EncodedState]]:
        """What filtered and predicted latents say of the logs, and how far they are apart.

        Predictions start from row `burn_in` and see no more; re-encoding takes no part in them. The
        filtered latents that they are compared with take gradient too: reconstruction keeps them
        from collapsing. Where whole records are to be followed from their actions, a small first
        gain and no weight of what filtered latents say (`gain`, `filtered_scale`) let the rows
        before the prediction be followed as those after it: no transient is left in the loss.
        """
        states = self.observe(window, key)
        first = min(self.options.burn_in, window.shape[1] - 2)
        predicted = self._unrolled(states.latent[:, first], window.action[:, first:-1])
        predicted = jnp.concatenate([states.latent[:, first : first + 1], predicted], 1)
        later = jax.tree.map(lambda x: x[:, first:], window)
        unbroken = jnp.cumsum(later.is_first.at[:, 0].set(False), 1) == 0
        ahead = later.mask & unbroken & (jnp.arange(later.shape[1]) > 0)
        terms = {
            f"rollout/{name}": (values, mask & ahead)
            for name, (values, mask) in self.prediction_losses(_read(predicted), later).items()
        }
        terms["consistency"] = (unexplained(predicted, states.latent[:, first:], ahead), ahead)
        filtered, metrics = total_loss(self.prediction_losses(states, window), {}, window.shape)
        scales = {"consistency": self.options.consistency_scale}
        rolled, rolled_metrics = total_loss(terms, scales, later.shape)
        total = self.options.filtered_scale * filtered + rolled
        metrics |= rolled_metrics | {"loss/total": total}
        return total, (metrics | latent_metrics(states.latent, window.mask), states)

    # --------------------------------------------------------------------------------------- parts

    def _unrolled(self, latent: jax.Array, actions: jax.Array) -> jax.Array:
        """The latents (B, H, S) after each of the actions (B, H, ...)."""
        controls = self.control(self.action_input(_swapped(actions)))
        return _swapped(self.unroll(latent, controls))

    def encode(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        """What observations (..., shape) say on their own, (..., S)."""
        return self.to_latent(self.encoder(observation)).astype(jnp.float32)

    def action_input(self, action: jax.Array) -> jax.Array:
        """Actions as vectors, scaled back to [-1, 1] without gradient to the scale."""
        action = self.action_vector(action)
        return action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))

    def _read_again(self, state: EncodedState) -> EncodedState:
        """Every `reencode_every` steps: decode, and encode what is said (Fathi et al., "Course Correcting
        Koopman Representations", ICLR 2024). Predictions so return to where the encoder leads.
        """
        if not self.options.reencode_every:
            return state
        due = state.age >= self.options.reencode_every

        def read_again(latent: jax.Array) -> jax.Array:
            said = {key: prediction.mean() for key, prediction in self.observation(state).items()}
            return jnp.where(due[..., None], self.encode(said), latent)

        latent = jax.lax.cond(due.any(), read_again, lambda latent: latent, state.latent)
        return EncodedState(latent, jnp.where(due, 0, state.age))


def unexplained(predicted: jax.Array, latents: jax.Array, mask: jax.Array) -> jax.Array:
    """Squared distances (B, T) from latents (B, T, S), in units of the latents' total variance, so
    that they cannot be made small by shrinking the latent. On average 1 is no better than the mean.
    """
    weight = (mask / jnp.maximum(mask.sum(), 1))[..., None]
    centred = latents - (weight * latents).sum((0, 1))
    spread = (weight * jnp.square(centred)).sum()
    return jnp.square(predicted - latents).sum(-1) / (spread + 1e-8)


def latent_metrics(latents: jax.Array, mask: jax.Array) -> Metrics:
    """Mean square of the latents (B, T, S), and how many directions they fill: (tr C)^2 / tr C^2 of
    their covariance, 1 where they have collapsed to a line.
    """
    latents = jax.lax.stop_gradient(latents).reshape(-1, latents.shape[-1])
    weight = mask.reshape(-1, 1) / jnp.maximum(mask.sum(), 1)
    centred = latents - (weight * latents).sum(0)
    covariance = (weight * centred).T @ centred
    rank = jnp.square(jnp.trace(covariance)) / jnp.maximum(jnp.square(covariance).sum(), 1e-12)
    size = masked_mean(jnp.square(latents).mean(-1), mask.reshape(-1))
    return {"latent/mean_square": size, "latent/rank": rank}


def _read(latent: jax.Array) -> EncodedState:
    return EncodedState(latent, jnp.zeros(latent.shape[:-1], jnp.int32))


def _swapped(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, 0, 1)
