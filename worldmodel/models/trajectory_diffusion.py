"""A whole piece of a trajectory is denoised at once: points, rewards, ends and actions (as in
policy-guided diffusion, Jackson et al., RLC 2024, arXiv 2404.06356).

Nothing is fed back from step to step, so errors do not pile up along a piece. Any part of it may be
known: the start, or all actions. A policy leads the actions by its score: what the denoiser says is
moved along the gradient of log pi(a | s), so that samples stay near what was logged while the
policy finds them likely. They are no samples of the policy, though: algorithms that reinforce what
a policy did learn from them with that bias. Longer rollouts are made of pieces, each held to the
end of the one before.

State: what one row says, and what the arrival there earned and ended. There is no memory, so the
observation has to be the whole state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import Config, option
from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.errors import UserError
from worldmodel.models.diffusion_base import (
    DIFFUSION_PRESETS,
    BaseDiffusionModel,
    BaseDiffusionOptions,
    build_sampler,
)
from worldmodel.models.interface import Actor, Metrics
from worldmodel.models.latent import (
    NO_REWARD,
    Terms,
    has_predecessor,
    masked_mean,
    shift_right,
    total_loss,
)
from worldmodel.nn.denoisers import SequenceDenoiser
from worldmodel.nn.denoising import denoiser, preconditioning, sample_training_sigmas
from worldmodel.nn.distributions import Bernoulli, ScalarMSE
from worldmodel.nn.layers import MLP, Linear
from worldmodel.nn.learner import detached
from worldmodel.nn.samplers import initial_noise, sample

CERTAIN = 10.0  # logit of an end of 1: no more than 5e-5 of doubt
LARGEST = 5.0  # departure from a step, in units of the noise
START_HELD, ACTIONS_HELD = 0.8, 0.5  # shares of the training pieces in which they are known


class TrajectoryStep(NamedTuple):
    """point: (..., D); reward: (...), raw; end: (...), 1 where an episode ended, else -1."""

    point: jax.Array
    reward: jax.Array
    end: jax.Array


class ForwardModel(nnx.Module):
    """One step: points and actions (..., D + A) -> changes (..., D), in units of typical ones."""

    def __init__(self, inputs: int, outputs: int, units: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.hidden = MLP(inputs, units, 2, rngs=rngs, dtype=dtype)
        self.output = Linear(units, outputs, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.output(self.hidden(x)).astype(jnp.float32)


@dataclass
class TrajectoryDiffusionOptions(BaseDiffusionOptions):
    """Whole pieces of trajectories are denoised, led by the policy."""

    name: str = option("trajectory_diffusion", "family of the world model")
    segment_length: int = option(16, "rows of a piece (at most training.world_model.window)", low=2)
    condition_on_start: bool = option(
        True, "policies' rollouts begin at the given state, or anywhere"
    )
    guidance_scale: float = option(0.5, "strength of the policy's guidance (0: none)", low=0.0)
    guidance_schedule: str = option(
        "posterior",
        "over noise levels: the variance that is left, or as published by steps done",
        choices=("posterior", "pgd"),
    )
    normalize_guidance: bool = option(True, "divide the score by its size over the piece")
    sampler_steps: int = option(16, "noise levels of a sample (heun: twice the calls)", low=1)
    sigma_max: float = option(20.0, "highest noise level, from which it starts", low=1e-6)
    p_mean: float = option(-0.5, "mean of the logarithm of noise levels in training")

    def check(self, config: Config) -> Iterator[str]:
        yield from super().check(config)
        window = config.training.world_model.window
        if self.segment_length > window:
            yield (
                f"model.segment_length={self.segment_length}: pieces are cut from training.world_model.window={window} "
                "rows, and can be no longer"
            )
        if config.training.joint and not self.condition_on_start:
            yield "model.condition_on_start=false: joint training needs rollouts from the logged states"


@register("model", "trajectory_diffusion", TrajectoryDiffusionOptions)
class TrajectoryDiffusion(BaseDiffusionModel):
    """Channels of a row: its point, reward and end of the arrival there, the action taken there."""

    autoregressive = False

    def __init__(
        self,
        options: TrajectoryDiffusionOptions,
        spec: DataSpec,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        units, blocks, _, _ = DIFFUSION_PRESETS[options.preset]
        self.add_points(options, spec, rngs=rngs, dtype=dtype)
        self.feature_size, actions = self.point_size, spec.action.size
        self.has_reward, self.reward_moments = spec.has_reward, spec.reward_mean_std
        # Where the channels of reward, end and action begin.
        self.borders = tuple(self.point_size + n for n in (0, spec.has_reward, spec.has_reward + 1))
        channels = self.borders[-1] + actions
        known = channels + 2 * self.point_size
        self.network = SequenceDenoiser(channels, known, units, 2 * blocks, rngs=rngs, dtype=dtype)
        sizes = (self.point_size + actions, self.point_size, units)
        self.forward = ForwardModel(*sizes, rngs=rngs, dtype=dtype)

    # -------------------------------------------------------------------------------- the interface

    def initial(self, batch: tuple[int, ...]) -> TrajectoryStep:
        point = jnp.zeros((*batch, self.point_size), jnp.float32)
        return TrajectoryStep(point, jnp.zeros(batch, jnp.float32), -jnp.ones(batch, jnp.float32))

    def point(self, state: TrajectoryStep) -> jax.Array:
        return state.point

    def features(self, state: TrajectoryStep) -> jax.Array:
        return state.point

    def reward(self, state: TrajectoryStep) -> ScalarMSE:
        if not self.has_reward:
            raise UserError(NO_REWARD)
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
        there = has_predecessor(window)
        reward = jnp.where(there, shift_right(window.reward), 0.0)
        end = jnp.where(there & window.is_terminal, 1.0, -1.0)
        return TrajectoryStep(self.encode(window.observation), reward, end)

    def step(self, state: TrajectoryStep, action: jax.Array, key: jax.Array) -> TrajectoryStep:
        return jax.tree.map(lambda x: x[:, 0], self.rollout(state, action[:, None], key))

    def rollout(self, state: TrajectoryStep, actions: jax.Array, key: jax.Array) -> TrajectoryStep:
        given = self.action_points(actions)
        states, _ = self._drawn(state, given.shape[1], key, given=given)
        return jax.tree.map(lambda x: x[:, 1:], states)

    def rollout_policy(
        self, state: TrajectoryStep, actor: Actor, horizon: int, key: jax.Array
    ) -> tuple[TrajectoryStep, jax.Array]:
        hold = self.options.condition_on_start
        states, channels = self._drawn(state, horizon, key, actor=actor, hold=hold)
        if self.action.discrete:
            return states, jnp.argmax(channels, -1).astype(jnp.int32)
        return states, jnp.clip(channels / 3**0.5, -1.0, 1.0)

    def loss(
        self, window: Window, key: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, TrajectoryStep]]:
        """Denoising of a piece of every window, each at one level; its start and its actions may be
        known. Besides, the error of the single step.
        """
        states = self.observe(window, key)
        cut_key, key = jax.random.split(key)
        piece, part = _cut(
            (states, window), min(self.options.segment_length, window.shape[1]), cut_key
        )
        rows, real = self._rows_of(piece, part)
        terms = self._denoising(rows, real, key)
        off = jnp.square(self._departure(rows, self.forward) / self.change()).sum(-1)
        terms["forward"] = (off, has_predecessor(part))
        total, metrics = total_loss(terms, {}, part.shape)
        metrics["latent/mean_square"] = masked_mean(jnp.square(states.point).mean(-1), window.mask)
        return total, (metrics, states)

    # ----------------------------------------------------------------------------------- training

    def _denoising(self, rows: jax.Array, real: jax.Array, key: jax.Array) -> Terms:
        """Losses of the channels of rows (B, T, C) where they are real and not known."""
        keys, batch = jax.random.split(key, 4), rows.shape[0]
        first = jnp.arange(rows.shape[1]) == 0
        held = jax.random.bernoulli(keys[0], START_HELD, (batch, 1)) & first
        acted = jax.random.bernoulli(keys[1], ACTIONS_HELD, (batch, 1)) | jnp.zeros_like(first)
        known = self._known(held, acted)
        spread = (self.options.p_mean, self.options.p_std)
        level = sample_training_sigmas(keys[2], (batch,), *spread)
        c = jax.tree.map(lambda x: x[:, None, None], preconditioning(level))
        noised = rows + level[:, None, None] * jax.random.normal(keys[3], rows.shape)
        said = self._network(c.c_in * noised, c.c_noise[:, 0, 0], known, rows)
        learned = real & ~known
        error = jnp.where(learned, jnp.square(said - (rows - c.c_skip * noised) / c.c_out), 0.0)
        names = ("denoising", "reward", "terminal", "action")
        parts = (jnp.split(x, self.borders, -1) for x in (error, learned))
        return {
            name: (loss.sum(-1), there.any(-1))
            for name, loss, there in zip(names, *parts, strict=True)
            if loss.shape[-1]
        }

    def _rows_of(self, states: TrajectoryStep, window: Window) -> tuple[jax.Array, jax.Array]:
        """Channels of logged rows (B, T, C), and which of them are real; the others are 0."""
        # What was done at the last row led to nothing that is here.
        acted = (window.mask & ~window.is_last).at[:, -1].set(False)
        channels = self._channels(states, self.action_points(window.action))
        point, outcome, action = (
            jnp.broadcast_to(there[..., None], (*there.shape, size))
            for there, size in (
                (window.mask, self.borders[0]),
                (has_predecessor(window), self.borders[-1] - self.borders[0]),
                (acted, self.action.size),
            )
        )
        real = jnp.concatenate([point, outcome, action], -1)
        return jnp.where(real, channels, 0.0), real

    # ----------------------------------------------------------------------------------- sampling

    def _drawn(
        self,
        state: TrajectoryStep,
        horizon: int,
        key: jax.Array,
        *,
        given: jax.Array | None = None,
        actor: Actor | None = None,
        hold: bool = True,
    ) -> tuple[TrajectoryStep, jax.Array]:
        """States (B, horizon + 1, ...) and channels of actions (B, horizon, A), made of pieces of
        the trained length. given: actions (B, horizon, A), or an actor leads them.
        """
        steps, batch = self.options.segment_length - 1, state.reward.shape[0]
        count = math.ceil(horizon / steps)
        actions = jnp.zeros((batch, count * steps, self.action.size))
        if given is not None:
            padding = ((0, 0), (0, count * steps - horizon), (0, 0))
            actions = jnp.pad(given, padding, mode="edge")
        actions = jnp.swapaxes(actions.reshape(batch, count, steps, -1), 0, 1)

        def piece(
            state: TrajectoryStep, inputs: tuple
        ) -> tuple[TrajectoryStep, tuple[TrajectoryStep, jax.Array]]:
            rows = self._sampled(state, *inputs, given is not None, actor)
            states, acted = self._states(rows), rows[:, :-1, self.borders[-1] :]
            return jax.tree.map(lambda x: x[:, -1], states), (states, acted)

        inputs = (jnp.arange(count) >= 1 - hold, actions, jax.random.split(key, count))
        _, (states, acted) = jax.lax.scan(piece, state, inputs)
        first = state if hold else jax.tree.map(lambda x: x[0, :, 0], states)
        # Pieces overlap in one row: the last of one is the first of the next.
        rest = jax.tree.map(lambda x: _joined(x[:, :, 1:])[:, :horizon], states)
        states = jax.tree.map(lambda a, b: jnp.concatenate([a[:, None], b], 1), first, rest)
        return states, _joined(acted)[:, :horizon]

    def _sampled(
        self,
        state: TrajectoryStep,
        held: jax.Array,
        actions: jax.Array,
        key: jax.Array,
        given: bool,
        actor: Actor | None,
    ) -> jax.Array:
        """A piece (B, R, C) that begins at `state`, if `held`, with the actions (B, R - 1, A), if
        `given`.
        """
        start_key, churn_key = jax.random.split(key)
        first = jnp.arange(actions.shape[1] + 1) == 0
        rows = jax.tree.map(lambda x: jnp.repeat(x[:, None], len(first), 1), state)
        clean = self._channels(rows, jnp.pad(actions, ((0, 0), (0, 1), (0, 0))))
        # As in training, where what led to a piece's first row is not known.
        clean = clean.at[:, 0, self.borders[0] : self.borders[-1]].set(0.0)
        shape = clean.shape[:2]
        known = self._known(jnp.broadcast_to(first & held, shape), jnp.full(shape, given))
        denoise = denoiser(lambda x, noise: self._network(x, noise, known, clean))

        def completed(x: jax.Array, level: jax.Array) -> jax.Array:
            said = jnp.where(known, clean, denoise(x, level))
            return said if actor is None else self._guided(said, level, actor)

        sampler = build_sampler(self.options)
        return sample(completed, initial_noise(start_key, clean.shape, sampler), sampler, churn_key)

    def _guided(self, rows: jax.Array, level: jax.Array, actor: Actor) -> jax.Array:
        """Denoised rows with actions moved towards what the actor finds likely there."""
        states, actions = self._states(rows), rows[..., self.borders[-1] :]
        score = self._score(actor, jax.lax.stop_gradient(self.features(states)), actions)
        if self.options.normalize_guidance:
            square = jnp.square(score).mean((-2, -1), keepdims=True)
            score = score / (jnp.sqrt(square + 1e-16) + 1e-8)
        weight = self.options.guidance_scale * self._guidance_schedule(level)
        return rows.at[..., self.borders[-1] :].add(weight * score)

    def _score(self, actor: Actor, features: jax.Array, actions: jax.Array) -> jax.Array:
        """Gradient of log pi by the actions' channels (..., A), within those that stay actions."""
        if self.action.discrete:
            score = actor(features).log_probabilities
            return (score - score.mean(-1, keepdims=True)) / self.action.size**0.5

        def likelihood(actions: jax.Array) -> jax.Array:
            return actor(features).log_prob(actions / 3**0.5).sum()

        return jax.grad(likelihood)(actions)

    def _guidance_schedule(self, level: jax.Array) -> jax.Array:
        """posterior: the variance that standardised data have left at this level; pgd: by
        the share of steps that are done.
        """
        if self.options.guidance_schedule == "posterior":
            return jnp.square(level) / (1 + jnp.square(level))
        low, high, rho = self.options.sigma_min, self.options.sigma_max, self.options.rho
        ends = high ** (1 / rho), low ** (1 / rho)
        done = jnp.clip((level ** (1 / rho) - ends[0]) / (ends[1] - ends[0]), 0, 1)
        return 1 - done + 0.3 * jnp.sin(jnp.pi * done)

    # --------------------------------------------------------------------------------------- parts

    def _network(
        self, scaled: jax.Array, noise: jax.Array, known: jax.Array, clean: jax.Array
    ) -> jax.Array:
        """F of rows in which what is known stands as it is, without noise.

        It also sees by how much each row departs from where the one before it leads, in units of
        the noise, and the sum of that so far: what has to be small in the end, at every level.
        """
        noise = jnp.broadcast_to(noise, scaled.shape[:-2])
        level = jnp.exp(4 * noise)[..., None, None]
        noised = jnp.where(known, clean, scaled / preconditioning(level).c_in)
        departure = self._departure(noised, detached(self.forward)) / level
        departure = LARGEST * jnp.tanh(departure / LARGEST)
        seen = [known.astype(jnp.float32), departure, jnp.cumsum(departure, -2)]
        return self.network(jnp.where(known, clean, scaled), noise, jnp.concatenate(seen, -1))

    def _departure(self, rows: jax.Array, forward: ForwardModel) -> jax.Array:
        """(..., T, D) of channels (..., T, C): points less those that a step predicts; 0 first."""
        points, actions = rows[..., : self.point_size], rows[..., self.borders[-1] :]
        change = forward(jnp.concatenate([points, actions], -1)[..., :-1, :])
        off = jnp.diff(points, axis=-2) - self.change() * change
        return jnp.concatenate([jnp.zeros_like(points[..., :1, :]), off], -2)

    def _channels(self, states: TrajectoryStep, actions: jax.Array) -> jax.Array:
        mean, std = self.reward_moments
        reward = [(states.reward[..., None] - mean) / std] if self.has_reward else []
        return jnp.concatenate([states.point, *reward, states.end[..., None], actions], -1)

    def _states(self, rows: jax.Array) -> TrajectoryStep:
        mean, std = self.reward_moments
        point, reward, end, _ = jnp.split(rows, self.borders, -1)
        earned = reward[..., 0] * std + mean if self.has_reward else jnp.zeros(rows.shape[:-1])
        return TrajectoryStep(point, earned, jnp.clip(end[..., 0], -1, 1))

    def _known(self, arrivals: jax.Array, actions: jax.Array) -> jax.Array:
        """(..., T, C) from which rows (..., T) are known as arrivals, and which by their action."""
        arrivals = jnp.broadcast_to(arrivals[..., None], (*arrivals.shape, self.borders[-1]))
        actions = jnp.broadcast_to(actions[..., None], (*actions.shape, self.action.size))
        return jnp.concatenate([arrivals, actions], -1)


def _cut(
    tree: tuple[TrajectoryStep, Window], rows: int, key: jax.Array
) -> tuple[TrajectoryStep, Window]:
    """Some `rows` rows of each window (B, T, ...), wherever they begin."""
    batch, length = tree[1].shape
    if rows == length:
        return tree
    first = jax.random.randint(key, (batch, 1), 0, length - rows + 1)
    index = first + jnp.arange(rows)
    return jax.tree.map(lambda x: x[jnp.arange(batch)[:, None], index], tree)


def _joined(pieces: jax.Array) -> jax.Array:
    """(count, B, steps, ...) -> (B, count x steps, ...)."""
    return jnp.swapaxes(pieces, 0, 1).reshape(pieces.shape[1], -1, *pieces.shape[3:])
