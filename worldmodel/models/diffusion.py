"""A diffusion model of the next observation, given a short history and the action (as DIAMOND,
Alonso et al., arXiv 2405.12399, for vectors and latents).

It denoises the change of the point in units of the typical change in a step, so that targets have
unit size and a sample's error is relative to the step, not to the range. Training also continues
from the model's own samples, because rollouts are conditioned on such histories.

State: the last K points and the K - 1 actions between them. Before the first step of an episode,
the first point is repeated, with zero actions. With K = 1 the state has no action, so that rewards
that depend on one cannot be predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.models.diffusion_base import (
    DIFFUSION_PRESETS,
    BaseDiffusionModel,
    BaseDiffusionOptions,
    build_sampler,
)
from worldmodel.models.interface import Metrics
from worldmodel.models.latent import has_predecessor, masked_mean, total_loss
from worldmodel.models.unobserved import predict_unobserved
from worldmodel.nn.denoisers import PointDenoiser
from worldmodel.nn.denoising import denoiser, denoising_loss, sample_training_sigmas
from worldmodel.nn.learner import detached
from worldmodel.nn.samplers import initial_noise, sample


class History(NamedTuple):
    """points: (..., K, D); actions: (..., K - 1, A) between them."""

    points: jax.Array
    actions: jax.Array


@dataclass
class DiffusionOptions(BaseDiffusionOptions):
    """Diffusion of the next observation, given a short history and the action."""

    name: str = option("diffusion", "family of the world model")
    history: int = option(2, "steps that the next one is conditioned on", low=1, high=64)
    autoregressive_steps: int = option(
        2, "steps that training continues from the model's own samples", low=0
    )
    autoregressive_scale: float = option(0.5, "weight of the loss of each of them", low=0.0)


@register("model", "diffusion", DiffusionOptions)
class Diffusion(BaseDiffusionModel):
    """p(next point | history, action) by a denoiser; reward and end by heads."""

    def __init__(
        self, options: DiffusionOptions, spec: DataSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ):
        units, blocks, hidden, _ = DIFFUSION_PRESETS[options.preset]
        self.options = options
        self.add_points(options, spec, rngs=rngs, dtype=dtype)
        steps, actions = options.history, spec.action.vector_size
        self.feature_size = steps * self.point_size + (steps - 1) * actions
        conditioning = self.feature_size + actions
        self.network = PointDenoiser(
            self.point_size, conditioning, units, blocks, rngs=rngs, dtype=dtype
        )
        self.add_heads(spec, self.feature_size, hidden, rngs=rngs, dtype=dtype)

    # -------------------------------------------------------------------------------- the interface

    def initial(self, batch: tuple[int, ...]) -> History:
        steps = self.options.history
        points = jnp.zeros((*batch, steps, self.point_size), jnp.float32)
        return History(points, jnp.zeros((*batch, steps - 1, self.action.vector_size), jnp.float32))

    def features(self, state: History) -> jax.Array:
        flat = [x.reshape(*x.shape[:-2], -1) for x in state]
        return jnp.concatenate(flat, -1)

    def point(self, state: History) -> jax.Array:
        return state.points[..., -1, :]

    def step(self, state: History, action: jax.Array, key: jax.Array) -> History:
        start_key, churn_key = jax.random.split(key)
        actions, sampler = self.action_points(action), build_sampler(self.options)
        given = self._given(state, actions)
        denoise = denoiser(lambda x, noise: self.network(x, noise, given))
        point = self.point(state)
        noise = initial_noise(start_key, point.shape, sampler)
        change = sample(denoise, noise, sampler, churn_key)
        return append_step(state, actions, point + self.change() * change)

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: History | None = None,
        action: jax.Array | None = None,
    ) -> History:
        points, actions = self.encode(window.observation), self.action_points(window.action)
        is_first = window.is_first
        if state is None:
            state, is_first = self.initial(window.shape[:1]), is_first.at[:, 0].set(True)
        last = jnp.zeros_like(actions[:, 0]) if action is None else self.action_points(action)
        histories = build_histories(state, last, points, actions, is_first)
        predicted = predict_unobserved(detached(self), histories, window, key, state, action)
        return jax.lax.stop_gradient(predicted) if window.observed is not None else histories

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, History]]:
        """Denoising of every next point, given histories of the dataset and histories that end in
        the model's own samples; and the losses of the heads on the dataset.
        """
        states = self.observe(window, key)
        terms, scales = self.outcome_losses(states, window), {}
        points, length = self.point(states), window.shape[1]
        # valid: steps with a history of which the last `number` steps are sampled.
        valid = has_predecessor(window) & window.observation_mask
        histories = states  # from step `number` on
        keys = jax.random.split(key, min(self.options.autoregressive_steps, length - 2) + 1)
        for number, (noise_key, step_key) in enumerate(map(jax.random.split, keys)):
            before = jax.tree.map(lambda x: x[:, :-1], histories)
            action = window.action[:, number:-1]
            losses = self._denoising(before, action, points[:, number + 1 :], noise_key)
            name = f"denoising/{number}" if number else "denoising"
            terms[name] = (jnp.pad(losses, ((0, 0), (number + 1, 0))), valid)
            scales[name] = self.options.autoregressive_scale if number else 1.0
            valid = valid & jnp.pad(valid[:, :-1], ((0, 0), (1, 0)))
            histories = jax.lax.stop_gradient(detached(self).step(before, action, step_key))
        total, metrics = total_loss(terms, scales, window.shape)
        metrics["latent/mean_square"] = masked_mean(jnp.square(points).mean(-1), window.mask)
        return total, (metrics, states)

    # --------------------------------------------------------------------------------------- parts

    def _given(self, state: History, actions: jax.Array) -> jax.Array:
        """The conditioning of the network: the history and the actions (..., A)."""
        return self.network.from_conditioning(jnp.concatenate([self.features(state), actions], -1))

    def _denoising(
        self, state: History, action: jax.Array, target: jax.Array, key: jax.Array
    ) -> jax.Array:
        """The loss (...) of denoising the points `target` (..., D), each at its own noise level."""
        level_key, noise_key = jax.random.split(key)
        change = (target - self.point(state)) / self.change()
        level = sample_training_sigmas(
            level_key, change.shape[:-1], self.options.p_mean, self.options.p_std
        )
        given = self._given(state, self.action_points(action))
        return denoising_loss(
            lambda x, noise: self.network(x, noise, given), change, level, noise_key
        )


def append_step(state: History, actions: jax.Array, points: jax.Array) -> History:
    """The next history, after actions (..., A) that led to points (..., D)."""

    def append(steps: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.concatenate([steps, new[..., None, :]], -2)[..., 1:, :]

    return History(append(state.points, points), append(state.actions, actions))


def build_histories(
    state: History, last: jax.Array, points: jax.Array, actions: jax.Array, is_first: jax.Array
) -> History:
    """The histories (B, T, ...) that end at each step of points (B, T, D), with actions (B, T, A).

    state: (B, ...) of the step before
    last: (B, A), the action of that step
    is_first: (B, T), where a history starts
    """
    steps, length = state.points.shape[1], points.shape[1]
    points = jnp.concatenate([state.points, points], 1)
    actions = jnp.concatenate([state.actions, last[:, None], actions], 1)
    at = steps + jnp.arange(length)
    start = jax.lax.cummax(jnp.where(is_first, at, 0), axis=1)  # (B, T)
    first = jnp.take_along_axis(points, start[..., None], 1)

    steps_before = at[:, None] - jnp.arange(steps - 1, -1, -1)  # (T, K), of each history
    known = (steps_before >= start[..., None])[..., None]  # (B, T, K, 1)
    return History(
        jnp.where(known, points[:, steps_before], first[..., None, :]),
        jnp.where(known[:, :, :-1], actions[:, steps_before[:, :-1]], 0.0),
    )
