"""Where dreams begin: logged steps, as the model filters them from the steps before."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import Window, gather_windows, step_arrays
from worldmodel.models.interface import State, WorldModel
from worldmodel.nn.distributions import Distribution, ImageMSE

CHUNK = 256  # initial states that are filtered at once
Observation = dict[str, jax.Array]


class InitialStates(NamedTuple):
    """S states that dreams begin in.

    state: (S, ...), the model's state given the past
    observation: name -> (S, ...), its prediction of the observation, in raw units
    action: (S, ...), the logged action, in [-1, 1] or a class
    episode, step: (S,) int32, the place in the dataset
    """

    state: State
    observation: Observation
    action: jax.Array
    episode: jax.Array
    step: jax.Array

    @property
    def size(self) -> int:
        return len(self.episode)


def collect_initial_states(
    model: WorldModel,
    dataset: Trajectories,
    episode_ids: np.ndarray,
    *,
    context: int,
    max_states: int,
    first_step_only: bool,
    key: jax.Array,
) -> InitialStates:
    """Filters up to `max_states` initial states in the E episodes of `dataset`.

    episode_ids: (E,) numbers of the episodes
    context: steps up to each state; fewer in an episode that is not longer. The last step of an
        episode has no action, so no dream begins there.
    first_step_only: one state an episode, the first after the context
    key: for the noise of the filter
    """
    context = min(context, int(dataset.lengths.max()))  # no window is longer than its episode
    episode, step = _places(dataset.lengths, context, max_states, first_step_only)
    lengths = np.minimum(context, step + 1)
    first = dataset.offsets[episode] + step - lengths + 1
    arrays, chunks = step_arrays(dataset), []
    for begin in range(0, len(step), CHUNK):
        # The last chunk is filled up, so that one program serves all.
        chosen = np.arange(begin, begin + min(CHUNK, len(step))) % len(step)
        window = gather_windows(arrays, first[chosen], lengths[chosen], context)
        chunk_key = jax.random.fold_in(key, begin)
        chunks.append(filter_windows(model, window, lengths[chosen] - 1, chunk_key))
    filtered = jax.tree.map(lambda *x: jnp.concatenate(x)[: len(step)], *chunks)
    place = (jnp.asarray(x, jnp.int32) for x in (episode_ids[episode], step))
    return InitialStates(*filtered, *place)


def decode_observation(model: WorldModel, state: State) -> Observation:
    """The predicted observation of states (...): its mean, in the dataset's units and types."""
    return {name: _raw(p) for name, p in model.observation(state).items()}


def _raw(prediction: Distribution) -> jax.Array:
    mean = prediction.mean()
    if isinstance(prediction, ImageMSE):
        return jnp.clip(jnp.round(mean), 0, 255).astype(jnp.uint8)
    return mean


@nnx.jit
def filter_windows(
    model: WorldModel, window: Window, last: jax.Array | np.ndarray, key: jax.Array
) -> tuple[State, Observation, jax.Array]:
    """State, predicted observation and action (B, ...) at step `last` (B,) of each window."""
    at = jnp.arange(len(last)), last
    state = jax.tree.map(lambda x: x[at], model.observe(window, key))
    return state, decode_observation(model, state), window.action[at]


def _places(
    lengths: np.ndarray, context: int, max_states: int, first_step_only: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Episodes (S,) and steps in them (S,), at most `max_states`, evenly spaced."""
    first = np.minimum(context, lengths - 1) - 1
    counts = np.ones_like(lengths) if first_step_only else lengths - 1 - first
    episode = np.repeat(np.arange(len(lengths)), counts)
    step = np.concatenate([f + np.arange(n) for f, n in zip(first, counts, strict=True)])
    if len(step) > max_states:
        kept = np.linspace(0, len(step) - 1, max_states).round().astype(int)
        episode, step = episode[kept], step[kept]
    return episode, step
