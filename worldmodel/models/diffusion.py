"""A generative step: the next observation is denoised, given a short history and the action (as in
DIAMOND, Alonso et al., arXiv 2405.12399, for vectors and latents).

What is denoised is the change of the point, in units of what a step typically changes: networks are
then asked for numbers of size 1, and a sample's error is a share of the step, not of the range.
Training also continues from the model's own samples, so that what it says far ahead rests on
histories of the kind that it makes itself.

State: the last K points and the K - 1 actions between them. After a reset, rows before the first
one repeat it, with zero actions. With K = 1 it holds no action, so rewards that depend on one
cannot be told.
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
from worldmodel.nn.denoisers import PointDenoiser
from worldmodel.nn.denoising import denoiser, denoising_loss, sample_training_sigmas
from worldmodel.nn.learner import detached
from worldmodel.nn.samplers import initial_noise, sample


class History(NamedTuple):
    """points: (..., K, D); actions: (..., K - 1, A), each led from one point to the next."""

    points: jax.Array
    actions: jax.Array


@dataclass
class DiffusionOptions(BaseDiffusionOptions):
    """The next observation is denoised, given a short history and the action."""

    name: str = option("diffusion", "family of the world model")
    history: int = option(
        2,
        "rows that the next one is predicted from",
        low=1,
        high=64,
    )
    autoregressive_steps: int = option(
        2, "most rows of a training history that are the model's own samples", low=0
    )
    autoregressive_scale: float = option(
        0.5, "weight of the loss that follows each of them", low=0.0
    )


@register("model", "diffusion", DiffusionOptions)
class Diffusion(BaseDiffusionModel):
    """p(next point | history, action) by a denoiser; reward and end by heads."""

    def __init__(
        self,
        options: DiffusionOptions,
        spec: DataSpec,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        units, blocks, hidden, _ = DIFFUSION_PRESETS[options.preset]
        self.add_points(options, spec, rngs=rngs, dtype=dtype)
        rows, actions = options.history, spec.action.size
        self.feature_size = rows * self.point_size + (rows - 1) * actions
        known = self.feature_size + actions
        self.network = PointDenoiser(self.point_size, known, units, blocks, rngs=rngs, dtype=dtype)
        self.add_heads(spec, self.feature_size, hidden, rngs=rngs, dtype=dtype)

    # -------------------------------------------------------------------------------- the interface

    def initial(self, batch: tuple[int, ...]) -> History:
        rows = self.options.history
        points = jnp.zeros((*batch, rows, self.point_size), jnp.float32)
        return History(points, jnp.zeros((*batch, rows - 1, self.action.size), jnp.float32))

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
        now = self.point(state)
        change = sample(denoise, initial_noise(start_key, now.shape, sampler), sampler, churn_key)
        return append_step(state, actions, now + self.change() * change)

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: History | None = None,
        action: jax.Array | None = None,
    ) -> History:
        points, actions = self.encode(window.observation), self.action_points(window.action)
        begins = window.is_first
        if state is None:
            state, begins = self.initial(window.shape[:1]), begins.at[:, 0].set(True)
        last = jnp.zeros_like(actions[:, 0]) if action is None else self.action_points(action)
        return build_histories(state, last, points, actions, begins)

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, History]]:
        """Denoising of every next point, given the logged history and given histories that end in
        the model's own samples; and what the heads say of the logged ones.
        """
        states = self.observe(window, key)
        terms, scales = self.outcome_losses(states, window), {}
        points, rows = self.point(states), window.shape[1]
        # reached: rows that follow a history of which the last `number` rows are sampled.
        reached = has_predecessor(window)
        fed = states  # at row `number` and after
        keys = jax.random.split(key, min(self.options.autoregressive_steps, rows - 2) + 1)
        for number, (noise_key, step_key) in enumerate(map(jax.random.split, keys)):
            here, taken = jax.tree.map(lambda x: x[:, :-1], fed), window.action[:, number:-1]
            losses = self._denoising(here, taken, points[:, number + 1 :], noise_key)
            name = f"denoising/{number}" if number else "denoising"
            terms[name] = (jnp.pad(losses, ((0, 0), (number + 1, 0))), reached)
            scales[name] = self.options.autoregressive_scale if number else 1.0
            reached = reached & jnp.pad(reached[:, :-1], ((0, 0), (1, 0)))
            fed = jax.lax.stop_gradient(detached(self).step(here, taken, step_key))
        total, metrics = total_loss(terms, scales, window.shape)
        metrics["latent/mean_square"] = masked_mean(jnp.square(points).mean(-1), window.mask)
        return total, (metrics, states)

    # --------------------------------------------------------------------------------------- parts

    def _given(self, state: History, actions: jax.Array) -> jax.Array:
        """What the network knows: the history, and the actions (..., A) taken now."""
        return self.network.from_known(jnp.concatenate([self.features(state), actions], -1))

    def _denoising(
        self, state: History, action: jax.Array, aim: jax.Array, key: jax.Array
    ) -> jax.Array:
        """The loss (...) of denoising the points `aim` (..., D), each at a level of its own."""
        level_key, noise_key = jax.random.split(key)
        change = (aim - self.point(state)) / self.change()
        spread = (self.options.p_mean, self.options.p_std)
        level = sample_training_sigmas(level_key, change.shape[:-1], *spread)
        given = self._given(state, self.action_points(action))
        return denoising_loss(
            lambda x, noise: self.network(x, noise, given), change, level, noise_key
        )


def append_step(state: History, actions: jax.Array, points: jax.Array) -> History:
    """The history one row on, after actions (..., A) that led to points (..., D)."""

    def append(rows: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.concatenate([rows, new[..., None, :]], -2)[..., 1:, :]

    return History(append(state.points, points), append(state.actions, actions))


def build_histories(
    state: History, last: jax.Array, points: jax.Array, actions: jax.Array, begins: jax.Array
) -> History:
    """The history that ends at each row of points (B, T, D), with actions (B, T, A) taken there.

    state: of the row before, where `last` (B, A) was done; begins: (B, T) where it is forgotten
    """
    rows, length = state.points.shape[1], points.shape[1]
    points = jnp.concatenate([state.points, points], 1)
    actions = jnp.concatenate([state.actions, last[:, None], actions], 1)
    at = rows + jnp.arange(length)
    since = jax.lax.cummax(jnp.where(begins, at, 0), axis=1)  # (B, T)
    first = jnp.take_along_axis(points, since[..., None], 1)

    def remembered(values: jax.Array, back: int, before: jax.Array | float) -> jax.Array:
        """Rows of `values`, `back` rows earlier, or what stands for them before a reset."""
        earlier = values[:, rows - back : rows - back + length]
        return jnp.where((at - back >= since)[..., None], earlier, before)

    backs = range(rows - 1, -1, -1)
    return History(
        jnp.stack([remembered(points, back, first) for back in backs], -2),
        _stacked([remembered(actions, back, 0.0) for back in backs[:-1]], actions[:, :length]),
    )


def _stacked(rows: list[jax.Array], like: jax.Array) -> jax.Array:
    """(B, T, len(rows), A), also where there is none."""
    return jnp.stack(rows, -2) if rows else jnp.zeros((*like.shape[:-1], 0, like.shape[-1]))
