"""What families with a latent state share: decoder and heads, and their losses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.data.windows import Window
from worldmodel.errors import UserError
from worldmodel.models.interface import Metrics, State, WorldModel
from worldmodel.nn.actions import action_vector
from worldmodel.nn.codecs import Decoder, DecoderSizes
from worldmodel.nn.distributions import Bernoulli, Distribution, losses
from worldmodel.nn.heads import BinaryHead, ScalarHead

NO_REWARD = "this model was trained on a dataset without rewards, so it predicts none"
Terms = dict[str, tuple[jax.Array, jax.Array]]  # name -> values and mask, (B, T) each


class LatentModel(WorldModel):
    """Predicts observation, reward and end from `features(state)` by a decoder and two heads."""

    action: ActionSpec
    dtype: jnp.dtype

    def add_readouts(
        self, spec: DataSpec, sizes: DecoderSizes, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ) -> None:
        """Adds decoder and heads."""
        self.decoder = Decoder(spec, sizes, rngs=rngs, dtype=dtype)
        self.add_heads(spec, sizes.features, sizes.units, rngs=rngs, dtype=dtype)
        self.feature_size, self.hidden_size = sizes.features, sizes.units
        self.action, self.dtype = spec.action, dtype

    def add_heads(
        self, spec: DataSpec, features: int, units: int, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ) -> None:
        """Adds the heads of reward and end."""
        head = partial(ScalarHead, features, units, 1, rngs=rngs, dtype=dtype)
        self.reward_head = head() if spec.has_reward else None
        self.terminal_head = BinaryHead(features, units, 1, rngs=rngs, dtype=dtype)

    def observation(self, state: State) -> Mapping[str, Distribution]:
        return self.decoder(self.features(state))

    def reward(self, state: State) -> Distribution:
        if self.reward_head is None:
            raise UserError(NO_REWARD)
        return self.reward_head(self.features(state))

    def terminal(self, state: State) -> Bernoulli:
        return self.terminal_head(self.features(state))

    def prediction_losses(self, states: State, window: Window) -> Terms:
        """Losses of predictions from states (B, T, ...): each observation, end and reward."""
        observed = losses(self.observation(states), window.observation)
        terms = {name: (loss, window.observation_mask) for name, loss in observed.items()}
        return terms | self.outcome_losses(states, window)

    def outcome_losses(self, states: State, window: Window) -> Terms:
        """Losses of the end and the reward of the arrival at each step."""
        mask = has_predecessor(window)
        terms = {"terminal": (self.terminal(states).loss(window.is_terminal), mask)}
        if self.reward_head is not None:
            terms["reward"] = (self.reward(states).loss(shift_right(window.reward)), mask)
        return terms

    def action_vector(self, action: jax.Array) -> jax.Array:
        """Actions as vectors (..., A): classes are one-hot."""
        return action_vector(action, self.action, self.dtype)


def total_loss(
    terms: Terms, scales: Mapping[str, float], shape: tuple[int, int]
) -> tuple[jax.Array, Metrics]:
    """The sum of the masked means of losses, weighted by `scales` (default 1), and each mean.

    Raises ValueError for a loss that is not of the `shape` (B, T) of the windows.
    """
    for name, (values, _) in terms.items():
        if values.shape != shape:
            raise ValueError(f"loss {name!r} has shape {values.shape}, not {shape}")
    means = {name: masked_mean(values, mask) for name, (values, mask) in terms.items()}
    weighted = (scales.get(name, 1.0) * value for name, value in means.items())
    total = sum(weighted, jnp.zeros(()))
    return total, {f"loss/{name}": value for name, value in means.items()} | {"loss/total": total}


def has_predecessor(window: Window) -> jax.Array:
    """(B, T) bool: steps with a previous step of their episode in the window."""
    return window.mask & (jnp.arange(window.shape[1]) > 0) & ~window.is_first


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean () of x over `mask`, 0 if it is empty."""
    return jnp.where(mask, x, 0).sum() / jnp.maximum(mask.sum(), 1)


def require_reward(has_reward: bool) -> None:
    """Raises UserError for a model that was trained without rewards."""
    if not has_reward:
        raise UserError(NO_REWARD)


def arrival_reward(window: Window) -> jax.Array:
    """(B, T): the reward of the action that led to each step, 0 where it is unknown."""
    return jnp.where(has_predecessor(window), shift_right(window.reward), 0.0)


def shift_right(x: jax.Array) -> jax.Array:
    """(B, T) shifted by one step, to the arrival at step t; zeros at step 0."""
    return jnp.concatenate([jnp.zeros_like(x[:, :1]), x[:, :-1]], 1)


def random_segments(tree: Any, steps: int, key: jax.Array) -> Any:
    """`steps` consecutive steps of each window, arrays (B, T, ...), from a random one on."""
    batch, length = jax.tree.leaves(tree)[0].shape[:2]
    if steps == length:
        return tree
    first = jax.random.randint(key, (batch, 1), 0, length - steps + 1)
    index = first + jnp.arange(steps)
    return jax.tree.map(lambda x: x[jnp.arange(batch)[:, None], index], tree)
