"""Single transitions, as offline algorithms learn from them: from logs, or from rollouts."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from worldmodel.data.windows import Window
from worldmodel.imagination.rollout import Rollout
from worldmodel.models.interface import WorldModel


class Transition(NamedTuple):
    """N transitions.

    features, next_features: (N, F), what policies see before and after
    action: (N, A) in [-1, 1]; reward: (N,) raw
    terminal: (N,) 1.0 where the episode really ended there; a time-out is 0.0
    next_action: (N, A), what was done after it, where `next_action_valid` (N,) says that this is known
    weight: (N,) 1.0, or 0.0 for padding
    imagined: (N,) bool, where they come from
    """

    features: jax.Array
    action: jax.Array
    reward: jax.Array
    terminal: jax.Array
    next_features: jax.Array
    next_action: jax.Array
    next_action_valid: jax.Array
    weight: jax.Array
    imagined: jax.Array


def transition_shapes(features: int, actions: int) -> Transition:
    """Shapes and types of a single transition."""
    seen = jax.ShapeDtypeStruct((features,), jnp.float32)
    done = jax.ShapeDtypeStruct((actions,), jnp.float32)
    number, yes = (jax.ShapeDtypeStruct((), t) for t in (jnp.float32, jnp.bool_))
    return Transition(seen, done, number, number, seen, done, yes, number, yes)


def transitions_from_window(model: WorldModel, window: Window, key: jax.Array) -> Transition:
    """The B (T - 1) transitions of a batch of windows (B, T), as `model` filters them."""
    features = model.features(model.observe(window, key))
    real = window.mask[:, 1:] & ~window.is_last[:, :-1]
    transition = Transition(
        features=features[:, :-1],
        action=window.action[:, :-1],
        reward=window.reward[:, :-1],
        terminal=window.is_terminal[:, 1:].astype(jnp.float32),
        next_features=features[:, 1:],
        next_action=window.action[:, 1:],
        next_action_valid=window.mask[:, 1:]
        & ~window.is_last[:, 1:],  # a last row's action is padding
        weight=real.astype(jnp.float32),
        imagined=jnp.zeros_like(real),
    )
    return _flat(transition)


def transitions_from_rollout(
    rollout: Rollout, alive: jax.Array, key: jax.Array
) -> tuple[Transition, jax.Array]:
    """The B H transitions of a rollout, and which of them are to be learned from, (B H,) bool: the
    start was `alive` (B,), and nothing ended or was cut before.

    Ends are drawn from the rollout's probabilities: imagined experience ends as the real one does.
    """
    ended = jax.random.uniform(key, rollout.continues.shape) >= rollout.continues
    going_on = jnp.cumprod(jnp.concatenate([alive[:, None], ~ended[:, :-1]], 1), 1).astype(bool)
    valid = going_on if rollout.valid is None else going_on & rollout.valid
    acted = jnp.concatenate([rollout.actions[:, 1:], jnp.zeros_like(rollout.actions[:, :1])], 1)
    known = jnp.broadcast_to(jnp.arange(valid.shape[1]) < valid.shape[1] - 1, valid.shape)
    transition = Transition(
        features=rollout.features[:, :-1],
        action=rollout.actions,
        reward=rollout.rewards,
        terminal=ended.astype(jnp.float32),
        next_features=rollout.features[:, 1:],
        next_action=acted,
        next_action_valid=known,
        weight=jnp.ones(valid.shape),
        imagined=jnp.ones(valid.shape, bool),
    )
    return _flat(transition), valid.reshape(-1)


def _flat(transition: Transition) -> Transition:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), transition)
