"""Algorithms that use the members of an ensemble, compared with NumPy."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import models, policies
from worldmodel.config import StageOptions
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.imagination.transitions import Transition
from worldmodel.models.ensemble import Ensemble, EnsembleOptions
from worldmodel.nn import optimizer
from worldmodel.nn.distributions import Normal
from worldmodel.nn.learner import TrainState, split_module
from worldmodel.policies.mobile import MOBILEOptions
from worldmodel.policies.networks import merge_nets
from worldmodel.policies.offline import OfflineLearner
from worldmodel.policies.offline_options import OfflineOptions
from worldmodel.policies.rambo import RAMBOOptions
from worldmodel.policies.sac_n import SACOptions

KEY, BATCH, SIZE = jax.random.key(0), 12, 11
ELITES = [2, 0]  # of three members, the best one first
# The observation of Hopper: height and angle come first and determine the end of the episode.
MEAN = np.array([0.9, 0.0] + [0.3] * 9, np.float32)
STD = np.array([0.2, 0.15] + [2.0] * 9, np.float32)
CHANGE = np.linspace(0.1, 0.5, SIZE).astype(np.float32)  # of a step, in standard deviations
REWARD_MEAN, REWARD_STD = 0.5, 2.0
SPEC = DataSpec(
    {
        "x": ObservationSpec(
            (SIZE,), "float32", tuple(MEAN.tolist()), tuple(STD.tolist()),
            delta_rms=tuple((CHANGE * STD).tolist()),
        )
    },
    ActionSpec(False, 2, (-1.0, -1.0), (1.0, 1.0)),
    reward_mean_std=(REWARD_MEAN, REWARD_STD),
)  # fmt: skip
STAGE = StageOptions(
    steps=10, batch_size=8, window=2, learning_rate=1e-2, warmup_steps=0, agc_clip=0.0
)


@pytest.fixture(scope="module")
def model() -> Ensemble:
    """Three members that disagree, with `ELITES`."""
    options = EnsembleOptions(num_members=3, num_elites=2, units=8, layers=1, termination="hopper")
    definition, params = split_module(models.build(options, SPEC, KEY))
    params = perturbed(params) | {"errors": jnp.array([0.3, 0.9, 0.1])}
    return nnx.merge(definition, params)


def perturbed(params: Any) -> Any:
    rng = np.random.default_rng(1)
    params = jax.device_get(params)
    return jax.device_put(
        jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), params)
    )


def learner_of(options: OfflineOptions, model: models.WorldModel) -> OfflineLearner:
    options = replace(options, units=7)
    return policies.build(options, model, SPEC, optimizer.build(STAGE), jnp.float32)


def started(options: OfflineOptions, model: Ensemble) -> tuple[OfflineLearner, TrainState]:
    """A learner, and a state with different target networks."""
    learner = learner_of(options, model)
    state = jax.jit(learner.init)(KEY)
    own = {name: value for name, value in state.params.items() if name != "model"}
    both = perturbed({"params": own, "target_params": state.target_params})
    return learner, replace(
        state, params=state.params | both["params"], target_params=both["target_params"]
    )


@pytest.fixture
def batch(rng: np.random.Generator) -> Transition:
    """Random transitions; some terminal, some imagined, the last two are padding."""

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=(BATCH, *shape)).astype(np.float32)

    some = np.arange(BATCH)
    features, action = draw(SIZE), np.tanh(draw(2))
    return Transition(
        features, action, draw(), (some % 4 == 1).astype(np.float32),
        features + 0.3 * draw(SIZE), action, some < 0, (some < BATCH - 2).astype(np.float32),
        some % 2 == 1,
    )  # fmt: skip


def ended(points: np.ndarray) -> np.ndarray:
    """Hopper terminates if it is too low or leans too far."""
    raw = np.asarray(points) * STD + MEAN
    return ~((raw[..., 0] > 0.7) & (np.abs(raw[..., 1]) < 0.2))


def outcomes_of(model: Ensemble, features: Any, action: Any) -> tuple[np.ndarray, np.ndarray]:
    """Location and scale of every member, (M, ..., SIZE + 1)."""
    members = _members(model, jnp.asarray(features), jnp.asarray(action))
    return np.asarray(members.location), np.asarray(members.scale)


def regularization(networks: Any) -> float:
    """The width of the bounds, and the weight decay of a hidden layer and the output."""
    width = np.asarray(networks["max_log_var"] - networks["min_log_var"]).sum()
    hidden = np.square(networks["hidden"][0]["linear"]["kernel"]).sum()
    output = np.square(networks["output"]["kernel"]).sum()
    return 0.01 * width + EnsembleOptions().weight_decay * 0.5 * (0.25 * hidden + output)


@nnx.jit
def _members(model: Ensemble, features: jax.Array, action: jax.Array) -> Normal:
    return model.predict_members(model.state_from_features(features), action)


def log_normal(x: np.ndarray, location: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (-0.5 * ((x - location) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))).sum(-1)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=5e-4, atol=5e-5)


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


# ------------------------------------------------------------------------------------------ MOBILE


def naive_inconsistency(
    model: Ensemble, nets: Any, batch: Transition, key: jax.Array
) -> np.ndarray:
    """In loops over elites and samples."""

    @jax.jit
    def value(after: jax.Array, noise: jax.Array) -> jax.Array:
        policy = nets["actor"](after)
        return nets["target_critic"](after, jnp.tanh(policy.location + policy.scale * noise))

    location, scale = outcomes_of(model, batch.features, batch.action)
    means = []
    for place, member in enumerate(ELITES):
        values = []
        for draw in jax.random.split(key, 3):
            outcome_key, action_key = jax.random.split(draw)
            noise = np.asarray(jax.random.normal(outcome_key, (2, BATCH, SIZE + 1)))[place]
            outcome = location[member] + scale[member] * noise
            noise = np.asarray(jax.random.normal(action_key, (2, BATCH, 2)))[place]
            found = value(batch.features + outcome[:, :SIZE] * CHANGE, noise)
            values.append(np.asarray(found).min(0))
        means.append(np.mean(values, 0))
    return np.std(means, 0)


@pytest.mark.parametrize("positive", [False, True])
def test_mobile_penalizes_targets_of_imagined_transitions_by_the_disagreement_of_elites(
    model: Ensemble, batch: Transition, positive: bool
) -> None:
    options = MOBILEOptions(
        num_samples=3, inconsistency_scale=1.5, nonnegative_targets=positive, real_ratio=1.0
    )
    learner, state = started(options, model)
    nets = merge_nets(learner.graphdefs, state)
    sac_key, draw_key = jax.random.split(KEY)
    plain = jax.jit(partial(learner_of(SACOptions(), model).target, nets))(batch, sac_key)
    doubt = naive_inconsistency(model, nets, batch, draw_key)
    expected = np.asarray(plain) - 1.5 * doubt * np.asarray(batch.imagined)
    assert (expected < 0).any() and (expected > 0).any() and doubt.min() > 1e-3
    found = jax.jit(partial(learner.target, nets))(batch, KEY)
    close(found, np.maximum(expected, 0) if positive else expected)


# ------------------------------------------------------------------------------------------- RAMBO


def test_the_model_of_rambo_fits_the_dataset_and_minimizes_the_value_of_the_policy(
    model: Ensemble, batch: Transition
) -> None:
    """The loss, and its gradient in what each member is biased to predict, by the score function.

    The last two batch are padding: they count in no mean, nor in the spread of the advantage.
    """
    learner, state = started(RAMBOOptions(adversarial_scale=0.7, real_ratio=1.0), model)
    nets, real = merge_nets(learner.graphdefs, state), np.arange(BATCH) < BATCH - 2
    logged = real & ~np.asarray(batch.imagined)
    location, scale = outcomes_of(model, batch.features, batch.action)
    change = np.asarray(batch.next_features - batch.features) / CHANGE
    reward = (np.asarray(batch.reward) * REWARD_STD - REWARD_MEAN) / REWARD_STD
    outcome = np.concatenate([change, reward[:, None]], -1)
    fit = -log_normal(outcome, location, scale).mean(0)[logged].mean()
    bias = -((outcome - location) / scale**2)[:, logged].mean(1) / 3

    action_key, outcome_key, next_key = jax.random.split(KEY, 3)
    action = nets["actor"](batch.features).sample(action_key)
    location, scale = (x[ELITES] for x in outcomes_of(model, batch.features, action))
    noise = np.asarray(jax.random.normal(outcome_key, location.shape))
    member = jax.random.randint(jax.random.fold_in(outcome_key, 1), (BATCH,), 0, 2)
    drawn = (location + scale * noise)[np.asarray(member), np.arange(BATCH)]
    after = np.asarray(batch.features) + drawn[:, :SIZE] * CHANGE
    assert 0 < ended(after)[real].sum() < real.sum()
    policy = nets["actor"](jnp.asarray(after)).sample(next_key)
    following = np.asarray(nets["critic"](jnp.asarray(after), policy)).min(0)
    here = np.asarray(nets["critic"](batch.features, action)).min(0)
    earned = drawn[:, SIZE] + REWARD_MEAN / REWARD_STD  # in standard deviations
    gained = earned + 0.99 * np.where(ended(after), 0.0, following) - here
    advantage = (gained - gained[real].mean()) / gained[real].std()
    densities = np.exp([log_normal(drawn, *of) for of in zip(location, scale, strict=True)])
    against = (advantage * np.log(densities.mean(0)))[real].mean()
    share = densities / densities.sum(0)
    pull = (advantage * share)[..., None] * (drawn - location) / scale**2
    bias[ELITES] += 0.7 * pull[:, real].mean(1)

    def loss(params: Any) -> Any:
        return learner.model_loss(
            merge_nets(learner.graphdefs, state, {"model": params}), batch, KEY
        )

    (total, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(state.params["model"])
    close(metrics["loss/model"], fit)
    close(metrics["loss/adversarial"], against)
    close(total, fit + 0.7 * against + regularization(state.params["model"]["networks"]))
    close(grads["networks"]["output"]["bias"][:, 0, : SIZE + 1], bias)


def test_the_actor_of_rambo_first_clones_the_dataset(model: Ensemble, batch: Transition) -> None:
    learner, state = started(RAMBOOptions(real_ratio=1.0), model)
    nets = merge_nets(learner.graphdefs, state)
    away = np.square(nets["actor"](batch.features).mode() - batch.action).mean(-1)
    logged = (np.arange(BATCH) < BATCH - 2) & ~np.asarray(batch.imagined)
    close(jax.jit(learner.cloning_loss)(nets, batch, KEY)[0], away[logged].mean())


def window_of(rng: np.random.Generator, count: int) -> Window:
    """Three batch each, near upright. Of every four windows one is padded at its end, and of
    another one the episode ends with the second row.
    """
    no, number = np.zeros((count, 3), bool), np.arange(count)
    mask, last = ~no, no.copy()
    mask[number % 4 == 1, 2] = False
    last[number % 4 == 2, 1] = True
    return Window(
        {"x": (MEAN + 0.7 * STD * rng.normal(size=(count, 3, SIZE))).astype(np.float32)},
        rng.uniform(-1, 1, (count, 3, 2)).astype(np.float32),
        rng.normal(size=(count, 3)).astype(np.float32),
        no, last, no, mask,
    )  # fmt: skip


@pytest.mark.slow
def test_rambo_clones_first_and_then_trains_model_and_policy(
    model: Ensemble, rng: np.random.Generator
) -> None:
    """Cloning does not depend on the critic: another one changes the actor only after cloning."""
    options = RAMBOOptions(bc_steps=2, rollout_batch_size=6, horizon=2)
    learner, first = started(options, model)
    first = jax.jit(learner.collect_rollouts)(first, window_of(rng, 6), KEY)
    other = replace(first, params=first.params | {"critic": perturbed(first.params["critic"])})
    update, batch = jax.jit(learner.update), window_of(rng, 8)
    states, others = [first], [other]
    for k in range(3):
        state, metrics = update(states[-1], batch, jax.random.key(k))
        states.append(state)
        others.append(update(others[-1], batch, jax.random.key(k))[0])
        assert (metrics["loss/bc"] != 0) == (k < 2)
        assert (metrics["loss/model"] != 0) == (k >= 2)
    for k, (before, after) in enumerate(zip(states, states[1:], strict=False)):
        for name in ("model", "temperature"):
            assert same(before.params[name], after.params[name]) == (k < 2)
            assert same(before.opt_state[name], after.opt_state[name]) == (k < 2)
        assert not same(before.params["actor"], after.params["actor"])
        assert not same(before.params["critic"], after.params["critic"])
        assert same(after.params["actor"], others[k + 1].params["actor"]) == (k < 2)
    assert same(states[-1].params["model"]["errors"], model.errors[...])
