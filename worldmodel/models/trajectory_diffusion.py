"""Diffusion of trajectory segments: points, rewards, ends and actions are denoised together (as in
policy-guided diffusion, Jackson et al., RLC 2024, arXiv 2404.06356).

Nothing is fed back from step to step, so errors do not accumulate along a segment. Segments can be
conditioned on the start and on all actions. A policy guides the actions by its score: the denoised
actions move along the gradient of log pi(a | s), so that samples stay near the dataset while the
policy finds them likely. They are not samples of the policy, which biases algorithms that reinforce
the actions of the policy. Longer rollouts consist of segments, each conditioned on the end of the
one before.

State: the point, and the reward and end of the arrival there. There is no memory, so the
observation has to be the whole state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.config import Config, option
from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.models.diffusion_base import (
    DIFFUSION_PRESETS,
    BaseDiffusionModel,
    BaseDiffusionOptions,
    build_sampler,
)
from worldmodel.models.interface import Actor, Metrics, State
from worldmodel.models.latent import (
    Terms,
    arrival_reward,
    has_predecessor,
    masked_mean,
    random_segments,
    require_reward,
    total_loss,
)
from worldmodel.models.unobserved import predict_unobserved
from worldmodel.nn.denoisers import SequenceDenoiser
from worldmodel.nn.denoising import denoiser, preconditioning, sample_training_sigmas
from worldmodel.nn.distributions import Bernoulli, ScalarMSE
from worldmodel.nn.layers import MLP, Linear
from worldmodel.nn.learner import detached
from worldmodel.nn.samplers import initial_noise, sample

CERTAIN = 10.0  # logit of an end of 1: a probability within 5e-5 of 1
MAX_DEPARTURE = 5.0  # from the predicted step, in units of the noise
# Shares of the training segments that are conditioned on the start, and on the actions.
START_GIVEN, ACTIONS_GIVEN = 0.8, 0.5


class TrajectoryStep(NamedTuple):
    """point: (..., D); reward: (...); end: (...), 1 where the episode has ended, else -1."""

    point: jax.Array
    reward: jax.Array
    end: jax.Array


class ForwardModel(nnx.Module):
    """Points and actions (..., D + A) -> changes (..., D), in units of the typical change."""

    def __init__(self, inputs: int, outputs: int, units: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.hidden = MLP(inputs, units, 2, rngs=rngs, dtype=dtype)
        self.output = Linear(units, outputs, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.output(self.hidden(x)).astype(jnp.float32)


@dataclass
class TrajectoryDiffusionOptions(BaseDiffusionOptions):
    """Diffusion of trajectory segments, guided by the policy."""

    name: str = option("trajectory_diffusion", "family of the world model")
    segment_length: int = option(
        16, "steps of a segment (at most training.world_model.window)", low=2
    )
    condition_on_start: bool = option(
        True, "rollouts of policies begin at the given state, or anywhere", sampling=True
    )
    guidance_scale: float = option(
        0.5, "strength of the guidance by the policy (0: none)", low=0.0, sampling=True
    )
    guidance_schedule: str = option(
        "posterior",
        "guidance over noise levels: by posterior variance, or by steps as published (pgd)",
        choices=("posterior", "pgd"),
        sampling=True,
    )
    normalize_guidance: bool = option(
        True, "divide the score by its root mean square over the segment", sampling=True
    )
    sampler_steps: int = option(
        16, "noise levels of the sampler (heun: twice the calls)", low=1, sampling=True
    )
    sigma_max: float = option(20.0, "highest noise level of the sampler", low=1e-6, sampling=True)
    p_mean: float = option(-0.5, "mean of the log noise level in training")

    def errors(self, config: Config) -> Iterator[str]:
        yield from super().errors(config)
        window = config.training.world_model.window
        if self.segment_length > window:
            yield (
                f"model.segment_length={self.segment_length}: segments are taken from windows of "
                f"training.world_model.window={window} steps; accepted: at most as many"
            )
        if config.training.joint and not self.condition_on_start:
            yield (
                "model.condition_on_start=false: joint training needs rollouts from the states of "
                "the dataset; accepted: model.condition_on_start=true or training.joint=false"
            )


@register("model", "trajectory_diffusion", TrajectoryDiffusionOptions)
class TrajectoryDiffusion(BaseDiffusionModel):
    """Channels of a step: its point, reward and end of the arrival there, and its action."""

    autoregressive = False
    options: TrajectoryDiffusionOptions

    def __init__(self, options: Any, spec: DataSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        units, blocks, _, _ = DIFFUSION_PRESETS[options.preset]
        self.options = options
        self.add_points(options, spec, rngs=rngs, dtype=dtype)
        self.feature_size, actions = self.point_size, spec.action.vector_size
        self.has_reward, self.reward_moments = spec.has_reward, spec.reward_mean_std
        # The first channels of reward, end and action.
        end = self.point_size + spec.has_reward
        self.borders = (self.point_size, end, end + 1)
        channels = self.borders[-1] + actions
        conditioning = channels + 2 * self.point_size
        self.network = SequenceDenoiser(
            channels, conditioning, units, 2 * blocks, rngs=rngs, dtype=dtype
        )
        self.forward = ForwardModel(
            self.point_size + actions, self.point_size, units, rngs=rngs, dtype=dtype
        )

    # -------------------------------------------------------------------------------- the interface

    def initial(self, batch: tuple[int, ...]) -> TrajectoryStep:
        point = jnp.zeros((*batch, self.point_size), jnp.float32)
        return TrajectoryStep(point, jnp.zeros(batch, jnp.float32), -jnp.ones(batch, jnp.float32))

    def point(self, state: TrajectoryStep) -> jax.Array:
        return state.point

    def features(self, state: TrajectoryStep) -> jax.Array:
        return state.point

    def reward(self, state: TrajectoryStep) -> ScalarMSE:
        require_reward(self.has_reward)
        return ScalarMSE(state.reward, self.reward_moments[1])

    def terminal(self, state: TrajectoryStep) -> Bernoulli:
        return Bernoulli(CERTAIN * state.end)

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: TrajectoryStep | None = None,
        action: jax.Array | None = None,
    ) -> TrajectoryStep:
        states = self._dataset_states(window)
        predicted = predict_unobserved(self, states, window, key, state, action)
        return states._replace(point=predicted.point)

    def step(self, state: TrajectoryStep, action: jax.Array, key: jax.Array) -> TrajectoryStep:
        return jax.tree.map(lambda x: x[:, 0], self.rollout(state, action[:, None], key))

    def rollout(self, state: TrajectoryStep, actions: jax.Array, key: jax.Array) -> TrajectoryStep:
        states, _ = self._sample_segments(state, self.action_points(actions), actions.shape[1], key)
        return jax.tree.map(lambda x: x[:, 1:], states)

    def rollout_policy(
        self, state: TrajectoryStep, actor: Actor, horizon: int, key: jax.Array
    ) -> tuple[TrajectoryStep, jax.Array]:
        states, channels = self._sample_segments(state, actor, horizon, key)
        return states, self.actions_of(channels)

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, State]]:
        """Denoising of a segment of every window, each at one noise level, given its start and its
        actions or not; and the error of the forward model.
        """
        states = self._dataset_states(window)
        segment_key, key = jax.random.split(key)
        length = min(self.options.segment_length, window.shape[1])
        segment_states, segment = random_segments((states, window), length, segment_key)
        clean, valid = self._dataset_channels(segment_states, segment)
        terms = self._denoising(clean, valid, key)
        error = jnp.square(self._departure(clean, self.forward) / self.change()).sum(-1)
        terms["forward"] = (error, has_predecessor(segment) & segment.observation_mask)
        total, metrics = total_loss(terms, {}, segment.shape)
        size = jnp.square(states.point).mean(-1)
        metrics["latent/mean_square"] = masked_mean(size, window.observation_mask)
        return total, (metrics, states)

    # ----------------------------------------------------------------------------------- training

    def _denoising(self, clean: jax.Array, valid: jax.Array, key: jax.Array) -> Terms:
        """Losses of the channels (B, T, C) that are valid and not conditioned on."""
        keys, batch = jax.random.split(key, 4), clean.shape[0]
        first = jnp.arange(clean.shape[1]) == 0
        start = jax.random.bernoulli(keys[0], START_GIVEN, (batch, 1)) & first
        actions = jax.random.bernoulli(keys[1], ACTIONS_GIVEN, (batch, 1)) | jnp.zeros_like(first)
        given = self._channel_masks(start, start, actions)
        level = sample_training_sigmas(keys[2], (batch,), self.options.p_mean, self.options.p_std)
        c = jax.tree.map(lambda x: x[:, None, None], preconditioning(level))
        noised = clean + level[:, None, None] * jax.random.normal(keys[3], clean.shape)
        output = self._network(c.c_in * noised, c.c_noise[:, 0, 0], given, clean)
        learned = valid & ~given
        target = (clean - c.c_skip * noised) / c.c_out
        error = jnp.where(learned, jnp.square(output - target), 0.0)
        names = ("denoising", "reward", "terminal", "action")
        parts = (jnp.split(x, self.borders, -1) for x in (error, learned))
        return {
            name: (loss.sum(-1), mask.any(-1))
            for name, loss, mask in zip(names, *parts, strict=True)
            if loss.shape[-1]
        }

    def _dataset_states(self, window: Window) -> TrajectoryStep:
        end = jnp.where(has_predecessor(window) & window.is_terminal, 1.0, -1.0)
        return TrajectoryStep(self.encode(window.observation), arrival_reward(window), end)

    def _dataset_channels(
        self, states: TrajectoryStep, window: Window
    ) -> tuple[jax.Array, jax.Array]:
        """Channels of the dataset (B, T, C), and which of them are valid; the others are 0."""
        # The outcome of the last action is not in the segment.
        has_action = (window.mask & ~window.is_last).at[:, -1].set(False)
        channels = self._channels(states, self.action_points(window.action))
        observed = window.observation_mask
        valid = self._channel_masks(observed, has_predecessor(window), has_action)
        return jnp.where(valid, channels, 0.0), valid

    # ----------------------------------------------------------------------------------- sampling

    def _sample_segments(
        self, state: TrajectoryStep, actor: jax.Array | Actor, horizon: int, key: jax.Array
    ) -> tuple[TrajectoryStep, jax.Array]:
        """States (B, horizon + 1, ...) and action channels (B, horizon, A), sampled in segments of
        the trained length.

        actor: what guides the actions, or action channels (B, horizon, A) to condition on
        """
        steps, batch = self.options.segment_length - 1, state.reward.shape[0]
        count = math.ceil(horizon / steps)
        if isinstance(actor, jax.Array):
            padding = ((0, 0), (0, count * steps - horizon), (0, 0))
            channels, guide, from_state = jnp.pad(actor, padding, mode="edge"), None, True
        else:
            channels = jnp.zeros((batch, count * steps, self.action.vector_size))
            guide, from_state = actor, self.options.condition_on_start
        channels = jnp.swapaxes(channels.reshape(batch, count, steps, -1), 0, 1)

        def advance(
            state: TrajectoryStep, inputs: tuple[jax.Array, jax.Array, jax.Array]
        ) -> tuple[TrajectoryStep, tuple[TrajectoryStep, jax.Array]]:
            start_given, actions, key = inputs
            segment = self._sample_segment(state, start_given, actions, guide, key)
            states, sampled = self._states(segment), segment[:, :-1, self.borders[-1] :]
            return jax.tree.map(lambda x: x[:, -1], states), (states, sampled)

        inputs = (jnp.arange(count) >= 1 - from_state, channels, jax.random.split(key, count))
        _, (states, sampled) = jax.lax.scan(advance, state, inputs)
        first = state if from_state else jax.tree.map(lambda x: x[0, :, 0], states)
        # Segments overlap in one step: the last of one is the first of the next.
        rest = jax.tree.map(lambda x: _join(x[:, :, 1:])[:, :horizon], states)
        states = jax.tree.map(lambda a, b: jnp.concatenate([a[:, None], b], 1), first, rest)
        return states, _join(sampled)[:, :horizon]

    def _sample_segment(
        self,
        state: TrajectoryStep,
        start_given: jax.Array,
        actions: jax.Array,
        actor: Actor | None,
        key: jax.Array,
    ) -> jax.Array:
        """Channels (B, T, C) of a segment that starts at `state` if `start_given`, with the actions
        (B, T - 1, A) unless an actor guides them.
        """
        noise_key, churn_key = jax.random.split(key)
        first = jnp.arange(actions.shape[1] + 1) == 0
        repeated = jax.tree.map(lambda x: jnp.repeat(x[:, None], len(first), 1), state)
        clean = self._channels(repeated, jnp.pad(actions, ((0, 0), (0, 1), (0, 0))))
        # As in training, reward and end of the arrival at the first step are 0.
        clean = clean.at[:, 0, self.borders[0] : self.borders[-1]].set(0.0)
        shape = clean.shape[:2]
        start = jnp.broadcast_to(first & start_given, shape)
        given = self._channel_masks(start, start, jnp.full(shape, actor is None))
        denoise = denoiser(lambda x, noise: self._network(x, noise, given, clean))

        def denoise_given(x: jax.Array, level: jax.Array) -> jax.Array:
            denoised = jnp.where(given, clean, denoise(x, level))
            return denoised if actor is None else self._guide(denoised, level, actor)

        sampler = build_sampler(self.options)
        noise = initial_noise(noise_key, clean.shape, sampler)
        return sample(denoise_given, noise, sampler, churn_key)

    def _guide(self, denoised: jax.Array, level: jax.Array, actor: Actor) -> jax.Array:
        """Denoised channels with actions moved along the score of the actor."""
        states, actions = self._states(denoised), denoised[..., self.borders[-1] :]
        score = self.policy_score(actor(jax.lax.stop_gradient(self.features(states))), actions)
        if self.options.normalize_guidance:
            square = jnp.square(score).mean((-2, -1), keepdims=True)
            score = score / (jnp.sqrt(square + 1e-16) + 1e-8)
        weight = self.options.guidance_scale * self._guidance_schedule(level)
        return denoised.at[..., self.borders[-1] :].add(weight * score)

    def _guidance_schedule(self, level: jax.Array) -> jax.Array:
        """posterior: the posterior variance of standardized data at this level; pgd: by the share
        of steps done.
        """
        if self.options.guidance_schedule == "posterior":
            return jnp.square(level) / (1 + jnp.square(level))
        low, high, rho = self.options.sigma_min, self.options.sigma_max, self.options.rho
        ends = high ** (1 / rho), low ** (1 / rho)
        done = jnp.clip((level ** (1 / rho) - ends[0]) / (ends[1] - ends[0]), 0, 1)
        return 1 - done + 0.3 * jnp.sin(jnp.pi * done)

    # --------------------------------------------------------------------------------------- parts

    def _network(
        self, scaled: jax.Array, noise: jax.Array, given: jax.Array, clean: jax.Array
    ) -> jax.Array:
        """F of channels (..., T, C), of which the given ones are clean.

        Its inputs include the departure of each step from the prediction of the forward model, in
        units of the noise, and the cumulative sum: of unit size at every level, and small for
        samples.
        """
        noise = jnp.broadcast_to(noise, scaled.shape[:-2])
        level = jnp.exp(4 * noise)[..., None, None]
        noised = jnp.where(given, clean, scaled / preconditioning(level).c_in)
        departure = self._departure(noised, detached(self.forward)) / level
        departure = MAX_DEPARTURE * jnp.tanh(departure / MAX_DEPARTURE)
        conditioning = [given.astype(jnp.float32), departure, jnp.cumsum(departure, -2)]
        inputs = jnp.where(given, clean, scaled)
        return self.network(inputs, noise, jnp.concatenate(conditioning, -1))

    def _departure(self, channels: jax.Array, forward: ForwardModel) -> jax.Array:
        """Points less their prediction by the forward model, (..., T, D); 0 at the first step."""
        points, actions = channels[..., : self.point_size], channels[..., self.borders[-1] :]
        change = forward(jnp.concatenate([points, actions], -1)[..., :-1, :])
        difference = jnp.diff(points, axis=-2) - self.change() * change
        return jnp.concatenate([jnp.zeros_like(points[..., :1, :]), difference], -2)

    def _channels(self, states: TrajectoryStep, actions: jax.Array) -> jax.Array:
        mean, std = self.reward_moments
        reward = [(states.reward[..., None] - mean) / std] if self.has_reward else []
        return jnp.concatenate([states.point, *reward, states.end[..., None], actions], -1)

    def _states(self, channels: jax.Array) -> TrajectoryStep:
        mean, std = self.reward_moments
        point, reward, end, _ = jnp.split(channels, self.borders, -1)
        reward = reward[..., 0] * std + mean if self.has_reward else jnp.zeros(end.shape[:-1])
        return TrajectoryStep(point, reward, jnp.clip(end[..., 0], -1, 1))

    def _channel_masks(self, *masks: jax.Array) -> jax.Array:
        """(..., T, C), from masks (..., T) of the points, of reward and end, and of the actions."""
        sizes = (self.point_size, self.borders[-1] - self.point_size, self.action.vector_size)
        return jnp.stack(masks, -1)[..., np.repeat(range(3), sizes)]


def _join(segments: jax.Array) -> jax.Array:
    """(count, B, steps, ...) -> (B, count x steps, ...)."""
    return jnp.swapaxes(segments, 0, 1).reshape(segments.shape[1], -1, *segments.shape[3:])
