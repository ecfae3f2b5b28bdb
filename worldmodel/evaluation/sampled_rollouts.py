"""What a model imagines from every start, measured beside what was logged.

From a start the model has seen `context` logged rows; then it follows the logged actions without
seeing more. Several futures are sampled. Their mean is the prediction. Their spread is judged too:
for that an observation is drawn from its distribution where the family gives one that can be
sampled; where it gives only what to expect, as all that learn by squared error do, that stands for
the draw, and noise of the observation that the state does not hold is missing from the spread.
Of the model, only its interface is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.config import EvaluationOptions
from worldmodel.data.spec import DataSpec, ObservationSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import Window, step_arrays
from worldmodel.evaluation.calibration import Scores, scores_of
from worldmodel.evaluation.images import psnr, ssim
from worldmodel.evaluation.starts import PredictionStarts, context_of, take
from worldmodel.models.interface import WorldModel

PIXEL_RANGE = 255.0  # an error of 1 is black for white; needs no statistics of the split
MOST_STARTS_AT_ONCE = 256
MOST_BYTES_AT_ONCE = 256 * 2**20  # of sampled futures on the device
MOST_PIXELS = 1024  # of an image whose spread is judged, evenly spaced
MOST_FUTURES = 8  # kept in full, to be shown


@dataclass(frozen=True)
class OpenLoopMetrics:
    """Of N starts, at horizons 1 to H and, where it says h, at those asked for. What lies past an
    episode's end is NaN; what the model said that is not a number is infinitely wrong.

    errors: name -> (K, N, H) of the model, persistence and, for vectors, climatology
    dimensions: name -> (N, h, D) the model's absolute error in every number of a vector
    images: name -> {"psnr", "ssim"} -> (2, N, h) of the model and persistence
    scores: name -> of sampled futures, (N, h, ...)
    reward: (N, H) what the model expects each step to earn, or None for logs without
    termination_probability: (N, H) the probability that the episode has termination_probability within so many steps, past its end too
    """

    errors: dict[str, np.ndarray]
    dimensions: dict[str, np.ndarray]
    images: dict[str, dict[str, np.ndarray]]
    scores: dict[str, Scores]
    reward: np.ndarray | None
    termination_probability: np.ndarray


class OpenLoopEvaluator:
    """Runs a model from all starts, in pieces of one size so that it is compiled once."""

    def __init__(
        self,
        model: WorldModel,
        spec: DataSpec,
        held_out: Trajectories,
        starts: PredictionStarts,
        options: EvaluationOptions,
        horizons: list[int],
        key: jax.Array,
    ):
        self.model, self.spec, self.starts, self.options = model, spec, starts, options
        self.horizons, self.horizon = tuple(horizons), horizons[-1]
        self.rows, self.key = step_arrays(held_out), key
        self.has_reward = spec.has_reward and held_out.rewards is not None
        self.scales = {name: _scale(o) for name, o in spec.observations.items()}
        vectors = {name: o for name, o in spec.observations.items() if not o.is_image}
        self.means = {name: np.asarray(o.mean, np.float32) for name, o in vectors.items()}
        size = sum(int(np.prod(o.shape)) for o in spec.observations.values())
        shown = min(options.num_samples, MOST_FUTURES)
        floats = self.horizon * ((shown + 4) * size + model.feature_size)
        floats += options.num_samples * len(horizons) * size  # no more than so many
        fitting = max(1, MOST_BYTES_AT_ONCE // (4 * floats))
        self.piece = int(min(len(starts), MOST_STARTS_AT_ONCE, fitting))

    def evaluate(self) -> OpenLoopMetrics:
        pieces = []
        for begin in range(0, len(self.starts), self.piece):
            index = np.arange(begin, min(begin + self.piece, len(self.starts)))
            found, _ = self._run(self.starts.take(index), jax.random.fold_in(self.key, begin))
            pieces.append(self._read(found, len(index)))
        every, asked = np.arange(1, self.horizon + 1), np.array(self.horizons)

        def joined(axis: int, horizons: np.ndarray, worst: float, *parts: np.ndarray) -> np.ndarray:
            whole = np.concatenate(parts, axis)
            exists = (horizons <= self.starts.remaining_steps[:, None]).reshape(
                *[1] * axis, len(self.starts), len(horizons), *[1] * (whole.ndim - axis - 2)
            )
            return np.where(exists, np.where(np.isnan(whole), worst, whole), np.nan)

        def over(field: str, axis: int, horizons: np.ndarray, worst: float = np.inf) -> dict:
            trees = [getattr(piece, field) for piece in pieces]
            return jax.tree.map(partial(joined, axis, horizons, worst), *trees)

        return OpenLoopMetrics(
            errors=over("errors", 1, every),
            dimensions=over("dimensions", 0, asked),
            images=over("images", 1, asked, worst=0.0),
            scores={
                name: jax.tree.map(lambda *x: np.concatenate(x), *(p.scores[name] for p in pieces))
                for name in self.scales
                if all(name in p.scores for p in pieces)
            },
            reward=over("reward", 0, every),
            # Asked for past an episode's end as well. What is not a number foretells nothing.
            termination_probability=np.nan_to_num(
                np.concatenate([piece.termination_probability for piece in pieces])
            ),
        )

    def termination_probability(self, starts: PredictionStarts) -> np.ndarray:
        """(N, H) the probability, from other starts, of an end within so many steps."""
        pieces = []
        for begin in range(0, len(starts), self.piece):
            index = np.arange(begin, min(begin + self.piece, len(starts)))
            key = jax.random.fold_in(self.key, len(self.starts) + 1 + begin)
            found, _ = self._run(starts.take(index), key)
            pieces.append(np.asarray(found.termination_probability)[: len(index)])
        return np.nan_to_num(np.concatenate(pieces))

    def examples(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """name -> (F, B, H, ...): some futures in full from the starts `index` (B,), a few."""
        index = index[: self.piece]
        key = jax.random.fold_in(self.key, len(self.starts))
        _, futures = self._run(self.starts.take(index), key)
        return {name: np.asarray(x[:, : len(index)]) for name, x in futures.items()}

    def _run(
        self, starts: PredictionStarts, key: jax.Array
    ) -> tuple[_BatchMetrics, dict[str, jax.Array]]:
        """What is found, and futures {name: (F, B, H, ...)}, of B >= len(starts) starts."""
        starts = starts.take(np.resize(np.arange(len(starts)), self.piece))
        window = context_of(self.rows, starts, self.options.context)
        ahead = np.minimum(np.arange(self.horizon + 1), starts.remaining_steps[:, None])
        future = take(self.rows, starts.rows[:, None] + ahead)
        return _imagined(
            self.model,
            window,
            starts.context_lengths - 1,
            future.action[:, :-1],
            future.observation,
            self.scales,
            self.means,
            jax.random.split(key, self.options.num_samples),
            horizons=self.horizons,
            has_reward=self.has_reward,
        )

    def _read(self, found: _BatchMetrics, count: int) -> OpenLoopMetrics:
        """A piece, of which the first `count` starts are real."""
        found = jax.tree.map(np.asarray, found)
        scores = {
            name: scores_of(samples[:, :count], found.truth[name][:count], name in self.means)
            for name, samples in found.drawn.items()
        }
        return OpenLoopMetrics(
            errors={name: x[:, :count] for name, x in found.errors.items()},
            dimensions={name: x[:count] for name, x in found.dimensions.items()},
            images=jax.tree.map(lambda x: x[:, :count], found.images),
            scores={name: s for name, s in scores.items() if s is not None},
            reward=None if found.reward is None else found.reward[:count],
            termination_probability=found.termination_probability[:count],
        )


class _BatchMetrics(NamedTuple):
    """What the compiled program gives of B starts, as `OpenLoopMetrics` has it; and, in units of the
    error, the observations that are scored, name -> (S, B, h, P), and their truth (B, h, P).
    """

    errors: dict[str, jax.Array]
    dimensions: dict[str, jax.Array]
    images: dict[str, dict[str, jax.Array]]
    drawn: dict[str, jax.Array]
    truth: dict[str, jax.Array]
    reward: jax.Array | None
    termination_probability: jax.Array


class _SampledRollout(NamedTuple):
    """What is kept of every sampled future."""

    drawn: dict[str, jax.Array]
    reward: jax.Array | None
    termination_probability: jax.Array


@partial(nnx.jit, static_argnames=("horizons", "has_reward"))
def _imagined(
    model: WorldModel,
    window: Window,
    last: jax.Array,
    actions: jax.Array,
    observed: dict[str, jax.Array],
    scales: dict[str, jax.Array],
    means: dict[str, jax.Array],
    keys: jax.Array,
    *,
    horizons: tuple[int, ...],
    has_reward: bool,
) -> tuple[_BatchMetrics, dict[str, jax.Array]]:
    """What is found, and the first F of the sampled futures, {name: (F, B, H, ...)}. Of the others
    only what is judged is kept, and of images only that is decoded: their mean is over the first.

    window: (B, C) rows seen, of which `last` (B,) is the last real one; actions: (B, H, ...);
    observed: (B, H+1, ...), from the last seen row on; keys: (S,)
    """
    at = np.array(horizons) - 1

    def imagine(key: jax.Array, whole: bool) -> tuple[dict[str, jax.Array], _SampledRollout]:
        observe_key, rollout_key = jax.random.split(key)
        states = model.observe(window, observe_key)
        start = jax.tree.map(lambda x: x[jnp.arange(len(last)), last], states)
        states = model.rollout(start, actions, rollout_key)
        # What is not asked for of these is not computed.
        everywhere = model.observation(states)
        judged = model.observation(jax.tree.map(lambda x: x[:, at], states))
        draw_keys = jax.random.split(jax.random.fold_in(key, 0), len(judged))
        drawn = {
            name: _thinned(_draw(p, key), scales[name])
            for (name, p), key in zip(judged.items(), draw_keys, strict=True)
        }
        reward = model.reward(states).mean() if has_reward else None
        going_on = jnp.cumprod(1 - jnp.clip(model.terminal(states).mean(), 0, 1), 1)
        expected = {name: p.mean() for name, p in everywhere.items() if whole or name in means}
        return expected, _SampledRollout(drawn, reward, 1 - going_on)

    count = min(len(keys), MOST_FUTURES)
    shown, first = jax.lax.map(lambda key: imagine(key, True), keys[:count])
    # Sums of how far futures are from the first: exact where all of them agree.
    total = jax.tree.map(lambda x: (x - x[0]).sum(0), shown)

    def one_more(total: dict[str, jax.Array], key: jax.Array) -> tuple[Any, _SampledRollout]:
        expected, judged = imagine(key, False)
        return total | {n: total[n] + (x - shown[n][0]) for n, x in expected.items()}, judged

    total, rest = jax.lax.scan(one_more, total, keys[count:])
    futures = jax.tree.map(lambda *x: jnp.concatenate(x), first, rest)

    errors, dimensions, images, truths = {}, {}, {}, {}
    for name, several in shown.items():
        predicted = several[0] + total[name] / (len(keys) if name in means else count)
        truth = observed[name][:, 1:].astype(jnp.float32)
        guesses = [predicted, observed[name][:, :1].astype(jnp.float32)]
        guesses += [means[name]] if name in means else []
        guesses = jnp.stack([jnp.broadcast_to(guess, truth.shape) for guess in guesses])
        off = (guesses - truth) / scales[name]
        errors[name] = jnp.sqrt(jnp.square(off).mean(tuple(range(3, off.ndim))))
        truths[name] = _thinned(truth[:, at], scales[name])
        if name in means:
            dimensions[name] = jnp.abs(off[0][:, at])
        else:
            pairs = jnp.clip(guesses[:, :, at], 0, PIXEL_RANGE), truth[:, at]
            images[name] = {"psnr": psnr(*pairs), "ssim": ssim(*pairs)}
    reward = futures.reward.mean(0) if has_reward else None
    found = _BatchMetrics(
        errors,
        dimensions,
        images,
        futures.drawn,
        truths,
        reward,
        futures.termination_probability.mean(0),
    )
    return found, shown


def _draw(prediction: object, key: jax.Array) -> jax.Array:
    """An observation from its distribution, or what is expected of a family that has none."""
    sample = getattr(prediction, "sample", None)
    return prediction.mean() if sample is None else sample(key)


def _thinned(values: jax.Array, scale: jax.Array) -> jax.Array:
    """(B, h, ...) as (B, h, P) in units of the error; of images, some of the pixels."""
    flat = (values / scale).reshape(*values.shape[:2], -1)
    size = flat.shape[-1]
    if values.ndim == 3 or size <= MOST_PIXELS:
        return flat
    return flat[..., np.linspace(0, size - 1, MOST_PIXELS).astype(int)]


def _scale(observation: ObservationSpec) -> np.ndarray:
    """What one unit of error is: a standard deviation a dimension, or the range of a pixel."""
    return np.asarray(PIXEL_RANGE if observation.is_image else observation.std, np.float32)
