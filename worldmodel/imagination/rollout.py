"""Imagined rollouts: a world model and something that acts in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from worldmodel.models.interface import State, WorldModel
from worldmodel.nn.layout import over_time

Actor = Callable[[jax.Array, jax.Array], jax.Array]  # (features (B, F), key) -> actions (B, ...)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["states", "features", "actions", "rewards", "continues", "uncertainty"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Rollout:
    """H imagined steps from B starts.

    states: pytree of (B, H+1, ...), the start first
    features: (B, H+1, F), what policies see of them
    actions: (B, H, ...); action t leads from state t to state t+1
    rewards: (B, H); what action t earned, read at state t+1
    continues: (B, H); probability that the episode goes on at state t+1
    uncertainty: (B, H) where the family has one
    """

    states: State
    features: jax.Array
    actions: jax.Array
    rewards: jax.Array
    continues: jax.Array
    uncertainty: jax.Array | None = None


def imagine(
    model: WorldModel, start: State, actor: Actor | jax.Array, horizon: int, key: jax.Array
) -> Rollout:
    """Rolls the model out for `horizon` steps from `start` (B, ...).

    `actor` is a function of (features, key), called at every step, or given actions (B, H, ...).
    """
    if isinstance(actor, jax.Array):
        if actor.shape[1] != horizon:
            raise ValueError(f"{actor.shape[1]} actions were given for a horizon of {horizon}")
        actions = jnp.swapaxes(actor, 0, 1)
        states = _swapped(model.rollout(start, actor, key))
    else:
        actions, states = _act(model, start, actor, horizon, key)
    rewards, ended = over_time(lambda s: (model.reward(s).mean(), model.terminal(s).mean()), states)
    states = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states)
    return _swapped(Rollout(states, model.features(states), actions, rewards, 1.0 - ended))


def time_first(rollout: Rollout) -> Rollout:
    """The same rollout with time before batch, as it was made: inside jit this costs nothing, the
    copies cancel.
    """
    return _swapped(rollout)


def _swapped(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def _act(
    model: WorldModel, start: State, actor: Actor, horizon: int, key: jax.Array
) -> tuple[jax.Array, State]:
    """Actions (H, B, ...) and the states (H, B, ...) that they lead to."""

    def advance(state: State, key: jax.Array) -> tuple[State, tuple[jax.Array, State]]:
        actor_key, model_key = jax.random.split(key)
        action = actor(model.features(state), actor_key)
        state = model.step(state, action, model_key)
        return state, (action, state)

    return jax.lax.scan(advance, start, jax.random.split(key, horizon))[1]
