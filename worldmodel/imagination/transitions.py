"""Single transitions, which offline algorithms learn from: of a dataset, or of rollouts."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from worldmodel.data.spec import ActionSpec
from worldmodel.data.windows import Window
from worldmodel.imagination.rollout import Rollout
from worldmodel.models.interface import WorldModel


class Transition(NamedTuple):
    """N transitions.

    features, next_features: (N, F), inputs of policies before and after the action
    action: (N, K) normalized, or (N,) classes
    reward: (N,) in the dataset's units
    terminal: (N,) 1.0 where the episode terminated, 0.0 elsewhere and at time-outs
    next_action: likewise, where `next_action_valid` (N,) bool
    weight: (N,) 1.0, or 0.0 for padding
    imagined: (N,) bool, whether a model generated them
    next_observed: (N,) bool, whether the next observation was logged; where it was not,
        `next_features` are those before the action. None: all were
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
    next_observed: jax.Array | None = None


def transition_shapes(features: int, spec: ActionSpec) -> Any:
    """A `Transition` of the shapes and types of a single one."""
    vector = jax.ShapeDtypeStruct((features,), jnp.float32)
    action = jax.ShapeDtypeStruct(spec.shape, spec.dtype)
    scalar, flag = (jax.ShapeDtypeStruct((), t) for t in (jnp.float32, jnp.bool_))
    fields: list[Any] = [vector, action, scalar, scalar, vector, action, flag, scalar, flag]
    return Transition(*fields)


def transitions_from_window(model: WorldModel, window: Window, key: jax.Array) -> Transition:
    """The B (T - 1) transitions of a batch of windows (B, T), with features of filtered states."""
    features = model.features(model.observe(window, key))
    valid = window.mask[:, 1:] & ~window.is_last[:, :-1]
    next_features, next_observed = features[:, 1:], None
    if window.observed is not None:
        next_observed = window.observed[:, 1:]
        next_features = jnp.where(next_observed[..., None], next_features, features[:, :-1])
    transition = Transition(
        features=features[:, :-1],
        action=window.action[:, :-1],
        reward=window.reward[:, :-1],
        terminal=window.is_terminal[:, 1:].astype(jnp.float32),
        next_features=next_features,
        next_action=window.action[:, 1:],
        # The action of an episode's last step is padding.
        next_action_valid=window.mask[:, 1:] & ~window.is_last[:, 1:],
        weight=valid.astype(jnp.float32),
        imagined=jnp.zeros_like(valid),
        next_observed=next_observed,
    )
    return _flat(transition)


def transitions_from_rollout(
    rollout: Rollout, alive: jax.Array, key: jax.Array
) -> tuple[Transition, jax.Array]:
    """The B H transitions of a rollout, and which of them to learn from, (B H,) bool: those of
    valid steps before the end of episodes that started `alive` (B,).

    Ends are sampled from the rollout's probabilities, so that imagined episodes end as real ones.
    """
    ended = jax.random.uniform(key, rollout.continues.shape) >= rollout.continues
    valid = jnp.cumprod(jnp.concatenate([alive[:, None], ~ended[:, :-1]], 1), 1).astype(bool)
    valid = valid & rollout.mask
    following = [rollout.actions[:, 1:], jnp.zeros_like(rollout.actions[:, :1])]
    not_last = jnp.broadcast_to(jnp.arange(valid.shape[1]) < valid.shape[1] - 1, valid.shape)
    transition = Transition(
        features=rollout.features[:, :-1],
        action=rollout.actions,
        reward=rollout.rewards,
        terminal=ended.astype(jnp.float32),
        next_features=rollout.features[:, 1:],
        next_action=jnp.concatenate(following, 1),
        next_action_valid=not_last,
        weight=jnp.ones(valid.shape),
        imagined=jnp.ones(valid.shape, bool),
    )
    return _flat(transition), valid.reshape(-1)


def _flat(transition: Transition) -> Transition:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), transition)
