"""Value learning where the observation after the last action was not logged: a terminal transition
needs none, any other is left out, and cloning keeps both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel import models, policies
from worldmodel.config import StageOptions
from worldmodel.data.episodes import Episode, stack_episodes
from worldmodel.data.loader import pad_episodes
from worldmodel.data.windows import Window
from worldmodel.imagination.transitions import Transition, transitions_from_window
from worldmodel.models.observed import ObservedOptions
from worldmodel.nn import optimizer
from worldmodel.policies.actor_critic import ActorCriticOptions, _alive, replay_loss
from worldmodel.policies.bc import BCOptions
from worldmodel.policies.iql import IQLOptions
from worldmodel.policies.networks import merge_nets
from worldmodel.policies.offline_options import OfflineOptions
from worldmodel.policies.sac_n import SACOptions
from worldmodel.policies.td3_bc import TD3BCOptions

KEY = jax.random.key(0)
STAGE = StageOptions(steps=10, batch_size=8, window=2, warmup_steps=0)


def episode(rng: np.random.Generator, terminated: bool) -> Episode:
    rewards = np.array([0.0, 0.0, 0.0, 5.0])
    x, actions = rng.normal(size=(4, 3)), rng.uniform(-1, 1, (4, 2))
    return Episode({"x": x}, actions, rewards, terminated, final_logged=False)


RNG = np.random.default_rng(0)
DATA = stack_episodes([episode(RNG, True), episode(RNG, False)], "two episodes")
SPEC = DATA.spec({"x": "standardize"})
MODEL = models.build(ObservedOptions(), SPEC, KEY)
WINDOW = pad_episodes(DATA)
LAST = {"terminal": 3, "truncated": 7}  # transitions, four of each episode


def window_with(terminal: float, truncated: float, placeholder: float = 0.0) -> Window:
    """The window with other last rewards, and another value of the placeholders."""
    reward, x = np.array(WINDOW.reward), np.array(WINDOW.observation["x"])
    reward[:, 3] = terminal, truncated
    x[:, 4] += placeholder
    return replace(WINDOW, reward=reward, observation={"x": x})


def transitions(window: Window) -> Transition:
    return transitions_from_window(MODEL, window, KEY)


def without_action(batch: Transition, place: int) -> Transition:
    action = np.array(batch.action)
    action[place] = 0.0
    return batch._replace(action=action)


def test_transitions_keep_the_last_action_and_not_its_placeholder() -> None:
    batch = transitions(window_with(5.0, 5.0, placeholder=9.0))
    assert batch.weight.tolist() == [1.0] * 8
    assert batch.terminal.tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert batch.next_observed is not None
    assert batch.next_observed.tolist() == [True, True, True, False] * 2
    assert (batch.next_features[3] == batch.features[3]).all()
    assert not np.asarray(batch.next_action_valid)[[3, 7]].any()


@pytest.mark.parametrize("options", [TD3BCOptions(), SACOptions(), IQLOptions()])
def test_critics_learn_the_last_reward_of_a_terminal_episode_alone(options: Any) -> None:
    learner = policies.build(
        replace(options, units=5), MODEL, SPEC, optimizer.build(STAGE), jnp.float32
    )
    nets = merge_nets(learner.graphdefs, learner.init(KEY))
    (critic,) = (s.loss for s in learner.update_steps() if s.modules == ("critic",))
    critic = jax.jit(critic)

    def loss(window: Window) -> float:
        return float(critic(nets, transitions(window), KEY)[0])

    expected = loss(window_with(5.0, 5.0))
    assert loss(window_with(5.0, -9.0)) == expected
    assert loss(window_with(-9.0, 5.0)) != pytest.approx(expected, rel=1e-3)
    assert loss(window_with(5.0, 5.0, placeholder=7.0)) == expected


def test_the_value_of_iql_leaves_out_the_action_whose_outcome_is_unknown() -> None:
    options: OfflineOptions = IQLOptions(units=5)
    learner = policies.build(options, MODEL, SPEC, optimizer.build(STAGE), jnp.float32)
    nets, batch = merge_nets(learner.graphdefs, learner.init(KEY)), transitions(WINDOW)
    changed = without_action(batch, LAST["truncated"])
    value, actor = (step.loss for step in learner.update_steps() if step.modules != ("critic",))
    assert value(nets, batch, KEY)[0] == value(nets, changed, KEY)[0]
    assert actor(nets, batch, KEY)[0] != actor(nets, changed, KEY)[0]  # cloned all the same


def test_cloning_keeps_every_action() -> None:
    learner = policies.build(BCOptions(units=5), MODEL, SPEC, optimizer.build(STAGE), jnp.float32)
    nets, batch = merge_nets(learner.graphdefs, learner.init(KEY)), transitions(WINDOW)
    (step,) = learner.update_steps()
    for place in LAST.values():
        changed = without_action(batch, place)
        assert step.loss(nets, batch, KEY)[0] != step.loss(nets, changed, KEY)[0]


class _Constant:
    """A critic whose value is 1 everywhere, and whose loss is the distance to a target."""

    def __call__(self, features: jax.Array) -> _Constant:
        self.shape = features.shape[:-1]
        return self

    def mean(self) -> jax.Array:
        return jnp.ones(self.shape)

    def loss(self, target: jax.Array) -> jax.Array:
        return jnp.abs(target)


def test_returns_of_the_dataset_bootstrap_from_no_unobserved_state() -> None:
    """Of the truncated episode, the last step bootstraps from its imagined return, and its own
    action is not learned.
    """
    options = ActorCriticOptions(discount=1.0, lambda_=1.0, target_regularization_scale=0.0)
    nets: Any = {"critic": _Constant(), "target_critic": _Constant()}
    imagined = jnp.broadcast_to(jnp.array([10.0, 20.0, 30.0, 40.0, 1e6]), (2, 5))
    features = jnp.zeros((2, 5, 3))
    loss = replay_loss(options, nets, features, WINDOW, imagined)
    assert float(loss) == pytest.approx((4 * 5.0 + 3 * 40.0) / 8)


def test_nothing_is_imagined_from_a_step_that_was_not_observed() -> None:
    assert _alive(WINDOW).tolist() == ([1.0] * 4 + [0.0]) * 2
