"""What families with a latent state share: networks that read it, and what is learned from logs
through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.data.windows import Window
from worldmodel.errors import UserError
from worldmodel.models.interface import Metrics, State, WorldModel
from worldmodel.nn.codecs import Decoder
from worldmodel.nn.distributions import Bernoulli, Distribution, TwoHot
from worldmodel.nn.heads import BinaryHead, ScalarHead

NO_REWARD = "this model was trained on logs without reward, so it predicts none"
Terms = dict[str, tuple[jax.Array, jax.Array]]  # name -> values and mask, (B, T) each


class LatentModel(WorldModel):
    """Observation, reward and end are read from `features(state)` by a decoder and two heads."""

    action: ActionSpec
    dtype: jnp.dtype

    def add_readouts(
        self,
        spec: DataSpec,
        sizes: tuple[int, int],
        units: int,
        depth: int,
        blocks: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype,
    ) -> None:
        """Makes decoder and heads for features in two parts of `sizes`; the first one is in
        `blocks`.
        """
        features = sum(sizes)
        self.decoder = Decoder(spec, *sizes, units, depth, blocks, rngs=rngs, dtype=dtype)
        self.add_heads(spec, features, units, rngs=rngs, dtype=dtype)
        self.feature_size, self.hidden_size = features, units
        self.action, self.dtype = spec.action, dtype

    def add_heads(
        self, spec: DataSpec, features: int, units: int, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ) -> None:
        """Makes the heads of reward and end."""
        head = partial(ScalarHead, features, units, 1, rngs=rngs, dtype=dtype)
        self.reward_head = head() if spec.has_reward else None
        self.terminal_head = BinaryHead(features, units, 1, rngs=rngs, dtype=dtype)

    def observation(self, state: State) -> Mapping[str, Distribution]:
        return self.decoder(self.features(state))

    def reward(self, state: State) -> TwoHot:
        if self.reward_head is None:
            raise UserError(NO_REWARD)
        return self.reward_head(self.features(state))

    def terminal(self, state: State) -> Bernoulli:
        return self.terminal_head(self.features(state))

    def prediction_losses(self, states: State, window: Window) -> Terms:
        """How well states (B, T, ...) say what was logged: a loss for each observation, end and
        reward.
        """
        terms = {
            key: (prediction.loss(window.observation[key]), window.mask)
            for key, prediction in self.observation(states).items()
        }
        return terms | self.outcome_losses(states, window)

    def outcome_losses(self, states: State, window: Window) -> Terms:
        """Losses of what the arrival at each row ended and earned."""
        there = has_predecessor(window)
        terms = {"terminal": (self.terminal(states).loss(window.is_terminal), there)}
        if self.reward_head is not None:
            terms["reward"] = (self.reward(states).loss(shift_right(window.reward)), there)
        return terms

    def action_vector(self, action: jax.Array) -> jax.Array:
        """Actions as vectors: classes become one-hot."""
        if self.action.discrete:
            return jax.nn.one_hot(action, self.action.size, dtype=self.dtype)
        return action.astype(self.dtype)


def total_loss(
    terms: Terms, scales: Mapping[str, float], shape: tuple[int, int]
) -> tuple[jax.Array, Metrics]:
    """The weighted sum (weight 1 unless given) of the means over real rows, and each mean."""
    for name, (values, _) in terms.items():
        if values.shape != shape:
            raise ValueError(f"loss {name!r} has shape {values.shape}, not {shape}")
    means = {name: masked_mean(values, mask) for name, (values, mask) in terms.items()}
    total = sum(scales.get(name, 1.0) * value for name, value in means.items())
    return total, {f"loss/{name}": value for name, value in means.items()} | {"loss/total": total}


def has_predecessor(window: Window) -> jax.Array:
    """(B, T) rows of which it is known what led to them: not the first one of a window."""
    return window.mask & (jnp.arange(window.shape[1]) > 0) & ~window.is_first


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, x, 0).sum() / jnp.maximum(mask.sum(), 1)


def shift_right(x: jax.Array) -> jax.Array:
    """(B, T) moved one row on: what belongs to the arrival at row t. Row 0 holds zeros."""
    return jnp.concatenate([jnp.zeros_like(x[:, :1]), x[:, :-1]], 1)
