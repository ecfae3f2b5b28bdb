"""Diffusion of trajectory segments: conditioning, guidance by a policy, and long rollouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import models
from worldmodel.config import Config, LoggingOptions, NoPolicy, StageOptions, TrainingOptions
from worldmodel.config.rules import config_errors
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.imagination import Rollout, imagine
from worldmodel.models.trajectory_diffusion import (
    TrajectoryDiffusion,
    TrajectoryDiffusionOptions,
    TrajectoryStep,
)
from worldmodel.nn.distributions import Categorical, Normal
from worldmodel.nn.learner import split_module

KEY, SMALL = jax.random.key(0), TrajectoryDiffusionOptions(segment_length=5, sampler_steps=4)
CONTINUOUS, DISCRETE = ActionSpec(False, 2, (-1.0,) * 2, (1.0,) * 2), ActionSpec(True, 3)


def build(
    options: TrajectoryDiffusionOptions = SMALL, action: ActionSpec = CONTINUOUS
) -> TrajectoryDiffusion:
    """A model with nonzero outputs of its network."""
    spec = DataSpec({"x": ObservationSpec((3,), "float32")}, action, reward_mean_std=(-2.0, 3.0))
    model = models.build(options, spec, KEY)
    kernel = model.network.output.kernel
    kernel[...] = 0.1 * jax.random.normal(KEY, kernel[...].shape)
    return model


def start_of(model: TrajectoryDiffusion, count: int) -> TrajectoryStep:
    keys = jax.random.split(jax.random.key(1), 2)
    point = jax.random.normal(keys[0], (count, 3))
    return TrajectoryStep(point, jax.random.normal(keys[1], (count,)), -jnp.ones(count))


def preferring(features: jax.Array) -> Normal:
    """A policy with mean 0.9 in every dimension."""
    return Normal(jnp.full((*features.shape[:-1], 2), 0.9), jnp.asarray(0.3))


# --------------------------------------------------------------------------------------- guidance


def guided(model: TrajectoryDiffusion, actor: Any) -> Callable[[TrajectoryStep, float], Rollout]:
    """(start, guidance scale) -> a rollout of four steps, compiled once for all scales."""
    graphdef, params = split_module(model)

    @jax.jit
    def rollout(params: Any, start: TrajectoryStep, scale: float) -> Rollout:
        model = nnx.merge(graphdef, params)
        model.options = replace(model.options, guidance_scale=scale)
        return imagine(model, start, actor, 4, KEY)

    return partial(rollout, params)


@pytest.mark.parametrize("schedule, normalize", [("posterior", True), ("pgd", False)])
def test_guidance_increases_the_likelihood_of_actions(schedule: str, normalize: bool) -> None:
    """More with a larger scale; the default scale is positive."""
    options = replace(
        SMALL, guidance_schedule=schedule, normalize_guidance=normalize, sampler_steps=8
    )
    assert options.guidance_scale > 0
    model = build(options)
    start, imagined = start_of(model, 256), guided(model, preferring)

    def likelihood(strength: float) -> float:
        rollout = imagined(start, strength)
        return float(preferring(rollout.features[:, :-1]).log_prob(rollout.actions).mean())

    found = [likelihood(strength) for strength in (0.0, 0.1, 0.3)]
    assert found[1] > found[0] + 0.05 and found[2] > found[1] + 0.05


def test_guidance_affects_discrete_actions() -> None:
    model = build(replace(SMALL, sampler_steps=8), DISCRETE)
    start = start_of(model, 256)

    def second(features: jax.Array) -> Categorical:
        return Categorical.from_logits(jnp.broadcast_to(jnp.asarray([0.0, 4.0, 0.0]), (256, 5, 3)))

    imagined = guided(model, second)

    def share(strength: float) -> float:
        actions = imagined(start, strength).actions
        assert actions.dtype == jnp.int32 and set(np.unique(actions)) <= {0, 1, 2}
        return float((actions == 1).mean())

    assert share(1.0) > share(0.0) + 0.2


def test_the_score_is_the_gradient_in_the_action_channels() -> None:
    """d log N(a; mu, s) / d c = (mu - a) / s^2 / sqrt 3, with a = c / sqrt 3."""
    model, channels = build(), jax.random.normal(KEY, (4, 5, 2))
    score = jax.jit(lambda c: model._score(preferring, jnp.zeros((4, 5, 3)), c))(channels)
    expected = (0.9 - channels / 3**0.5) / 0.3**2 / 3**0.5
    np.testing.assert_allclose(score, expected, rtol=1e-4)


def test_a_uniform_policy_has_no_guidance() -> None:
    def uniform(features: jax.Array) -> Categorical:
        return Categorical.from_logits(jnp.zeros((*features.shape[:-1], 3)))

    model = build(SMALL, DISCRETE)
    channels = jax.random.normal(KEY, (2, 5, model.borders[-1] + 3))
    guided = jax.jit(lambda channels: model._guide(channels, jnp.float32(5.0), uniform))(channels)
    np.testing.assert_allclose(guided, channels, atol=1e-5)


def test_a_zero_score_is_normalized_to_a_finite_one() -> None:
    def indifferent(features: jax.Array) -> Normal:
        return Normal(jnp.zeros((*features.shape[:-1], 2)), jnp.asarray(1e9))

    model = build()
    rollout = jax.jit(lambda s: imagine(model, s, indifferent, 4, KEY))(start_of(model, 3))
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(rollout))


def test_schedules_follow_their_formulas() -> None:
    """As published: (1 - k / N) + 0.3 sin(pi k / N), with k / N the share of the steps done."""
    options = replace(SMALL, sigma_min=0.002, sigma_max=80.0, rho=7.0)
    model = build(replace(options, guidance_schedule="pgd"))
    share = np.linspace(0, 1, 9)
    levels = (80 ** (1 / 7) + share * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    found = model._guidance_schedule(jnp.asarray(levels, jnp.float32))
    np.testing.assert_allclose(found, 1 - share + 0.3 * np.sin(np.pi * share), atol=1e-4)
    model.options = replace(options, guidance_schedule="posterior")
    found = model._guidance_schedule(jnp.asarray([80.0, 1.0, 0.002]))
    np.testing.assert_allclose(found, [1.0, 0.5, 0.0], atol=1e-3)


# ------------------------------------------------------------------------------------ conditioning


def test_condition_on_start_keeps_the_start() -> None:
    held, free = build(), build(replace(SMALL, condition_on_start=False))
    start = start_of(held, 6)
    states = [
        jax.jit(lambda start, m=model: imagine(m, start, preferring, 4, KEY))(start).states
        for model in (held, free)
    ]
    for value, expected in zip(jax.tree.map(lambda x: x[:, 0], states[0]), start, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert float(jnp.abs(states[1].point[:, 0] - start.point).min()) > 1e-4


def test_given_actions_affect_every_later_state() -> None:
    """Other actions lead to other states with the same noise."""
    model, start = build(), start_of(build(), 6)
    actions = jax.random.uniform(KEY, (6, 4, 2), minval=-1)
    rollout = jax.jit(model.rollout)
    first = rollout(start, actions, KEY).point
    other = rollout(start, actions.at[:, 0].multiply(-1), KEY).point
    assert (np.abs(np.subtract(first, other)).max((0, 2)) > 1e-4).all()


@pytest.mark.parametrize("horizon", [4, 11])
def test_long_rollouts_consist_of_segments(horizon: int) -> None:
    """Each starts at the end of the one before."""
    model, start = build(), start_of(build(), 3)
    rollout = jax.jit(lambda start: imagine(model, start, preferring, horizon, KEY))(start)
    assert rollout.states.point.shape == (3, horizon + 1, 3)
    assert rollout.actions.shape == (3, horizon, 2) and rollout.rewards.shape == (3, horizon)
    assert float(jnp.abs(rollout.actions).max()) <= 1.0
    actions = jax.random.uniform(KEY, (3, horizon, 2), minval=-1)
    states = jax.jit(model.rollout)(start, actions, KEY)
    assert states.point.shape == (3, horizon, 3)


def test_incompatible_options_are_refused() -> None:
    stage = StageOptions(steps=1, window=8)
    config = Config(
        name="x", data=GymnasiumData(environment="Pendulum-v1"), policy=NoPolicy(),
        model=TrajectoryDiffusionOptions(segment_length=9), logging=LoggingOptions(),
        training=TrainingOptions(world_model=stage, policy=stage),
    )  # fmt: skip
    assert config_errors(config) == [
        "model.segment_length=9: segments are taken from windows of training.world_model.window=8 "
        "steps; accepted: at most as many"
    ]
    config.model = TrajectoryDiffusionOptions(segment_length=8, sigma_min=5.0, sigma_max=2.0)
    assert config_errors(config) == ["model.sigma_min=5 must be below model.sigma_max=2"]
    config.model = TrajectoryDiffusionOptions(segment_length=8, s_churn=1.0, s_tmin=2.0, s_tmax=1.0)
    assert len(config_errors(config)) == 1 and "s_tmin=2 is above" in config_errors(config)[0]


def test_gradients_of_rollouts_equal_difference_quotients() -> None:
    """Along a random direction in the actions."""
    model, start = build(), start_of(build(), 4)
    actions, direction = jax.random.uniform(KEY, (2, 4, 6, 2), minval=-0.9, maxval=0.9)

    @jax.jit
    def end(actions: jax.Array) -> jax.Array:
        return model.rollout(start, actions, KEY).point[:, -1].sum()

    slope = float((jax.jit(jax.grad(end))(actions) * direction).sum())
    quotient = float(end(actions + 0.01 * direction) - end(actions - 0.01 * direction)) / 0.02
    assert slope == pytest.approx(quotient, rel=0.02) and abs(slope) > 0.1


# ------------------------------------------------------------------------------------- the channels


def window_of(rng: np.random.Generator) -> Window:
    no = jnp.zeros((2, 6), bool)
    return Window(
        observation={"x": jnp.asarray(rng.normal(size=(2, 6, 3)), jnp.float32)},
        action=jnp.asarray(rng.uniform(-1, 1, (2, 6, 2)), jnp.float32),
        reward=jnp.asarray(rng.normal(size=(2, 6)), jnp.float32),
        is_first=no.at[:, 0].set(True), is_last=no.at[0, 3].set(True),
        is_terminal=no.at[0, 3].set(True), mask=(~no).at[0, 4:].set(False),
    )  # fmt: skip


def test_channels_of_the_dataset_and_their_validity(rng: np.random.Generator) -> None:
    """Standardized rewards, and ends, are at the arrival; padding is invalid."""
    model, window = build(), window_of(rng)
    states = jax.jit(model.observe)(window, KEY)
    channels, valid = jax.jit(model._dataset_channels)(states, window)
    np.testing.assert_allclose(channels[1, 1:, 3], (window.reward[1, :-1] + 2) / 3, rtol=1e-5)
    assert channels[..., 4][valid[..., 4]].tolist() == [-1, -1, 1] + [-1] * 5
    np.testing.assert_allclose(channels[1, :-1, 5:], window.action[1, :-1] * 3**0.5, rtol=1e-6)
    assert valid[..., 0].tolist() == window.mask.tolist()  # points
    assert valid[..., 3].tolist() == [[False] + [True] * 3 + [False] * 2, [False] + [True] * 5]
    assert valid[..., 5].tolist() == [[True] * 3 + [False] * 3, [True] * 5 + [False]]
    assert not np.asarray(channels)[~np.asarray(valid)].any()
    np.testing.assert_allclose(states.reward[1, 1:], window.reward[1, :-1])
    ended = model.terminal(states).mean()
    assert float(ended[0, 3]) > 0.999 and float(ended[1].max()) < 1e-3


def test_departures_are_zero_on_predictions_of_the_forward_model(rng: np.random.Generator) -> None:
    model = build()
    channels = jnp.asarray(rng.normal(size=(2, 4, 7)), jnp.float32)
    departure = jax.jit(lambda channels: model._departure(channels, model.forward))
    departures: Any = departure(channels)
    np.testing.assert_array_equal(departures[:, 0], 0)
    for t in range(1, 4):
        # Correct step t by its departure, and it follows step t - 1.
        corrected = channels.at[:, t, :3].add(-departures[:, t])
        np.testing.assert_allclose(departure(corrected)[:, t], 0, atol=1e-5)


def test_network_inputs_in_sampling_match_training(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reward and end of the first arrival are 0; actions are given at all steps or at none."""
    model, window, recorded = build(), window_of(rng), []
    network = TrajectoryDiffusion._network

    def recording(self: Any, x: Any, noise: Any, given: Any, clean: Any) -> Any:
        recorded.append((given, clean))
        return network(self, x, noise, given, clean)

    monkeypatch.setattr(TrajectoryDiffusion, "_network", recording)

    @jax.jit
    def inputs(window: Window) -> list[tuple[jax.Array, jax.Array]]:
        """Of the network in training, and in the last step of a sample with given actions."""
        model.loss(window, KEY)
        model._sample_segment(
            start_of(model, 2), jnp.asarray(True), window.action[:, :4], True, None, KEY
        )
        return [recorded[0], recorded[-1]]

    (trained_known, trained), (given, clean) = jax.tree.map(np.asarray, inputs(window))
    assert trained.shape[1] == clean.shape[1] == SMALL.segment_length
    assert not trained[:, 0, 3:5].any() and not clean[:, 0, 3:5].any()
    assert given[:, 0].all() and not given[:, 1:, :5].any()
    for mask in (trained_known[..., 5:], given[..., 5:]):
        assert (mask == mask[:, :1, :1]).all()
    assert not trained[:, -1, 5:].any() and not clean[:, -1, 5:].any()
