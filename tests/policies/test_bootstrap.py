"""A time-out is bootstrapped and a terminal is not: the same dataset, told apart only by how their
episodes end, are worth what the discounted sum says.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel.config import StageOptions
from worldmodel.data import Episode, Trajectories, stack_episodes
from worldmodel.data.loader import pad_episodes
from worldmodel.data.windows import Window
from worldmodel.nn import optimizer
from worldmodel.nn.heads import ScalarHead
from worldmodel.nn.learner import split_module
from worldmodel.policies.actor_critic import ActorCriticOptions, replay_loss

DISCOUNT = 0.8
# Half of the remaining episodes end at each step: 16 of 32 after one, 8 after two, ...
LENGTHS = np.repeat([1, 2, 3, 4, 5, 6], [16, 8, 4, 2, 1, 1])


def dataset(terminated: bool) -> Trajectories:
    """One state with reward 1 per step; episodes terminate or are truncated."""
    return stack_episodes(
        [
            Episode(
                {"x": np.ones((steps + 1, 1))}, np.zeros((steps, 1)), np.ones(steps), terminated
            )
            for steps in LENGTHS
        ],
        "a world of one state",
    )


@jax.jit
def learn(window: Window) -> jax.Array:
    """The value by a critic that learns from the rewards of the dataset alone."""
    options = ActorCriticOptions(discount=DISCOUNT)
    head = ScalarHead(1, 8, 1, rngs=nnx.Rngs(params=0), dtype=jnp.float32)
    definition, params = split_module(head)
    tx = optimizer.build(StageOptions(steps=1, learning_rate=1e-2, warmup_steps=1))
    features = window.observation["x"]

    def update(carry: tuple, _: None) -> tuple:
        params, state = carry
        fixed = nnx.merge(definition, params)
        known = jax.lax.stop_gradient(fixed(features).mean())

        def loss(params: dict) -> jax.Array:
            nets = {"critic": nnx.merge(definition, params), "target_critic": fixed}
            return replay_loss(options, nets, features, window, known)

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (jax.tree.map(jnp.add, params, updates), state), None

    (params, _), _ = jax.lax.scan(update, (params, tx.init(params)), length=1500)
    return nnx.merge(definition, params)(jnp.ones((1, 1))).mean()[0]


def learned_value(terminated: bool) -> float:
    return float(learn(pad_episodes(dataset(terminated))))


def test_terminal_states_are_not_bootstrapped() -> None:
    assert learned_value(terminated=True) == pytest.approx(1 / (1 - DISCOUNT / 2), rel=0.05)


def test_timeouts_are_bootstrapped() -> None:
    assert learned_value(terminated=False) == pytest.approx(1 / (1 - DISCOUNT), rel=0.05)
