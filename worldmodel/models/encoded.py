"""Deterministic latents that an encoder reads from every observation: koopman, gru and mlp differ
in their step alone.

The filter is an observer: what the step predicts is corrected towards what the encoder sees, by a
learned gain for each coordinate (1: the observation alone is believed, 0: the prediction alone).
Training rolls the model out over the rest of the window with the logged actions, from a row on that
a few rows have led up to, so errors over long horizons are what is minimised.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import ENCODED_PRESETS, EncodedOptions
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.models.interface import Metrics
from worldmodel.models.latent import LatentModel, Terms, masked_mean, total_loss
from worldmodel.nn.codecs import Encoder
from worldmodel.nn.layers import Linear


class EncodedModel(LatentModel):
    """State: (B, S) float32. Families give `add_dynamics`, `step`, and `rollout` where they can do
    better.
    """

    def __init__(
        self,
        options: EncodedOptions,
        spec: DataSpec,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        state_size, units, depth = ENCODED_PRESETS[options.name][options.preset]
        self.encoder = Encoder(spec, units, depth, rngs=rngs, dtype=dtype)
        self.to_state = Linear(self.encoder.size, state_size, rngs=rngs, dtype=dtype)
        self.gain = nnx.Param(jnp.full(state_size, 2.0))  # before the sigmoid: 0.88 of what is seen
        half = state_size // 2
        readouts = (spec, (half, state_size - half), units, depth, 1)
        self.add_readouts(*readouts, rngs=rngs, dtype=dtype)
        self.options, self.state_size = options, state_size
        self.add_dynamics(units, rngs=rngs)

    def add_dynamics(self, units: int, *, rngs: nnx.Rngs) -> None:
        """Makes what `step` needs."""
        raise NotImplementedError

    def initial(self, batch: tuple[int, ...]) -> jax.Array:
        return jnp.zeros((*batch, self.state_size), jnp.float32)

    def features(self, state: jax.Array) -> jax.Array:
        return state

    def encode(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        """What observations (..., shape) say on their own, (..., S)."""
        return self.to_state(self.encoder(observation)).astype(jnp.float32)

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: jax.Array | None = None,
        action: jax.Array | None = None,
    ) -> jax.Array:
        return self._filter(window, self.encode(window.observation), state, action)

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
        """Predictions of filtered states, of rolled-out ones, and their agreement."""
        seen = self.encode(window.observation)
        states = self._filter(window, seen, None, None)
        first = min(self.options.burn_in, window.shape[1] - 2)
        rolled = self.rollout(states[:, first], window.action[:, first:-1], key)
        terms = self.prediction_terms(states, window)
        terms |= self._rollout_terms(states, rolled, window, first)
        scales = {"consistency": self.options.consistency_scale}
        total, metrics = total_loss(terms, scales, window.shape)
        metrics["latent/size"] = masked_mean(jnp.square(states).mean(-1), window.mask)
        return total, (metrics, states)

    def _rollout_terms(
        self, states: jax.Array, rolled: jax.Array, window: Window, first: int
    ) -> Terms:
        """Losses of the rows after `first`, as they are when nothing more is seen."""
        ahead = jnp.arange(window.shape[1]) > first
        whole = jnp.concatenate([states[:, : first + 1], rolled], 1)
        terms = {
            f"rollout/{name}": (values, mask & ahead)
            for name, (values, mask) in self.prediction_terms(whole, window).items()
        }
        apart = jnp.square(whole - states).mean(-1)
        return terms | {"consistency": (apart, window.mask & ahead)}

    def _filter(
        self,
        window: Window,
        seen: jax.Array,
        state: jax.Array | None,
        action: jax.Array | None,
    ) -> jax.Array:
        """x_t = p_t + gain (e_t - p_t) with p_t the step from x_{t-1}; at a first row x_t = e_t."""
        known = state is not None
        state = self.initial(window.shape[:1]) if state is None else state
        before = jnp.zeros_like(window.action[:, :1]) if action is None else action[:, None]
        previous = jnp.concatenate([before, window.action[:, :-1]], 1)
        # Without a known row before it, a window's first row is believed as it is seen.
        afresh = window.is_first | ((jnp.arange(window.shape[1]) == 0) & (not known))
        gain = jax.nn.sigmoid(self.gain[...])
        key = jax.random.key(0)  # the steps are deterministic

        def advance(state: jax.Array, inputs: tuple) -> tuple[jax.Array, jax.Array]:
            seen, action, afresh = inputs
            predicted = self.step(state, action, key)
            state = predicted + jnp.where(afresh[:, None], 1.0, gain) * (seen - predicted)
            return state, state

        time_first = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (seen, previous, afresh))
        return jnp.swapaxes(jax.lax.scan(advance, state, time_first)[1], 0, 1)
