"""Open-loop rollouts from every start, next to what was logged.

At a start the model has observed `context` logged steps; from there it follows the logged actions
alone. Several rollouts are sampled. Their mean is the prediction, and their spread is evaluated
too: an observation is sampled where a family predicts a distribution with `sample`; elsewhere, as
for all that learn by squared error, its mean takes the place of the sample, and the spread lacks
the noise of the observation. Only the interface of the model is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.config import EvaluationOptions
from worldmodel.data.spec import DataSpec, ObservationSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import Window, step_arrays
from worldmodel.evaluation.scores import Scores, scores_of
from worldmodel.evaluation.starts import PredictionStarts, context_of, prediction_starts, take
from worldmodel.models.interface import WorldModel

PIXEL_RANGE = 255.0  # an error of 1 is black for white; needs no statistics of the split
SSIM_WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
MOST_STARTS_AT_ONCE = 256
MOST_BYTES_AT_ONCE = 256 * 2**20  # of sampled rollouts on the device
MOST_PIXELS = 1024  # of an image whose spread is evaluated, evenly spaced
MOST_FUTURES = 8  # kept in full, for figures


@dataclass(frozen=True)
class OpenLoopMetrics:
    """Measurements at N starts, at horizons 1 to H or (h) at those of the options. NaN past an
    episode's end; a prediction of NaN counts as an infinite error.

    errors: name -> (K, N, H) of the model, persistence and, for vectors, climatology
    dimensions: name -> (N, h, D) absolute error of the model in every dimension of a vector
    images: name -> {"psnr", "ssim"} -> (2, N, h) of the model and persistence
    scores: name -> scores of the sampled rollouts, (N, h, ...)
    reward: (N, H) expected reward of each step, None for a dataset without rewards
    termination_probability: (N, H) probability of termination within so many steps, past an
        episode's end too
    """

    errors: dict[str, np.ndarray]
    dimensions: dict[str, np.ndarray]
    images: dict[str, dict[str, np.ndarray]]
    scores: dict[str, Scores]
    reward: np.ndarray | None
    termination_probability: np.ndarray


class Reached(NamedTuple):
    """The starts that reach a horizon. place: of the horizon among those evaluated; mask: (N,);
    episodes: (n,) of these; text: how many.
    """

    horizon: int
    place: int
    mask: np.ndarray
    episodes: np.ndarray
    text: str


class OpenLoopEvaluator:
    """Rolls a model out from all starts, in batches of one size so that it is compiled once."""

    def __init__(
        self,
        model: WorldModel,
        spec: DataSpec,
        held_out: Trajectories,
        options: EvaluationOptions,
        key: jax.Array,
    ):
        horizons, starts, self.notes = prediction_starts(held_out, options)
        self.model, self.spec, self.starts, self.options = model, spec, starts, options
        self.horizons, self.horizon = tuple(horizons), horizons[-1]
        self.rows, self.key = step_arrays(held_out), key
        self.has_reward = spec.has_reward and held_out.rewards is not None
        self.scales = {name: _scale(o) for name, o in spec.observations.items()}
        vectors = {name: o for name, o in spec.observations.items() if not o.is_image}
        self.means = {name: jnp.asarray(o.mean, jnp.float32) for name, o in vectors.items()}
        size = sum(int(np.prod(o.shape)) for o in spec.observations.values())
        kept = min(options.num_samples, MOST_FUTURES)
        floats = self.horizon * ((kept + 4) * size + model.feature_size)
        floats += options.num_samples * len(horizons) * size  # no more than so many
        fitting = max(1, MOST_BYTES_AT_ONCE // (4 * floats))
        self.batch = int(min(len(starts), MOST_STARTS_AT_ONCE, fitting))

    def reached(self, horizon: int) -> Reached:
        mask = self.starts.remaining_steps >= horizon
        episodes = self.starts.episodes[mask]
        count = len(np.unique(episodes))
        held_out = f"{count} held-out {'episode' if count == 1 else 'episodes'}"
        place, text = self.horizons.index(horizon), f"{mask.sum()} starts in {held_out}"
        return Reached(horizon, place, mask, episodes, text)

    @property
    def all_reached(self) -> list[Reached]:
        """For each horizon."""
        return [self.reached(horizon) for horizon in self.horizons]

    @cached_property
    def metrics(self) -> OpenLoopMetrics:
        pieces = [self._read(*batch) for batch in self._batches(self.starts, 0)]
        every, asked = np.arange(1, self.horizon + 1), np.array(self.horizons)

        def joined(axis: int, horizons: np.ndarray, worst: float, *parts: np.ndarray) -> np.ndarray:
            whole = np.concatenate(parts, axis)
            exists = (horizons <= self.starts.remaining_steps[:, None]).reshape(
                *[1] * axis, len(self.starts), len(horizons), *[1] * (whole.ndim - axis - 2)
            )
            return np.where(exists, np.where(np.isnan(whole), worst, whole), np.nan)

        def over(field: str, axis: int, horizons: np.ndarray, worst: float = np.inf) -> Any:
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
            # Past an episode's end too. NaN predicts no termination.
            termination_probability=np.nan_to_num(
                np.concatenate([piece.termination_probability for piece in pieces])
            ),
        )

    def termination_probability(self, starts: PredictionStarts) -> np.ndarray:
        """(N, H) the probability of termination within so many steps, from other starts."""
        batches = self._batches(starts, len(self.starts) + 1)
        pieces = [np.asarray(found.termination_probability)[:count] for found, count in batches]
        return np.nan_to_num(np.concatenate(pieces))

    def examples(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """name -> (F, B, H, ...): sampled rollouts in full from the starts `index` (B,), a few."""
        index = index[: self.batch]
        key = jax.random.fold_in(self.key, len(self.starts))
        _, rollouts = self._run(self.starts.take(index), key)
        return {name: np.asarray(x[:, : len(index)]) for name, x in rollouts.items()}

    def _batches(
        self, starts: PredictionStarts, first_key: int
    ) -> Iterator[tuple[_BatchMetrics, int]]:
        """Metrics of every batch of the starts, and how many of these are not padding."""
        for begin in range(0, len(starts), self.batch):
            some = starts.take(np.arange(begin, min(begin + self.batch, len(starts))))
            yield self._run(some, jax.random.fold_in(self.key, first_key + begin))[0], len(some)

    def _run(
        self, starts: PredictionStarts, key: jax.Array
    ) -> tuple[_BatchMetrics, dict[str, jax.Array]]:
        """Metrics, and rollouts {name: (F, B, H, ...)}, of B >= len(starts) starts."""
        starts = starts.take(np.resize(np.arange(len(starts)), self.batch))
        window = context_of(self.rows, starts, self.options.context)
        ahead = np.minimum(np.arange(self.horizon + 1), starts.remaining_steps[:, None])
        future = take(self.rows, starts.rows[:, None] + ahead)
        return _imagined(
            self.model,
            window,
            jnp.asarray(starts.context_lengths - 1),
            future.action[:, :-1],
            future.observation,
            self.scales,
            self.means,
            jax.random.split(key, self.options.num_samples),
            horizons=self.horizons,
            has_reward=self.has_reward,
        )

    def _read(self, found: _BatchMetrics, count: int) -> OpenLoopMetrics:
        """A batch, of which the first `count` starts are not padding."""
        arrays: Any = jax.tree.map(np.asarray, found)  # of the host
        scores = {
            name: scores_of(samples[:, :count], arrays.truth[name][:count], name in self.means)
            for name, samples in arrays.drawn.items()
        }
        return OpenLoopMetrics(
            errors={name: x[:, :count] for name, x in arrays.errors.items()},
            dimensions={name: x[:count] for name, x in arrays.dimensions.items()},
            images=jax.tree.map(lambda x: x[:, :count], arrays.images),
            scores={name: s for name, s in scores.items() if s is not None},
            reward=None if arrays.reward is None else arrays.reward[:count],
            termination_probability=arrays.termination_probability[:count],
        )


class _BatchMetrics(NamedTuple):
    """`OpenLoopMetrics` of B starts in the compiled program, and the sampled observations to score,
    name -> (S, B, h, P), with their truth (B, h, P), in units of the error.
    """

    errors: dict[str, jax.Array]
    dimensions: dict[str, jax.Array]
    images: dict[str, dict[str, jax.Array]]
    drawn: dict[str, jax.Array]
    truth: dict[str, jax.Array]
    reward: jax.Array | None
    termination_probability: jax.Array


class _SampledRollout(NamedTuple):
    """What is kept of every sampled rollout."""

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
    """Metrics, and the first F sampled rollouts in full, {name: (F, B, H, ...)}. Of the others only
    what is evaluated is kept, and images are decoded only there: their mean is over the first F.

    window: (B, C) observed steps, of which `last` (B,) is the last one that is not padding
    actions: (B, H, ...); observed: (B, H+1, ...), from the last observed step on; keys: (S,)
    """
    at = np.array(horizons) - 1

    def imagine(key: jax.Array, whole: bool) -> tuple[dict[str, jax.Array], _SampledRollout]:
        observe_key, rollout_key = jax.random.split(key)
        states = model.observe(window, observe_key)
        start = jax.tree.map(lambda x: x[jnp.arange(len(last)), last], states)
        states = model.rollout(start, actions, rollout_key)
        # Parts of these that are not used are not computed.
        everywhere = model.observation(states)
        scored = model.observation(jax.tree.map(lambda x: x[:, at], states))
        draw_keys = jax.random.split(jax.random.fold_in(key, 0), len(scored))
        drawn = {
            name: _thinned(_draw(p, key), scales[name])
            for (name, p), key in zip(scored.items(), draw_keys, strict=True)
        }
        reward = model.reward(states).mean() if has_reward else None
        going_on = jnp.cumprod(1 - jnp.clip(model.terminal(states).mean(), 0, 1), 1)
        expected = {name: p.mean() for name, p in everywhere.items() if whole or name in means}
        return expected, _SampledRollout(drawn, reward, 1 - going_on)

    count = min(len(keys), MOST_FUTURES)
    kept, first = jax.lax.map(lambda key: imagine(key, True), keys[:count])
    # Sums of differences from the first rollout: exact where all of them agree.
    total = jax.tree.map(lambda x: (x - x[0]).sum(0), kept)

    def one_more(total: dict[str, jax.Array], key: jax.Array) -> tuple[Any, _SampledRollout]:
        expected, scored = imagine(key, False)
        return total | {n: total[n] + (x - kept[n][0]) for n, x in expected.items()}, scored

    total, rest = jax.lax.scan(one_more, total, keys[count:])
    rollouts = jax.tree.map(lambda *x: jnp.concatenate(x), first, rest)

    errors, dimensions, images, truths = {}, {}, {}, {}
    for name, several in kept.items():
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
    reward = rollouts.reward.mean(0) if has_reward else None
    found = _BatchMetrics(
        errors,
        dimensions,
        images,
        rollouts.drawn,
        truths,
        reward,
        rollouts.termination_probability.mean(0),
    )
    return found, kept


def _draw(prediction: Any, key: jax.Array) -> jax.Array:
    """A sample of the predicted distribution, or its mean where it cannot be sampled."""
    sample = getattr(prediction, "sample", None)
    return prediction.mean() if sample is None else sample(key)


def _thinned(values: jax.Array, scale: jax.Array) -> jax.Array:
    """(B, h, ...) as (B, h, P) in units of the error, with a part of the pixels of images."""
    flat = (values / scale).reshape(*values.shape[:2], -1)
    size = flat.shape[-1]
    if values.ndim == 3 or size <= MOST_PIXELS:
        return flat
    return flat[..., np.linspace(0, size - 1, MOST_PIXELS).astype(int)]


def _scale(observation: ObservationSpec) -> jax.Array:
    """The unit of error: a standard deviation for each dimension, or the range of a pixel."""
    return jnp.asarray(PIXEL_RANGE if observation.is_image else observation.std, jnp.float32)


def psnr(image: jax.Array, truth: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio (...) in dB of images (..., height, width, channels) in [0, 255];
    infinite where they are the same.
    """
    error = jnp.square(image - truth).mean((-3, -2, -1))
    return 10 * jnp.log10(PIXEL_RANGE**2 / error)


def ssim(image: jax.Array, truth: jax.Array) -> jax.Array:
    """Structural similarity (...) of images (..., height, width, channels) in [0, 255], 1 where
    they are the same (Wang et al., IEEE Trans. Image Process. 2004, eq. 13 and 15): local means,
    variances and covariance under a Gaussian window, wherever all of it is inside the image; the
    mean over places and channels. Images smaller than the window have a smaller one.
    """
    mx, my = _smooth(image), _smooth(truth)
    # About the local means, squares lose fewer digits if a constant is taken off first.
    x, y = image - PIXEL_RANGE / 2, truth - PIXEL_RANGE / 2
    ox, oy = mx - PIXEL_RANGE / 2, my - PIXEL_RANGE / 2
    xx, yy, xy = _smooth(x * x) - ox * ox, _smooth(y * y) - oy * oy, _smooth(x * y) - ox * oy
    c1, c2 = (K1 * PIXEL_RANGE) ** 2, (K2 * PIXEL_RANGE) ** 2
    alike = (2 * mx * my + c1) * (2 * xy + c2) / ((mx**2 + my**2 + c1) * (xx + yy + c2))
    return alike.mean((-3, -2, -1))


def _smooth(x: jax.Array) -> jax.Array:
    """Weighted means over the window, along both axes of an image: sums of shifted images."""
    weights = _weights(min(x.shape[-3:-1]))
    for axis in (-3, -2):
        kept = x.shape[axis] - len(weights) + 1
        shifted = (jax.lax.slice_in_dim(x, i, i + kept, axis=axis) for i in range(len(weights)))
        first, *others = (float(w) * s for w, s in zip(weights, shifted, strict=True))
        x = sum(others, start=first)
    return x


def _weights(size: int) -> np.ndarray:
    """A normalized Gaussian of an odd width that fits."""
    half = (min(SSIM_WINDOW, size) - 1) // 2
    weights = np.exp(-np.square(np.arange(-half, half + 1) / SIGMA) / 2)
    return weights / weights.sum()


def open_loop_errors(
    model: WorldModel,
    spec: DataSpec,
    held_out: Trajectories,
    options: EvaluationOptions,
    key: jax.Array,
) -> tuple[PredictionStarts, dict[str, np.ndarray]]:
    """Returns N starts, which depend on `held_out` and `options` alone, and errors by observation:
    (K, N, H) of the model, persistence and, for vectors, climatology at horizons 1 to H, with NaN
    past an episode's end.
    """
    rollouts = OpenLoopEvaluator(model, spec, held_out, options, key)
    return rollouts.starts, rollouts.metrics.errors
