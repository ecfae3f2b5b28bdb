"""Imagined rollouts of a world model under a policy or given actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.data.spec import ActionSpec
from worldmodel.errors import check_count, require
from worldmodel.models.arguments import (
    check_actions,
    check_actor,
    check_finite,
    check_key,
    check_model,
    check_states,
)
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
    """H imagined steps from B starts, batch-first.

    states: pytree of (B, H+1, ...), the start first
    features: (B, H+1, F), the features of the states
    actions: (B, H, ...); action t leads from state t to state t+1
    rewards: (B, H) in the dataset's units; the reward of action t, read at state t+1
    continues: (B, H); probability that the episode has not ended at state t+1
    uncertainty: (B, H) of the outcome of action t, where a transform has measured it
    valid: (B, H) bool, the steps to learn from; None: all
    """

    states: State
    features: jax.Array
    actions: jax.Array
    rewards: jax.Array
    continues: jax.Array
    uncertainty: jax.Array | None = None
    valid: jax.Array | None = None

    @property
    def mask(self) -> jax.Array:
        """(B, H) bool, the steps to learn from."""
        return jnp.ones(self.rewards.shape, bool) if self.valid is None else self.valid


def imagine(
    model: WorldModel,
    start: State,
    actor: Actor | jax.Array | Mapping[str, Any] | tuple[Any, ...],
    horizon: int,
    key: jax.Array,
) -> Rollout:
    """Rolls out the model for `horizon` steps.

    start: states (B, ...) of the model
    actor: from features (B, F) to a distribution over actions; or the normalized actions
        (B, H, ...), also by the names of their parts (`ActionSpec.flatten`)
    horizon: H, steps
    key: of the samples of actor and model

    Returns a `Rollout` (B, H, ...). Raises ArgumentError for arguments of other types or shapes.

        states = model.observe(window, key)
        start = jax.tree.map(lambda x: x[:, -1], states)
        rollout = imagine(model, start, policy, 15, key)
        rollout.rewards.sum(1)  # (B,) imagined returns
    """
    check_model(model)
    check_count("horizon", horizon)
    check_key(key)
    batch = check_states("start", start, model)
    spec = getattr(model, "action", None)
    if isinstance(spec, ActionSpec) and isinstance(actor, Mapping | tuple):
        actor = spec.flatten(actor)
    if not callable(actor):
        _check_actions(model, actor, batch, horizon)
        actions = jnp.asarray(actor)
        rest = model.rollout(start, actions, key)
        states = jax.tree.map(lambda x, y: jnp.concatenate([x[:, None], y], 1), start, rest)
    else:
        check_actor("actor", actor, model, start)
        states, actions = model.rollout_policy(start, actor, horizon, key)
    states, actions = _swap((states, actions))  # the heads of a step run while it is in the caches
    after = jax.tree.map(lambda x: x[1:], states)
    rewards, ended = over_time(lambda s: (model.reward(s).mean(), model.terminal(s).mean()), after)
    return _swap(Rollout(states, model.features(states), actions, rewards, 1.0 - ended))


def _check_actions(model: WorldModel, actions: Any, batch: int, horizon: int) -> None:
    spec = getattr(model, "action", None)
    if isinstance(spec, ActionSpec):
        check_actions(actions, spec, 1, batch)
    if isinstance(actions, np.ndarray):
        check_finite("actions", actions)
    steps = jnp.shape(actions)[1]
    require(steps == horizon, "actor", f"{steps} actions for a horizon of {horizon}", "as many")


def time_major(rollout: Rollout) -> Rollout:
    """The rollout with the time axis first, (H, B, ...), as it was generated: inside jit this costs
    nothing, because the transpositions cancel.
    """
    require(isinstance(rollout, Rollout), "rollout", type(rollout).__name__, "a Rollout")
    return _swap(rollout)


def _swap(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)
