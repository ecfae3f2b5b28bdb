"""Deterministic latents with an encoder of every observation: families differ in the dynamics of
the latent only.

The filter is an observer: it corrects the predicted latent towards the encoded observation, by a
learned gain per dimension (1: only the observation counts, 0: only the prediction). The training
loss is that of a rollout over the rest of the window, after a few steps of burn-in, so that errors
at long horizons are minimized.
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
from worldmodel.models.interface import Metrics, State
from worldmodel.models.latent import LatentModel, masked_mean, total_loss
from worldmodel.models.unobserved import predict_unobserved
from worldmodel.nn.codecs import DecoderSizes, Encoder
from worldmodel.nn.layers import Linear
from worldmodel.nn.layout import scan_time

# preset -> units of every hidden layer, base channels of images. At a preset, these families have
# the same number of parameters; from `1m` on, that of the RSSM's preset of this name.
ENCODED_PRESETS: dict[str, tuple[int, int]] = {
    "tiny": (64, 4),
    "1m": (184, 4),
    "12m": (752, 16),
    "25m": (1120, 24),
    "50m": (1504, 32),
}


@dataclass
class EncodedOptions(ModelOptions):
    """A deterministic latent with an encoder of every observation."""

    preset: str = option(
        "tiny", "size; the options below override single numbers", choices=tuple(ENCODED_PRESETS)
    )
    units: int | None = option(None, "units of every hidden layer", low=1)
    depth: int | None = option(None, "base channels of the image encoder and decoder", low=1)
    latent_dim: int | None = option(None, "dimensions of the latent", low=2)
    burn_in: int = option(
        3, "filtered steps of a window before the rollout of the training loss", low=0
    )
    consistency_scale: float = option(
        1.0, "weight of the distance between predicted and filtered latents", low=0.0
    )
    filtered_scale: float = option(1.0, "weight of the predictions from filtered latents", low=0.0)
    gain: float = option(
        2.0, "initial gain of the filter, before the sigmoid (2: 0.88 of the observation, -4: 0.02)"
    )
    reencode_every: int = option(
        0,
        "decode and encode again after so many steps without observations (0: never)",
        low=0,
        sampling=True,
    )


class EncodedState(NamedTuple):
    """latent: (..., S) float32; age: (...,) int32, steps since it was last encoded."""

    latent: jax.Array
    age: jax.Array


class Sizes(NamedTuple):
    """The sizes of a preset."""

    units: int
    depth: int
    latent: int


def sizes(options: EncodedOptions, latent_per_unit: float) -> Sizes:
    """The sizes of the preset, overridden by options that are not None."""
    units, depth = ENCODED_PRESETS[options.preset]
    units, depth = options.units or units, options.depth or depth
    return Sizes(units, depth, options.latent_dim or 2 * round(latent_per_unit * units / 2))


class EncodedModel(LatentModel):
    """Families implement `control` and `advance`, and `unroll` and `filter` where all steps can be
    computed at once.
    """

    latent_per_unit: float = 1  # such that all families have equally many parameters at a preset

    def __init__(
        self, options: EncodedOptions, spec: DataSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ):
        self.options, self.size = options, sizes(options, self.latent_per_unit)
        units, depth, latent = self.size
        self.encoder = Encoder(spec, units, depth, rngs=rngs, dtype=dtype)
        self.to_latent = Linear(self.encoder.size, latent, rngs=rngs, dtype=dtype)
        self.gain = nnx.Param(jnp.full(latent, options.gain))  # before the sigmoid
        readouts = DecoderSizes(latent // 2, latent - latent // 2, units, depth)
        self.add_readouts(spec, readouts, rngs=rngs, dtype=dtype)

    # -------------------------------------------------------------------- what a family implements

    def control(self, action: jax.Array) -> jax.Array:
        """The control input (..., C) of the dynamics for actions as vectors (..., A)."""
        raise self._missing("control")

    def advance(self, latent: jax.Array, control: jax.Array) -> jax.Array:
        """The next latent (B, S)."""
        raise self._missing("advance")

    def unroll(self, latent: jax.Array, controls: jax.Array) -> jax.Array:
        """The latents (H, B, S) after each of the controls (H, B, C), time-major."""

        def advance(
            model: EncodedModel, latent: jax.Array, control: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            latent = model.advance(latent, control)
            return latent, latent

        return scan_time(advance, self, latent, controls)[1]

    def filter(
        self, latent: jax.Array, controls: jax.Array, encoded: jax.Array, resets: jax.Array
    ) -> jax.Array:
        """The latents (T, B, S) x_t = p_t + gain (encoded_t - p_t), where p_t is the step from
        x_{t-1} under controls_t; at `resets` (T, B), x_t = encoded_t. Time-major.
        """

        def correct(
            model: EncodedModel, latent: jax.Array, inputs: tuple
        ) -> tuple[jax.Array, jax.Array]:
            control, encoded, reset = inputs
            predicted = model.advance(latent, control)
            gain = jax.nn.sigmoid(model.gain[...])
            latent = predicted + jnp.where(reset[:, None], 1.0, gain) * (encoded - predicted)
            return latent, latent

        return scan_time(correct, self, latent, (controls, encoded, resets))[1]

    # -------------------------------------------------------------------------------- the interface

    def initial(self, batch: tuple[int, ...]) -> EncodedState:
        return _fresh(jnp.zeros((*batch, self.size.latent), jnp.float32))

    def features(self, state: EncodedState) -> jax.Array:
        return state.latent

    def step(self, state: EncodedState, action: jax.Array, key: jax.Array) -> EncodedState:
        latent = self.advance(state.latent, self.control(self.action_input(action)))
        return self._reencode(EncodedState(latent, state.age + 1))

    def rollout(self, state: EncodedState, actions: jax.Array, key: jax.Array) -> EncodedState:
        if self.options.reencode_every:
            return super().rollout(state, actions, key)
        latents = self._rollout(state.latent, actions)
        return EncodedState(latents, state.age[:, None] + 1 + jnp.arange(latents.shape[1]))

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: EncodedState | None = None,
        action: jax.Array | None = None,
    ) -> EncodedState:
        # Without a previous state, the first latent is the encoded observation.
        no_state = state is None
        latent = self.initial(window.shape[:1]).latent if state is None else state.latent
        before = jnp.zeros_like(window.action[:, 0]) if action is None else action
        actions = jnp.concatenate([before[:, None], window.action[:, :-1]], 1)
        resets = window.is_first | ((jnp.arange(window.shape[1]) == 0) & no_state)
        # Time-major before the wide layers, so that only narrow arrays are transposed.
        observation, actions, resets = jax.tree.map(_swap, (window.observation, actions, resets))
        controls = self.control(self.action_input(actions))
        latents = self.filter(latent, controls, self.encode(observation), resets)
        states = _fresh(_swap(latents))
        return predict_unobserved(self, states, window, key, state, action)

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, State]]:
        """The losses of predictions from filtered and from predicted latents, and their
        consistency.

        The rollout starts at step `burn_in`, without re-encoding. The filtered latents it is
        compared with take gradient too: reconstruction keeps them from collapsing. For simulation
        of whole records from their actions, a small initial gain and `filtered_scale=0` let the
        steps of the burn-in follow the dynamics as those of the rollout do: no transient is left in
        the loss.
        """
        states = self.observe(window, key)
        first = min(self.options.burn_in, window.shape[1] - 2)
        predicted = self._rollout(states.latent[:, first], window.action[:, first:-1])
        predicted = jnp.concatenate([states.latent[:, first : first + 1], predicted], 1)
        rest = jax.tree.map(lambda x: x[:, first:], window)
        same_episode = jnp.cumsum(rest.is_first.at[:, 0].set(False), 1) == 0
        ahead = rest.mask & same_episode & (jnp.arange(rest.shape[1]) > 0)
        terms = {
            f"rollout/{name}": (values, mask & ahead)
            for name, (values, mask) in self.prediction_losses(_fresh(predicted), rest).items()
        }
        compared = ahead & rest.observation_mask
        consistency = relative_distance(predicted, states.latent[:, first:], compared)
        terms["consistency"] = (consistency, compared)
        filtered, metrics = total_loss(self.prediction_losses(states, window), {}, window.shape)
        scales = {"consistency": self.options.consistency_scale}
        rolled, rolled_metrics = total_loss(terms, scales, rest.shape)
        total = self.options.filtered_scale * filtered + rolled
        metrics |= rolled_metrics | {"loss/total": total}
        return total, (metrics | latent_metrics(states.latent, window.mask), states)

    # --------------------------------------------------------------------------------------- parts

    def _rollout(self, latent: jax.Array, actions: jax.Array) -> jax.Array:
        """The latents (B, H, S) after each of the actions (B, H, ...)."""
        controls = self.control(self.action_input(_swap(actions)))
        return _swap(self.unroll(latent, controls))

    def encode(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        """The latents (..., S) of observations (..., shape)."""
        return self.to_latent(self.encoder(observation)).astype(jnp.float32)

    def action_input(self, action: jax.Array) -> jax.Array:
        """Actions as vectors, scaled back to [-1, 1] without gradient in the scale."""
        action = self.action_vector(action)
        return action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))

    def _reencode(self, state: EncodedState) -> EncodedState:
        """Decodes and encodes the latent again every `reencode_every` steps, which returns it to
        the range of the encoder (Fathi et al., "Course Correcting Koopman Representations", ICLR
        2024).
        """
        if not self.options.reencode_every:
            return state
        due = state.age >= self.options.reencode_every

        def reencode(latent: jax.Array) -> jax.Array:
            means = {key: prediction.mean() for key, prediction in self.observation(state).items()}
            return jnp.where(due[..., None], self.encode(means), latent)

        latent = jax.lax.cond(due.any(), reencode, lambda latent: latent, state.latent)
        return EncodedState(latent, jnp.where(due, 0, state.age))


def relative_distance(predicted: jax.Array, latents: jax.Array, mask: jax.Array) -> jax.Array:
    """Squared distances (B, T) from latents (B, T, S), relative to the latents' total variance, so
    that they cannot be reduced by shrinking the latent. The mean latent has 1 on average.
    """
    weight = (mask / jnp.maximum(mask.sum(), 1))[..., None]
    centered = latents - (weight * latents).sum((0, 1))
    spread = (weight * jnp.square(centered)).sum()
    return jnp.square(predicted - latents).sum(-1) / (spread + 1e-8)


def latent_metrics(latents: jax.Array, mask: jax.Array) -> Metrics:
    """The mean square of the latents (B, T, S), and their effective rank (tr C)^2 / tr C^2 by the
    covariance C, which is 1 if they have collapsed to a line.
    """
    latents = jax.lax.stop_gradient(latents).reshape(-1, latents.shape[-1])
    weight = mask.reshape(-1, 1) / jnp.maximum(mask.sum(), 1)
    centered = latents - (weight * latents).sum(0)
    covariance = (weight * centered).T @ centered
    rank = jnp.square(jnp.trace(covariance)) / jnp.maximum(jnp.square(covariance).sum(), 1e-12)
    size = masked_mean(jnp.square(latents).mean(-1), mask.reshape(-1))
    return {"latent/mean_square": size, "latent/rank": rank}


def _fresh(latent: jax.Array) -> EncodedState:
    return EncodedState(latent, jnp.zeros(latent.shape[:-1], jnp.int32))


def _swap(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, 0, 1)
