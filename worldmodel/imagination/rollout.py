"""Imagined rollouts: a world model and something that acts in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from worldmodel.models.interface import Actor, State, WorldModel
from worldmodel.nn.layout import over_time


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "states", "features", "actions", "rewards", "continues", "uncertainty", "valid",
    ],
    meta_fields=[],
)  # fmt: skip
@dataclass(frozen=True)
class Rollout:
    """H imagined steps from B starts.

    states: pytree of (B, H+1, ...), the start first
    features: (B, H+1, F), what policies see of them
    actions: (B, H, ...); action t leads from state t to state t+1
    rewards: (B, H); what action t earned, read at state t+1
    continues: (B, H); probability that the episode goes on at state t+1
    uncertainty: (B, H) of what action t leads to, where it was asked for
    valid: (B, H) bool, the steps to learn from; None: all
    """

    states: State
    features: jax.Array
    actions: jax.Array
    rewards: jax.Array
    continues: jax.Array
    uncertainty: jax.Array | None = None
    valid: jax.Array | None = None


def imagine(
    model: WorldModel, start: State, actor: Actor | jax.Array, horizon: int, key: jax.Array
) -> Rollout:
    """Rolls the model out for `horizon` steps from `start` (B, ...).

    `actor` gives a distribution over actions from features, or is given actions (B, H, ...).
    """
    if not callable(actor):
        actor = jnp.asarray(actor)
        if actor.shape[1] != horizon:
            raise ValueError(f"{actor.shape[1]} actions were given for a horizon of {horizon}")
        actions, rest = actor, model.rollout(start, actor, key)
        states = jax.tree.map(lambda x, y: jnp.concatenate([x[:, None], y], 1), start, rest)
    else:
        states, actions = model.rollout_policy(start, actor, horizon, key)
    states, actions = _swapped((states, actions))  # each step's heads while it is in the caches
    arrived = jax.tree.map(lambda x: x[1:], states)
    rewards, ended = over_time(
        lambda s: (model.reward(s).mean(), model.terminal(s).mean()), arrived
    )
    return _swapped(Rollout(states, model.features(states), actions, rewards, 1.0 - ended))


def time_major(rollout: Rollout) -> Rollout:
    """The same rollout with time before batch, as it was made: inside jit this costs nothing, the
    copies cancel.
    """
    return _swapped(rollout)


def _swapped(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)
