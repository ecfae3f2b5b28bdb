"""The update rules of the offline algorithms, compared with NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel import models, policies
from worldmodel.config import Config, StageOptions, TrainingOptions
from worldmodel.config.registry import schemas
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.errors import ConfigError
from worldmodel.imagination.transitions import Transition
from worldmodel.models.mlp import MLPOptions
from worldmodel.nn import optimizer
from worldmodel.nn.learner import TrainState
from worldmodel.policies.bc import BCOptions
from worldmodel.policies.combo import COMBOOptions
from worldmodel.policies.iql import IQLOptions
from worldmodel.policies.mobile import MOBILEOptions
from worldmodel.policies.networks import merge_nets
from worldmodel.policies.offline import OfflineLearner
from worldmodel.policies.offline_options import OfflineOptions
from worldmodel.policies.rambo import RAMBOOptions
from worldmodel.policies.rebrac import ReBRACOptions
from worldmodel.policies.sac_n import SACOptions, gradient_similarity
from worldmodel.policies.td3_bc import TD3BCOptions
from worldmodel.training.plan import check_stages, plan_stages
from worldmodel.training.seeds import AXES, VmappedLearner

KEY, BATCH = jax.random.key(0), 12
SPEC = DataSpec(
    {"x": ObservationSpec((3,), "float32", (0.0,) * 3, (1.0,) * 3, (-1.0,) * 3, (1.0,) * 3)},
    ActionSpec(False, 2, (-1.0, -1.0), (1.0, 1.0)),
    reward_mean_std=(0.0, 2.0),
)
MODEL = models.build(MLPOptions(units=4, latent_dim=5), SPEC, KEY)
STAGE = StageOptions(
    steps=10, batch_size=8, window=2, learning_rate=1e-2, warmup_steps=0, agc_clip=0.0
)


def learner_of(options: OfflineOptions) -> OfflineLearner:
    options = replace(options, units=7)
    return policies.build(options, MODEL, SPEC, optimizer.build(STAGE), jnp.float32)


def started(options: OfflineOptions) -> tuple[OfflineLearner, dict, dict, TrainState]:
    """A learner, its modules with different target networks, their parameters, and its state."""
    learner = learner_of(options)
    state = jax.jit(learner.init)(KEY)
    rng = np.random.default_rng(1)
    perturbed = {"params": state.params, "target_params": state.target_params}
    perturbed = jax.tree.map(
        lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), jax.device_get(perturbed)
    )
    state = replace(state, **perturbed)
    params = state.params | {f"target_{name}": value for name, value in state.target_params.items()}
    return learner, merge_nets(learner.graphdefs, state), jax.device_get(params), state


def random_batch(rng: np.random.Generator) -> Transition:
    """Random transitions: some terminal, padding, imagined, or without a next action."""
    size = MODEL.feature_size

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=(BATCH, *shape)).astype(np.float32)

    some = np.arange(BATCH)
    action, following = (np.tanh(draw(2)) for _ in range(2))
    return Transition(
        draw(size), action, draw(), (some % 4 == 1).astype(np.float32), draw(size), following,
        some % 3 != 0, (some < BATCH - 2).astype(np.float32), some % 2 == 1,
    )  # fmt: skip


@pytest.fixture
def batch() -> Transition:
    return random_batch(np.random.default_rng(0))


def network(params: Any, x: np.ndarray) -> np.ndarray:
    for layer in params["hidden"].values():
        x = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
    return x @ params["output"]["kernel"] + params["output"]["bias"]


def critic(params: Any, features: np.ndarray, action: np.ndarray) -> np.ndarray:
    """(K, N), in a loop over critics."""
    values = []
    for k in range(params["output"]["kernel"].shape[0]):
        x = np.concatenate([features, action], -1)
        for number, layer in params["hidden"].items():
            x = x @ layer["kernel"][k] + layer["bias"][k]
            if params.get("norms"):
                norm = params["norms"][number]
                x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
                x = x * norm["scale"][k] + norm["bias"][k]
            x = np.maximum(x, 0)
        values.append((x @ params["output"]["kernel"][k] + params["output"]["bias"][k])[:, 0])
    return np.stack(values)


def real_mean(values: np.ndarray) -> float:
    return float(values[..., : BATCH - 2].mean())  # the last two are padding


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


# ------------------------------------------------------------------------------ cloning algorithms


def test_td3_bc_targets_use_the_smaller_target_critic(batch: Transition) -> None:
    """Terminal states are not bootstrapped; time-outs are."""
    learner, nets, params, _ = started(TD3BCOptions(policy_noise=0.0))
    action = np.tanh(network(params["target_actor"], batch.next_features))
    following = critic(params["target_critic"], batch.next_features, action).min(0)
    target = np.asarray(batch.reward) + 0.99 * np.where(batch.terminal > 0, 0, following)
    close(jax.jit(learner.target)(nets, batch, KEY), target)
    values = critic(params["critic"], batch.features, batch.action)
    loss, _ = jax.jit(learner.critic_loss)(nets, batch, KEY)
    close(loss, 2 * real_mean(np.square(values - target)))


def test_td3_bc_smooths_targets_with_clipped_noise(batch: Transition) -> None:
    """Noise that is clipped to zero has no effect."""
    _, nets, _, _ = started(TD3BCOptions())
    learner = learner_of(TD3BCOptions(policy_noise=5.0, noise_clip=0.0))
    quiet = learner_of(TD3BCOptions(policy_noise=0.0))
    close(jax.jit(learner.target)(nets, batch, KEY), jax.jit(quiet.target)(nets, batch, KEY))
    noisy = learner_of(TD3BCOptions())
    perturbed = jax.jit(noisy.target)(nets, batch, KEY) - jax.jit(quiet.target)(nets, batch, KEY)
    assert np.abs(perturbed).max() > 1e-3


def test_td3_bc_normalizes_the_value_by_its_mean_magnitude(batch: Transition) -> None:
    learner, nets, params, _ = started(TD3BCOptions(alpha=1.7))
    action = np.tanh(network(params["actor"], batch.features))
    value = critic(params["critic"], batch.features, action)[0]
    clone = np.square(action - np.asarray(batch.action)).mean(-1)
    expected = real_mean(clone) - 1.7 * real_mean(value) / real_mean(np.abs(value))
    close(jax.jit(learner.actor_loss)(nets, batch, KEY)[0], expected)


def test_behavior_cloning_minimizes_the_squared_error(batch: Transition) -> None:
    learner, nets, params, _ = started(BCOptions())
    action = np.tanh(network(params["actor"], batch.features))
    expected = real_mean(np.square(action - np.asarray(batch.action)).mean(-1))
    close(jax.jit(learner.actor_loss)(nets, batch, KEY)[0], expected)


def test_rebrac_clones_in_actor_and_target(batch: Transition) -> None:
    options = ReBRACOptions(actor_bc_coef=0.3, critic_bc_coef=0.7, policy_noise=0.0, layers=2)
    learner, nets, params, _ = started(options)
    action = np.tanh(network(params["target_actor"], batch.next_features))
    following = critic(params["target_critic"], batch.next_features, action).min(0)
    away = np.square(action - np.asarray(batch.next_action)).sum(-1) * np.asarray(
        batch.next_action_valid
    )
    going_on = 1 - np.asarray(batch.terminal)
    target = np.asarray(batch.reward) + 0.99 * going_on * (following - 0.7 * away)
    close(jax.jit(learner.target)(nets, batch, KEY), target)
    here = np.tanh(network(params["actor"], batch.features))
    value = critic(params["critic"], batch.features, here).min(0)
    clone = real_mean(np.square(here - np.asarray(batch.action)).sum(-1))
    expected = 0.3 * clone - real_mean(value) / real_mean(np.abs(value))
    close(jax.jit(learner.actor_loss)(nets, batch, KEY)[0], expected)


# --------------------------------------------------------------------------------------------- IQL


def test_iql_fits_the_expectile_and_weights_by_advantage(batch: Transition) -> None:
    learner, nets, params, _ = started(
        IQLOptions(expectile=0.8, inverse_temperature=2.0, max_weight=1.5)
    )
    best = critic(params["target_critic"], batch.features, batch.action).min(0)
    advantage = best - network(params["value"], batch.features)[:, 0]
    weight = np.abs(0.8 - (advantage < 0))
    close(jax.jit(learner.value_loss)(nets, batch, KEY)[0], real_mean(weight * advantage**2))

    following = network(params["value"], batch.next_features)[:, 0]
    target = np.asarray(batch.reward) + 0.99 * (1 - np.asarray(batch.terminal)) * following
    values = critic(params["critic"], batch.features, batch.action)
    close(
        jax.jit(learner.critic_loss)(nets, batch, KEY)[0], 2 * real_mean(np.square(values - target))
    )

    location = np.tanh(network(params["actor"]["location"], batch.features))
    scale = np.exp(params["actor"]["log_scale"])
    z = (np.asarray(batch.action) - location) / scale
    log_prob = (-0.5 * z**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)).sum(-1)
    exponential = np.minimum(np.exp(2.0 * advantage), 1.5)
    assert (exponential == 1.5).any() and (exponential < 1.5).any()
    close(jax.jit(learner.actor_loss)(nets, batch, KEY)[0], -real_mean(exponential * log_prob))


# ----------------------------------------------------------------------------- SAC, EDAC and COMBO


def acted(params: Any, features: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An action of the squashed policy and its log density, by a change of variables."""
    location, log_scale = np.split(network(params["actor"]["network"], features), 2, -1)
    scale = np.exp(np.clip(log_scale, -5, 2))
    before = location + scale * noise
    log_prob = (-0.5 * noise**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)).sum(-1)
    return np.tanh(before), log_prob - np.log(1 - np.tanh(before) ** 2).sum(-1)


@pytest.mark.parametrize("entropy", [True, False])
def test_sac_targets_use_the_smallest_critic_and_the_entropy(
    batch: Transition, entropy: bool
) -> None:
    learner, nets, params, _ = started(SACOptions(num_critics=4, backup_entropy=entropy))
    noise = np.asarray(jax.random.normal(KEY, (BATCH, 2)))
    alpha = np.exp(params["temperature"]["log"])
    action, log_prob = acted(params, batch.next_features, noise)
    following = critic(params["target_critic"], batch.next_features, action).min(0)
    following = following - alpha * log_prob * entropy
    target = np.asarray(batch.reward) + 0.99 * (1 - np.asarray(batch.terminal)) * following
    close(jax.jit(learner.target)(nets, batch, KEY), target)

    action, log_prob = acted(params, batch.features, noise)
    value = critic(params["critic"], batch.features, action).min(0)
    loss, metrics = jax.jit(learner.actor_loss)(nets, batch, KEY)
    close(metrics["loss/actor"], real_mean(alpha * log_prob - value))
    close(loss - metrics["loss/actor"], alpha * (-real_mean(log_prob) + 2))


def test_gradient_similarity_is_the_mean_cosine(batch: Transition) -> None:
    _, nets, params, _ = started(SACOptions(num_critics=3))
    small = 1e-3

    def slope(axis: int) -> np.ndarray:
        shift = small * np.eye(2)[axis]
        action = np.asarray(batch.action, np.float64)
        above, below = (
            critic(params["critic"], batch.features, action + s) for s in (shift, -shift)
        )
        return (above - below) / (2 * small)

    gradients = np.stack([slope(0), slope(1)], -1)  # (K, N, A)
    direction = gradients / (np.linalg.norm(gradients, axis=-1, keepdims=True) + 1e-10)
    cosines = np.einsum("ina,jna->ijn", direction, direction)
    expected = (cosines.sum((0, 1)) - np.einsum("iin->n", cosines)) / 2
    np.testing.assert_allclose(
        jax.jit(gradient_similarity)(nets["critic"], batch), expected, atol=0.02
    )


def test_edac_adds_the_gradient_similarity_to_the_critic_loss(batch: Transition) -> None:
    learner, nets, _, _ = started(SACOptions(num_critics=3, eta=0.5))
    plain = learner_of(SACOptions(num_critics=3))
    added = (
        jax.jit(learner.critic_loss)(nets, batch, KEY)[0]
        - jax.jit(plain.critic_loss)(nets, batch, KEY)[0]
    )
    close(added, 0.5 * real_mean(np.asarray(jax.jit(gradient_similarity)(nets["critic"], batch))))


def test_combo_pushes_the_soft_maximum_down_and_the_dataset_up(batch: Transition) -> None:
    options = COMBOOptions(
        cql_weight=0.3, cql_n_actions=4, layers=2, backup_entropy=True, real_ratio=1.0
    )
    learner, nets, params, _ = started(options)
    sac = learner_of(SACOptions(num_critics=2))
    key, push_key = jax.random.split(KEY)
    uniform_key, here_key, next_key = jax.random.split(push_key, 3)
    uniform = np.asarray(jax.random.uniform(uniform_key, (4, BATCH, 2), minval=-1, maxval=1))
    terms = [critic(params["critic"], batch.features, a) + 2 * np.log(2) for a in uniform]
    for seen, kind_key in ((batch.features, here_key), (batch.next_features, next_key)):
        for draw in jax.random.split(kind_key, 4):
            action, log_prob = acted(params, seen, np.asarray(jax.random.normal(draw, (BATCH, 2))))
            terms.append(critic(params["critic"], batch.features, action) - log_prob)
    above = np.log(np.exp(np.stack(terms)).mean(0))
    values = critic(params["critic"], batch.features, batch.action)
    logged = np.flatnonzero(np.asarray(batch.weight * ~batch.imagined))
    gap = real_mean(above) - values[:, logged].mean()
    base = jax.jit(sac.critic_loss)(nets, batch, key)[0]
    close(jax.jit(learner.critic_loss)(nets, batch, KEY)[0] - base, 0.3 * 2 * gap)


# --------------------------------------------------------------------------------- the whole update


def window_of(rng: np.random.Generator, count: int) -> Window:
    no = np.zeros((count, 2), bool)
    return Window(
        {"x": rng.normal(size=(count, 2, 3)).astype(np.float32)},
        rng.uniform(-1, 1, (count, 2, 2)).astype(np.float32),
        rng.normal(size=(count, 2)).astype(np.float32),
        no, no, no, ~no,
    )  # fmt: skip


def learned_options() -> dict[str, OfflineOptions]:
    every = schemas("policy").items()
    found = {
        name: schema(real_ratio=1.0) for name, schema in every if issubclass(schema, OfflineOptions)
    }
    return {name: o for name, o in found.items() if name not in ("rambo", "mobile")}


@pytest.mark.parametrize("name", learned_options())
def test_an_update_changes_every_parameter_and_the_target_networks(name: str) -> None:
    options = replace(learned_options()[name], tau=0.25)
    learner = learner_of(options)
    every = max(step.every for step in learner.update_steps())
    state = jax.jit(learner.init)(KEY)
    update = jax.jit(learner.update)
    batch = window_of(np.random.default_rng(0), 8)
    after = state
    for k in range(2 * every):
        before = after
        after, metrics = update(after, batch, jax.random.key(k))
    perturbed = jax.tree.map(lambda a, b: np.any(np.not_equal(a, b)), state.params, after.params)
    assert all(jax.tree.leaves(perturbed))
    assert int(after.step) == 2 * every
    assert all(np.isfinite(float(x)) for x in metrics.values())
    before, after = jax.device_get((before, after))
    for part, slow in after.target_params.items():
        expected = jax.tree.map(
            lambda s, p: s + 0.25 * (p - s), before.target_params[part], after.params[part]
        )
        jax.tree.map(close, slow, expected)


def test_a_delayed_actor_does_not_change_between_its_updates() -> None:
    learner = learner_of(TD3BCOptions(policy_delay=2))
    batch, update = window_of(np.random.default_rng(0), 8), jax.jit(learner.update)
    first = jax.jit(learner.init)(KEY)
    second, metrics = update(first, batch, KEY)
    jax.tree.map(np.testing.assert_array_equal, first.params["actor"], second.params["actor"])
    jax.tree.map(np.testing.assert_array_equal, first.opt_state["actor"], second.opt_state["actor"])
    assert metrics["loss/actor"] == 0
    third, metrics = update(second, batch, KEY)
    assert metrics["loss/actor"] != 0
    assert any(
        np.any(a != b)
        for a, b in zip(
            *map(jax.tree.leaves, (second.params["actor"], third.params["actor"])), strict=True
        )
    )


@pytest.mark.parametrize("share", [0.0, 0.05, 0.25, 0.75])
def test_a_batch_has_the_share_of_dataset_transitions_of_real_ratio(share: float) -> None:
    """And rewards are in standard deviations, 2.0 here."""
    learner = learner_of(
        SACOptions(real_ratio=share, rollout_batch_size=6, horizon=2, rollout_retain=2)
    )
    rng = np.random.default_rng(0)
    state = jax.jit(learner.collect_rollouts)(jax.jit(learner.init)(KEY), window_of(rng, 6), KEY)
    assert 0 < int(state.replay_buffer.counts[0]) <= 12 and int(state.replay_buffer.counts[1]) == 0
    batch, _ = jax.jit(learner._transitions)(state, window_of(rng, 40), KEY)
    assert int((~batch.imagined).sum()) == round(share * 40)
    assert (np.asarray(batch.weight) == 1).all()
    raw = learner_of(
        SACOptions(real_ratio=share, rollout_batch_size=6, horizon=2, normalize_reward=False)
    )
    unscaled, _ = jax.jit(raw._transitions)(state, window_of(np.random.default_rng(3), 40), KEY)
    scaled, _ = jax.jit(learner._transitions)(state, window_of(np.random.default_rng(3), 40), KEY)
    close(2 * scaled.reward, unscaled.reward)


def config_of(policy: OfflineOptions) -> Config:
    training = TrainingOptions(world_model=STAGE, policy=STAGE)
    model = MLPOptions(units=4, latent_dim=5)
    return Config("any", data=NPZData(), model=model, policy=policy, training=training)


def test_only_cloning_of_the_dataset_needs_no_rewards() -> None:
    spec = replace(SPEC, has_reward=False)
    plan_stages(config_of(BCOptions()), spec)["policy"].build_learner()
    for policy in (TD3BCOptions(), BCOptions(real_ratio=0.5)):
        with pytest.raises(ConfigError, match="learns from rewards.*accepted: policy=bc"):
            plan_stages(config_of(policy), spec)["policy"].build_learner()


def test_the_rollouts_of_a_refresh_must_divide_over_the_devices() -> None:
    mesh = jax.sharding.AbstractMesh((4,), ("data",))

    def check(rollout_batch_size: int) -> None:
        policy = BCOptions(real_ratio=0.5, rollout_batch_size=rollout_batch_size)
        check_stages([plan_stages(config_of(policy), SPEC)["policy"]], mesh)

    check(52)
    with pytest.raises(
        ConfigError, match="policy.rollout_batch_size=50 cannot be split over 4 devices"
    ):
        check(50)


def test_discrete_actions_are_refused() -> None:
    spec = replace(SPEC, action=ActionSpec(True, 3))
    model = models.build(MLPOptions(units=4, latent_dim=4), spec, KEY)
    with pytest.raises(ConfigError, match="continuous"):
        policies.build(TD3BCOptions(), model, spec, optimizer.build(STAGE), jnp.float32)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (SACOptions(real_ratio=0.5, penalty="ensemble_std"), "policy.penalty=ensemble_std"),
        (SACOptions(real_ratio=0.5, truncation_quantile=0.9), "policy.truncation_quantile=0.9"),
        (MOBILEOptions(), "policy=mobile"),
        (RAMBOOptions(), "policy=rambo"),
    ],
)
def test_options_that_need_members_refuse_other_models(options: OfflineOptions, named: str) -> None:
    with pytest.raises(ConfigError, match=f"{named} requires .* accepted: model=ensemble"):
        learner_of(options)


@pytest.mark.parametrize(
    "options", [TD3BCOptions(), SACOptions(real_ratio=0.5, rollout_batch_size=4, horizon=2)]
)
def test_several_seeds_learn_the_same_as_each_alone(options: OfflineOptions) -> None:
    learner = learner_of(options)
    several = VmappedLearner(learner, 3, {})
    state = jax.jit(several.init)(KEY)
    batch, windows = (window_of(np.random.default_rng(k), 24 if k == 0 else 12) for k in range(2))
    if learner.rollout_every:
        state = jax.jit(several.collect_rollouts)(state, windows, KEY)
    after, _ = jax.jit(several.update)(state, batch, KEY)
    alone = jax.tree.map(
        lambda axis, x: x if axis is None else jax.tree.map(lambda y: y[1], x),
        AXES, jax.device_get(state), is_leaf=lambda x: x is None,
    )  # fmt: skip
    own = jax.tree.map(lambda x: x[8:16], batch)
    expected, _ = jax.jit(learner.update)(alone, own, jax.random.split(KEY, 3)[1])
    after, expected = jax.device_get((after, expected))
    for name, params in after.params.items():
        jax.tree.map(lambda x, y: close(x[1], y), params, expected.params[name])
    kernel = after.params["actor"]
    assert any(np.any(x[0] != x[1]) for x in jax.tree.leaves(kernel))
