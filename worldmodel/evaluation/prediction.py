"""Open-loop prediction: how far the model's future is from the logged one, horizon by horizon.

From a start the model has seen `context` logged rows; then it follows the logged actions without
seeing more. Its prediction is the mean over sampled futures. Two baselines: persistence repeats
the last seen observation; climatology is always the training mean (vectors only), which beats
persistence in the long run without knowing any dynamics. Of the model, only its interface is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.config import EvaluationOptions
from worldmodel.data.spec import DataSpec, ObservationSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import Rows, Window, rows_of
from worldmodel.errors import DataError
from worldmodel.evaluation.statistics import Bootstrap, Number, median, skill
from worldmodel.models.interface import WorldModel

PIXEL_RANGE = 255.0  # an error of 1 is black for white; needs no statistics of the split
MOST_STARTS_AT_ONCE = 256
MOST_BYTES_AT_ONCE = 256 * 2**20  # of sampled futures on the device
MOST_EPISODES = 400  # judged; evenly spaced over the held-out ones
EXAMPLES = {"easier": 0.25, "typical": 0.5, "harder": 0.75}  # quantiles of the error


@dataclass(frozen=True)
class Starts:
    """N places from which to predict.

    rows: (N,) last seen row; seen: (N,) rows seen up to it; left: (N,) rows of the episode after
    it; episodes: (N,)
    """

    rows: np.ndarray
    seen: np.ndarray
    left: np.ndarray
    episodes: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray) -> Starts:
        return Starts(self.rows[index], self.seen[index], self.left[index], self.episodes[index])


@dataclass(frozen=True)
class HorizonNumbers:
    """Medians over starts at one horizon, in the unit of the observation, and the skill."""

    error: Number
    persistence: Number
    skill: Number
    climatology: Number | None
    episodes: int


@dataclass(frozen=True)
class Curve:
    """Quartiles (3, H) of the error over starts at horizons 1 to H, and the starts (H,) at each."""

    model: np.ndarray
    persistence: np.ndarray
    climatology: np.ndarray | None
    starts: np.ndarray


@dataclass(frozen=True)
class Example:
    """One start in raw units. real: (seen + H, ...), the context first; imagined: (S, H, ...)."""

    name: str
    episode: int
    row: int
    seen: int
    real: np.ndarray
    imagined: np.ndarray


@dataclass(frozen=True)
class KeyPrediction:
    """All about one named observation."""

    unit: str
    horizons: dict[int, HorizonNumbers]
    curve: Curve
    examples: list[Example]


@dataclass(frozen=True)
class Prediction:
    """Open-loop prediction of every observation; `notes` tell what was left out."""

    keys: dict[str, KeyPrediction]
    notes: list[str]


def open_loop(
    model: WorldModel,
    spec: DataSpec,
    held_out: Trajectories,
    options: EvaluationOptions,
    key: jax.Array,
) -> Prediction:
    """Judges `model` on held-out episodes. Each horizon uses the starts for which it exists."""
    horizons, starts, notes = places(held_out, options)
    judge = _Judge(model, spec, held_out, starts, options, horizons[-1], key)
    errors = judge.errors()
    examples = judge.examples(next(iter(errors.values()))[0])
    if len(np.unique(starts.episodes)) == 1:
        notes.append(
            "A single held-out episode: intervals of the prediction errors come from its starts, "
            "which are not independent, and are too narrow."
        )
    bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
    keys = {
        name: KeyPrediction(
            unit=_unit(spec.observations[name]),
            horizons={h: _numbers(e[:, :, h - 1], starts, h, bootstrap) for h in horizons},
            curve=_curve(e, starts),
            examples=examples[name],
        )
        for name, e in errors.items()
    }
    return Prediction(keys, notes)


def start_errors(
    model: WorldModel,
    spec: DataSpec,
    held_out: Trajectories,
    options: EvaluationOptions,
    key: jax.Array,
) -> tuple[Starts, dict[str, np.ndarray]]:
    """The N starts of `open_loop` and the errors behind its numbers, to compare models on them.

    Errors are name -> (K, N, H) at horizons 1 to H, NaN past an episode's end. K: the model,
    persistence and, for vectors, climatology. Starts depend on `held_out` and `options` alone.
    """
    horizons, starts, _ = places(held_out, options)
    return starts, _Judge(model, spec, held_out, starts, options, horizons[-1], key).errors()


def places(
    held_out: Trajectories, options: EvaluationOptions
) -> tuple[list[int], Starts, list[str]]:
    """Horizons, starts, and notes on what is left out."""
    horizons, notes = judged_horizons(held_out.lengths, options)
    chosen = np.arange(held_out.num_episodes)
    if len(chosen) > MOST_EPISODES:
        chosen = np.linspace(0, len(chosen) - 1, MOST_EPISODES).astype(int)
        notes.append(
            f"Prediction is judged on {MOST_EPISODES} of {held_out.num_episodes} held-out episodes."
        )
    episodes = (held_out.lengths, held_out.offsets, chosen)
    return horizons, choose_starts(*episodes, options.context, options.starts, horizons), notes


def judged_horizons(lengths: np.ndarray, options: EvaluationOptions) -> tuple[list[int], list[str]]:
    """The horizons that some episode is long enough for, and a note on those that none is."""
    room = int(max(np.max(lengths - np.minimum(options.context, lengths - 1)), 0))
    asked = sorted(set(options.horizons))
    kept = [h for h in asked if h <= room]
    if not kept:
        raise DataError(
            f"evaluation.horizons={asked}: the longest held-out episode leaves {room} steps "
            f"after evaluation.context={options.context} rows; accepted: a horizon up to that"
        )
    left_out = ", ".join(str(h) for h in asked if h > room)
    note = f"Horizons left out, since no held-out episode is long enough: {left_out}."
    return kept, [note] if left_out else []


def choose_starts(
    lengths: np.ndarray,
    offsets: np.ndarray,
    episodes: np.ndarray,
    context: int,
    count: int,
    horizons: Sequence[int],
) -> Starts:
    """Up to `count` evenly spaced starts in each of `episodes`, after `context` rows.

    They leave room for the longest horizon that the episode has room for at all. An episode no
    longer than the context gives one start, before its last row.
    """
    found = []
    for episode in episodes:
        last = int(lengths[episode]) - 1
        first = min(context - 1, last - 1)
        longest = max((h for h in horizons if first + h <= last), default=None)
        if longest is None:
            continue
        for row in np.unique(np.linspace(first, last - longest, count).round().astype(int)):
            found.append((offsets[episode] + row, min(context, row + 1), last - row, episode))
    return Starts(*np.array(found, np.int64).T)


class _Judge:
    """Runs the model from all starts, in pieces of one size so that it is compiled once."""

    def __init__(
        self,
        model: WorldModel,
        spec: DataSpec,
        held_out: Trajectories,
        starts: Starts,
        options: EvaluationOptions,
        horizon: int,
        key: jax.Array,
    ):
        self.model, self.starts, self.options, self.horizon = model, starts, options, horizon
        self.rows, self.key = rows_of(held_out), key
        self.scales = {name: _scale(o) for name, o in spec.observations.items()}
        vectors = {name: o for name, o in spec.observations.items() if not o.is_image}
        self.means = {name: np.asarray(o.mean, np.float32) for name, o in vectors.items()}
        size = sum(int(np.prod(o.shape)) for o in spec.observations.values())
        floats = horizon * (options.samples * size + model.feature_size)
        fitting = max(1, MOST_BYTES_AT_ONCE // (4 * floats))
        self.piece = int(min(len(starts), MOST_STARTS_AT_ONCE, fitting))

    def errors(self) -> dict[str, np.ndarray]:
        """name -> (2 or 3, N, H), NaN past an episode's end; see `_judge`."""
        pieces = []
        for begin in range(0, len(self.starts), self.piece):
            index = np.arange(begin, min(begin + self.piece, len(self.starts)))
            errors, _ = self._run(index, jax.random.fold_in(self.key, begin))
            pieces.append({name: np.asarray(e)[:, : len(index)] for name, e in errors.items()})
        exists = np.arange(1, self.horizon + 1) <= self.starts.left[:, None]
        joined = {name: np.concatenate([p[name] for p in pieces], 1) for name in pieces[0]}
        # A prediction that is not a number is infinitely wrong, not missing.
        return {
            name: np.where(exists, np.where(np.isnan(e), np.inf, e), np.nan)
            for name, e in joined.items()
        }

    def examples(self, errors: np.ndarray) -> dict[str, list[Example]]:
        """A few starts in full, by the model's error (N, H) at the longest horizon."""
        able = np.flatnonzero(self.starts.left >= self.horizon)
        able = able[np.argsort(errors[able, -1], kind="stable")]
        named = {able[round(q * (len(able) - 1))]: name for name, q in EXAMPLES.items()}
        index = np.array(list(named))[: self.piece]
        _, futures = self._run(index, jax.random.fold_in(self.key, len(self.starts)))
        futures = {name: np.asarray(x[:, : len(index)]) for name, x in futures.items()}
        return {
            name: [self._example(name, named[at], at, x[:, i]) for i, at in enumerate(index)]
            for name, x in futures.items()
        }

    def _example(self, name: str, label: str, at: int, imagined: np.ndarray) -> Example:
        start = self.starts.take(np.array([at]))
        row, seen, episode = int(start.rows[0]), int(start.seen[0]), int(start.episodes[0])
        real = self.rows.observation[name][row - seen + 1 : row + self.horizon + 1]
        return Example(label, episode, row, seen, real, imagined)

    def _run(self, index: np.ndarray, key: jax.Array) -> tuple[Any, Any]:
        """Errors {name: (K, B, H)} and futures {name: (S, B, H, ...)} of B >= len(index) starts."""
        padded = np.resize(index, self.piece)
        starts, context = self.starts.take(padded), self.options.context
        window = context_of(self.rows, starts, context)
        ahead = np.minimum(np.arange(self.horizon + 1), starts.left[:, None])
        future = take(self.rows, starts.rows[:, None] + ahead)
        keys = jax.random.split(key, self.options.samples)
        action, observation = future.action[:, :-1], future.observation
        last, units = starts.seen - 1, (self.scales, self.means)
        return _judge(self.model, window, last, action, observation, *units, keys)


@nnx.jit
def _judge(
    model: WorldModel,
    window: Window,
    last: jax.Array,
    actions: jax.Array,
    observed: dict[str, jax.Array],
    scales: dict[str, jax.Array],
    means: dict[str, jax.Array],
    keys: jax.Array,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Errors {name: (K, B, H)}, and sampled futures {name: (S, B, H, ...)}.

    K: the model, persistence and, where there is a training mean, climatology.

    window: (B, C) rows seen, of which `last` (B,) is the last real one; actions: (B, H, ...);
    observed: (B, H+1, ...), from the last seen row on; keys: (S,)
    """

    def imagine(key: jax.Array) -> dict[str, jax.Array]:
        observe_key, rollout_key = jax.random.split(key)
        states = model.observe(window, observe_key)
        start = jax.tree.map(lambda x: x[jnp.arange(len(last)), last], states)
        states = model.rollout(start, actions, rollout_key)
        return {name: p.mean() for name, p in model.observation(states).items()}

    samples = jax.lax.map(imagine, keys)

    def errors(name: str) -> jax.Array:
        first = samples[name][0]
        predicted = first + (samples[name] - first).mean(0)  # exact where all samples agree
        truth = observed[name][:, 1:].astype(jnp.float32)
        guesses = [predicted, observed[name][:, :1].astype(jnp.float32)]
        guesses += [means[name]] if name in means else []
        guesses = jnp.stack([jnp.broadcast_to(guess, truth.shape) for guess in guesses])
        off = (guesses - truth) / scales[name]
        return jnp.sqrt(jnp.square(off).mean(tuple(range(3, off.ndim))))

    return {name: errors(name) for name in samples}, samples


def context_of(rows: Rows, starts: Starts, context: int) -> Window:
    """The rows seen before each start, (B, context, ...); padding comes after the last one."""
    within = np.arange(context)
    mask = within < starts.seen[:, None]
    first = starts.rows - starts.seen + 1
    taken = take(rows, first[:, None] + np.minimum(within, starts.seen[:, None] - 1))
    return Window(
        observation=taken.observation,
        action=taken.action,
        reward=taken.reward,
        is_first=taken.is_first & mask,
        is_last=taken.is_last & mask,
        is_terminal=taken.is_terminal & mask,
        mask=mask,
    )


def take(rows: Rows, index: np.ndarray) -> Rows:
    return jax.tree.map(lambda x: x[index], rows)


def _scale(observation: ObservationSpec) -> np.ndarray:
    """What one unit of error is: a standard deviation a dimension, or the range of a pixel."""
    return np.asarray(PIXEL_RANGE if observation.is_image else observation.std, np.float32)


def _unit(observation: ObservationSpec) -> str:
    return "share of the pixel range" if observation.is_image else "training standard deviations"


def _numbers(
    errors: np.ndarray, starts: Starts, horizon: int, bootstrap: Bootstrap
) -> HorizonNumbers:
    """From errors (K, N) at one horizon, NaN where it does not exist."""
    there = starts.left >= horizon
    errors, episodes = errors[:, there], starts.episodes[there]
    count = len(np.unique(episodes))
    over = f"{there.sum()} starts in {count} held-out {'episode' if count == 1 else 'episodes'}"
    medians = [bootstrap.clustered(median(e), episodes, f"median over {over}") for e in errors]
    return HorizonNumbers(
        error=medians[0],
        persistence=medians[1],
        skill=bootstrap.clustered(
            skill(errors[0], errors[1]),
            episodes,
            f"1 - median error / median error of persistence, over {over}",
        ),
        climatology=medians[2] if len(medians) > 2 else None,
        episodes=count,
    )


def _curve(errors: np.ndarray, starts: Starts) -> Curve:
    """From errors (K, N, H)."""
    with np.errstate(invalid="ignore"):
        quartiles = np.nanquantile(errors, [0.25, 0.5, 0.75], axis=1).swapaxes(0, 1)
    count = (starts.left[:, None] >= np.arange(1, errors.shape[-1] + 1)).sum(0)
    model, persistence, *climatology = quartiles
    return Curve(model, persistence, climatology[0] if climatology else None, count)
