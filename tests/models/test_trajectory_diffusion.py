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

KEY, SMALL = jax.random.key(0), TrajectoryDiffusionOptions(segment_length=5, sampler_steps=2)
CONTINUOUS, DISCRETE = ActionSpec(False, 2, (-1.0,) * 2, (1.0,) * 2), ActionSpec(True, 3)


def build(
    options: TrajectoryDiffusionOptions = SMALL, action: ActionSpec = CONTINUOUS
) -> TrajectoryDiffusion:
    """A model with nonzero outputs of its network."""
    spec = DataSpec({"x": ObservationSpec((3,), "float32")}, action, reward_mean_std=(-2.0, 3.0))
    model = models.build(options, spec, KEY)
    kernel = model.network.output.kernel
    noise = np.random.default_rng(0).normal(size=kernel.shape)
    kernel[...] = jnp.asarray(0.1 * noise, jnp.float32)
    return model


def start_of(count: int) -> TrajectoryStep:
    numbers = np.random.default_rng(1).normal(size=(count, 4)).astype(np.float32)
    return TrajectoryStep(numbers[:, :3], numbers[:, 3], -np.ones(count, np.float32))


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
        SMALL, guidance_schedule=schedule, normalize_guidance=normalize, sampler_steps=4
    )
    assert options.guidance_scale > 0
    model = build(options)
    start, imagined = start_of(256), guided(model, preferring)

    def likelihood(strength: float) -> float:
        rollout = imagined(start, strength)
        return float(preferring(rollout.features[:, :-1]).log_prob(rollout.actions).mean())

    actual = [likelihood(strength) for strength in (0.0, 0.1, 0.3)]
    assert actual[1] > actual[0] + 0.05 and actual[2] > actual[1] + 0.05


def test_guidance_affects_discrete_actions() -> None:
    model = build(replace(SMALL, sampler_steps=4), DISCRETE)
    start = start_of(256)

    def second(features: jax.Array) -> Categorical:
        logits = jnp.asarray([0.0, 4.0, 0.0])
        return Categorical.from_logits(jnp.broadcast_to(logits, (*features.shape[:-1], 3)))

    imagined = guided(model, second)

    def share(strength: float) -> float:
        actions = imagined(start, strength).actions
        assert actions.dtype == jnp.int32 and set(np.unique(actions)) <= {0, 1, 2}
        return float((actions == 1).mean())

    assert share(1.0) > share(0.0) + 0.2


def test_the_score_is_the_gradient_in_the_action_channels() -> None:
    """d log N(a; mu, s) / d c = (mu - a) / s^2 / sqrt 3, with a = c / sqrt 3."""
    model, channels = build(), np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    score = jax.jit(lambda c: model.policy_score(preferring(jnp.zeros((4, 5, 3))), c))(channels)
    expected = (0.9 - channels / 3**0.5) / 0.3**2 / 3**0.5
    np.testing.assert_allclose(score, expected, rtol=1e-4)


def uniform(features: jax.Array) -> Categorical:
    return Categorical.from_logits(jnp.zeros((*features.shape[:-1], 3)))


def indifferent(features: jax.Array) -> Normal:
    return Normal(jnp.zeros((*features.shape[:-1], 2)), jnp.asarray(1e9))


@pytest.mark.parametrize("actor, action", [(uniform, DISCRETE), (indifferent, CONTINUOUS)])
def test_a_policy_without_preferences_has_no_guidance(actor: Any, action: ActionSpec) -> None:
    """The score of length 0 is normalized to a finite one."""
    model = build(SMALL, action)
    channels = np.random.default_rng(0).normal(size=(2, 5, model.borders[-1] + action.size))
    guided = jax.jit(lambda channels: model._guide(channels, jnp.float32(5.0), actor))(channels)
    np.testing.assert_allclose(guided, channels, atol=1e-5)


def test_schedules_follow_their_formulas() -> None:
    """As published: (1 - k / N) + 0.3 sin(pi k / N), with k / N the share of the steps done."""
    options = replace(SMALL, sigma_min=0.002, sigma_max=80.0, rho=7.0)
    model = build(replace(options, guidance_schedule="pgd"))
    share = np.linspace(0, 1, 9)
    levels = (80 ** (1 / 7) + share * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    actual = model._guidance_schedule(jnp.asarray(levels, jnp.float32))
    np.testing.assert_allclose(actual, 1 - share + 0.3 * np.sin(np.pi * share), atol=1e-4)
    model.options = replace(options, guidance_schedule="posterior")
    actual = model._guidance_schedule(jnp.asarray([80.0, 1.0, 0.002]))
    np.testing.assert_allclose(actual, [1.0, 0.5, 0.0], atol=1e-3)


# ------------------------------------------------------------------------------------ conditioning


def test_condition_on_start_keeps_the_start() -> None:
    held, free = build(), build(replace(SMALL, condition_on_start=False))
    start = start_of(6)
    states = [
        jax.jit(lambda start, m=model: imagine(m, start, preferring, 4, KEY))(start).states
        for model in (held, free)
    ]
    for value, expected in zip(jax.tree.map(lambda x: x[:, 0], states[0]), start, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert float(jnp.abs(states[1].point[:, 0] - start.point).min()) > 1e-4


def test_given_actions_affect_every_later_state() -> None:
    """Other actions lead to other states with the same noise."""
    model, start = build(), start_of(6)
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 4, 2))
    rollout = jax.jit(model.rollout)
    first = rollout(start, actions, KEY).point
    actions[:, 0] *= -1
    other = rollout(start, actions, KEY).point
    assert (np.abs(np.subtract(first, other)).max((0, 2)) > 1e-4).all()


def test_long_rollouts_consist_of_segments() -> None:
    """Each starts at the end of the one before."""
    model, start, horizon = build(), start_of(3), 11
    rollout = jax.jit(lambda start: imagine(model, start, preferring, horizon, KEY))(start)
    assert rollout.states.point.shape == (3, horizon + 1, 3)
    assert rollout.actions.shape == (3, horizon, 2) and rollout.rewards.shape == (3, horizon)
    assert float(jnp.abs(rollout.actions).max()) <= 1.0
    states = jax.eval_shape(model.rollout, start, rollout.actions, KEY)
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
    model, start = build(), start_of(4)
    actions, direction = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 4, 6, 2))

    @jax.jit
    @jax.value_and_grad
    def end(actions: jax.Array) -> jax.Array:
        return model.rollout(start, actions, KEY).point[:, -1].sum()

    slope = float((end(actions)[1] * direction).sum())
    ends = [float(end(actions + sign * 0.01 * direction)[0]) for sign in (1, -1)]
    quotient = (ends[0] - ends[1]) / 0.02
    assert slope == pytest.approx(quotient, rel=0.02) and abs(slope) > 0.1


# ------------------------------------------------------------------------------------- the channels


def window_of(rng: np.random.Generator) -> Window:
    steps, first = np.arange(6), np.array([[True], [False]])  # the first window has four steps
    ends = first & (steps == 3)
    return Window(
        observation={"x": rng.normal(size=(2, 6, 3)).astype(np.float32)},
        action=rng.uniform(-1, 1, (2, 6, 2)).astype(np.float32),
        reward=rng.normal(size=(2, 6)).astype(np.float32),
        is_first=(steps == 0) | np.zeros((2, 1), bool), is_last=ends,
        is_terminal=ends, mask=~first | (steps < 4),
    )  # fmt: skip


def test_channels_of_the_dataset_and_their_validity(rng: np.random.Generator) -> None:
    """Standardized rewards, and ends, are at the arrival; padding is invalid."""
    model, window = build(), window_of(rng)

    @jax.jit
    def outputs(window: Window) -> tuple:
        states = model.observe(window, KEY)
        return states, *model._dataset_channels(states, window), model.terminal(states).mean()

    states, channels, valid, ended = jax.device_get(outputs(window))
    np.testing.assert_allclose(channels[1, 1:, 3], (window.reward[1, :-1] + 2) / 3, rtol=1e-5)
    assert channels[..., 4][valid[..., 4]].tolist() == [-1, -1, 1] + [-1] * 5
    np.testing.assert_allclose(channels[1, :-1, 5:], window.action[1, :-1] * 3**0.5, rtol=1e-6)
    assert valid[..., 0].tolist() == window.mask.tolist()  # points
    assert valid[..., 3].tolist() == [[False] + [True] * 3 + [False] * 2, [False] + [True] * 5]
    assert valid[..., 5].tolist() == [[True] * 3 + [False] * 3, [True] * 5 + [False]]
    assert not channels[~valid].any()
    np.testing.assert_allclose(states.reward[1, 1:], window.reward[1, :-1])
    assert float(ended[0, 3]) > 0.999 and float(ended[1].max()) < 1e-3


def test_departures_are_zero_on_predictions_of_the_forward_model(rng: np.random.Generator) -> None:
    model = build()
    channels = rng.normal(size=(2, 4, 7)).astype(np.float32)
    departure = jax.jit(lambda channels: model._departure(channels, model.forward))
    departures = np.asarray(departure(channels))
    np.testing.assert_array_equal(departures[:, 0], 0)
    for t in range(1, 4):
        # Correct step t by its departure, and it follows step t - 1.
        corrected = channels.copy()
        corrected[:, t, :3] -= departures[:, t]
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
        model._sample_segment(start_of(2), jnp.asarray(True), window.action[:, :4], None, KEY)
        return [recorded[0], recorded[-1]]

    (trained_known, trained), (given, clean) = jax.tree.map(np.asarray, inputs(window))
    assert trained.shape[1] == clean.shape[1] == SMALL.segment_length
    assert not trained[:, 0, 3:5].any() and not clean[:, 0, 3:5].any()
    assert given[:, 0].all() and not given[:, 1:, :5].any()
    for mask in (trained_known[..., 5:], given[..., 5:]):
        assert (mask == mask[:, :1, :1]).all()
    assert not trained[:, -1, 5:].any() and not clean[:, -1, 5:].any()
