"""The actor-critic: what its losses reach, and that it finds what is best in a world whose best is
known.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import models
from worldmodel.config import StageOptions
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.errors import ConfigError
from worldmodel.imagination import imagine
from worldmodel.models import WorldModel
from worldmodel.models.rssm import RSSMOptions
from worldmodel.nn import optimizer
from worldmodel.nn.distributions import Bernoulli, Normal
from worldmodel.nn.learner import detached, split_module
from worldmodel.policies.actor_critic import (
    ActorCriticLearner,
    ActorCriticOptions,
    JointLearner,
    build_heads,
    imagination_loss,
)

SMALL = RSSMOptions(deter=32, hidden=16, classes=4, stoch=4, depth=2, blocks=2)
SPEC = DataSpec(
    {"observation": ObservationSpec((3,), "float32")}, ActionSpec(False, 2, (-1.0,) * 2, (1.0,) * 2)
)
STATISTICS = {"return_range": jnp.zeros(())}


def random_window(
    rng: np.random.Generator, spec: DataSpec = SPEC, batch: int = 4, rows: int = 6
) -> Window:
    no = np.zeros((batch, rows), bool)
    first = no.copy()
    first[:, 0] = True
    action = rng.uniform(-1, 1, (batch, rows, spec.action.size)).astype(np.float32)
    if spec.action.discrete:
        action = rng.integers(0, spec.action.size, (batch, rows)).astype(np.int32)
    width = spec.observations["observation"].shape[0]
    return Window(
        {"observation": rng.normal(size=(batch, rows, width)).astype(np.float32)}, action,
        rng.normal(size=(batch, rows)).astype(np.float32), first, no, no, ~no,
    )  # fmt: skip


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
def test_imagination_losses_have_no_gradient_in_the_model(gradient: str) -> None:
    options = ActorCriticOptions(actor_grad=gradient, horizon=4)
    model = models.build(SMALL, SPEC, jax.random.key(0))
    actor, critic = build_heads(options, model, SPEC.action, jax.random.key(1), jnp.float32)
    critic.output.bias[...] = jnp.linspace(-1, 1, 255)  # a critic with nonzero predictions
    modules = {"model": model, "actor": actor, "critic": critic}
    definitions = {name: split_module(m)[0] for name, m in modules.items()}
    params = {name: split_module(m)[1] for name, m in modules.items()}

    def loss(params: dict) -> jax.Array:
        fixed = params | {"model": jax.lax.stop_gradient(params["model"])}
        m = {name: nnx.merge(definitions[name], p) for name, p in fixed.items()}
        return imagination_loss(
            options, m | {"target_critic": critic},
            model.initial((5,)), jnp.ones(5), STATISTICS, jax.random.key(2),
        )[0]  # fmt: skip

    grads = jax.jit(jax.grad(loss))(params)
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(grads["model"]))
    for name in ("actor", "critic"):
        assert any(np.asarray(g).any() for g in jax.tree.leaves(grads[name]))


DISCRETE = DataSpec(SPEC.observations, ActionSpec(True, 3))


@pytest.mark.parametrize("spec", [SPEC, pytest.param(DISCRETE, marks=pytest.mark.slow)])
def test_joint_training_changes_every_parameter(rng: np.random.Generator, spec: DataSpec) -> None:
    learner = JointLearner(
        ActorCriticOptions(horizon=3),
        lambda key: models.build(SMALL, spec, key),
        spec,
        optimizer.build(StageOptions(steps=1, warmup_steps=1, learning_rate=1e-2)),
        jnp.float32,
    )
    state, update = learner.init(jax.random.key(0)), jax.jit(learner.update)
    after = state
    for k in range(3):  # zero-initialized output layers have no gradient in their inputs at first
        after, metrics = update(after, random_window(rng, spec), jax.random.key(k))
    moved = jax.tree.map(lambda a, b: np.any(np.not_equal(a, b)), state.params, after.params)
    still = [
        jax.tree_util.keystr(p) for p, m in jax.tree_util.tree_leaves_with_path(moved) if not m
    ]
    assert not still
    assert all(np.isfinite(float(v)) for v in metrics.values())
    assert int(after.step) == 3


def test_a_frozen_model_does_not_change(rng: np.random.Generator) -> None:
    model = models.build(SMALL, DISCRETE, jax.random.key(0))
    options = ActorCriticOptions(horizon=3)
    learner = ActorCriticLearner(
        options, model, DISCRETE, optimizer.build(StageOptions(steps=1)), jnp.float32
    )
    state = learner.init(jax.random.key(0))
    after, _ = jax.jit(learner.update)(state, random_window(rng, DISCRETE), jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, state.frozen, after.frozen)
    assert any(
        np.any(np.not_equal(a, b))
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True)
    )


def test_dynamics_gradients_require_continuous_actions() -> None:
    model = models.build(SMALL, DISCRETE, jax.random.key(0))
    with pytest.raises(ConfigError, match="reinforce"):
        build_heads(
            ActorCriticOptions(actor_grad="dynamics"),
            model,
            ActionSpec(True, 3),
            jax.random.key(0),
            jnp.float32,
        )


class Point(WorldModel):
    """A point on a line, moved by its action: x' = x + a / 2. It earns 1 - x'^2 and ends beyond |x|
    = 3.
    """

    feature_size = 1
    hidden_size = 32

    def initial(self, batch: tuple[int, ...]) -> jax.Array:
        return jnp.zeros((*batch, 1))

    def step(self, state: jax.Array, action: jax.Array, key: jax.Array) -> jax.Array:
        return state + action / 2

    def features(self, state: jax.Array) -> jax.Array:
        return state

    def reward(self, state: jax.Array) -> Normal:
        return Normal(1 - jnp.square(state[..., 0]), jnp.ones(state.shape[:-1]))

    def terminal(self, state: jax.Array) -> Bernoulli:
        return Bernoulli(jnp.where(jnp.abs(state[..., 0]) > 3, 50.0, -50.0))


def test_imagine_reads_rewards_and_ends_after_the_action() -> None:
    start = jnp.asarray([[0.0], [2.9]])
    actions = jnp.asarray([[[1.0], [1.0]], [[1.0], [-1.0]]])
    rollout = imagine(Point(), start, actions, 2, jax.random.key(0))
    np.testing.assert_allclose(rollout.states[..., 0], [[0, 0.5, 1.0], [2.9, 3.4, 2.9]], atol=1e-6)
    np.testing.assert_allclose(rollout.rewards[0], [0.75, 0.0], atol=1e-6)
    np.testing.assert_allclose(rollout.continues, [[1, 1], [0, 1]], atol=1e-6)
    with pytest.raises(ValueError, match="horizon of 3"):
        imagine(Point(), start, actions, 3, jax.random.key(0))


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
def test_the_actor_learns_the_optimal_direction(gradient: str) -> None:
    """On the point the best action from x is towards 0, and the critic knows that 0 is the best
    place.
    """
    options = ActorCriticOptions(actor_grad=gradient, horizon=5, layers=2, discount=0.9)
    model = Point()
    actor, critic = build_heads(
        options, model, ActionSpec(False, 1, (-1.0,), (1.0,)), jax.random.key(0), jnp.float32
    )
    (actor_def, a), (critic_def, c) = split_module(actor), split_module(critic)
    tx = optimizer.build(StageOptions(steps=1, learning_rate=2e-3, warmup_steps=1))
    params = {"actor": a, "critic": c}

    @jax.jit
    def update(carry: tuple, key: jax.Array) -> tuple:
        params, state, statistics = carry
        x = jax.random.uniform(key, (64, 1), minval=-2, maxval=2)

        def loss(params: dict) -> tuple:
            critic = nnx.merge(critic_def, params["critic"])
            nets = {"model": model, "actor": nnx.merge(actor_def, params["actor"])}
            nets |= {"critic": critic, "target_critic": detached(critic)}
            return imagination_loss(options, nets, x, jnp.ones(64), statistics, key)

        grads, imagined = jax.grad(loss, has_aux=True)(params)
        updates, state = tx.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        return (params, state, imagined.statistics), imagined.metrics["policy/reward"]

    carry, rewards = jax.lax.scan(
        update, (params, tx.init(params), STATISTICS), jax.random.split(jax.random.key(1), 400)
    )
    actor, critic = (
        nnx.merge(actor_def, carry[0]["actor"]),
        nnx.merge(critic_def, carry[0]["critic"]),
    )
    left, right = actor(jnp.asarray([[-1.5], [1.5]])).mode()[:, 0]
    assert left > 0.3 and right < -0.3
    assert float(rewards[-50:].mean()) > float(rewards[:50].mean()) + 0.2
    values = critic(jnp.asarray([[0.0], [1.8], [-1.8]])).mean()
    assert values[0] > values[1] and values[0] > values[2]
