"""The states that dreams begin in: logged rows, as the model filters them from the rows before."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import Window, gather_windows, step_arrays
from worldmodel.dream.options import DreamOptions
from worldmodel.models.interface import State, WorldModel
from worldmodel.nn.distributions import Distribution, ImageMSE

PIECE = 256  # starts that are filtered at once
Observation = dict[str, jax.Array]


class InitialStates(NamedTuple):
    """S starts.

    state: (S, ...), what is believed there
    observation: {name: (S, ...)}, what the model says of it, in raw units
    action: (S, ...), what was done there, as models see it
    episode, step: (S,) int32, where in the logs that is
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
    logs: Trajectories,
    numbers: np.ndarray,
    options: DreamOptions,
    key: jax.Array,
) -> InitialStates:
    """Starts in the episodes `logs`, whose numbers are `numbers`. `context` rows lead up to each,
    fewer in an episode that is no longer. In a last row there is nothing to do, so none is there.
    """
    context = options.context
    episode, row = _places(
        logs.lengths, context, options.max_initial_states, options.start_from == "first_step"
    )
    seen = np.minimum(context, row + 1)
    first = logs.offsets[episode] + row - seen + 1
    rows, pieces = step_arrays(logs), []
    for begin in range(0, len(row), PIECE):
        # The last piece is filled up, so that one program serves all.
        chosen = np.arange(begin, begin + min(PIECE, len(row))) % len(row)
        window = gather_windows(rows, first[chosen], seen[chosen], context)
        pieces.append(
            filter_windows(model, window, seen[chosen] - 1, jax.random.fold_in(key, begin))
        )
    whole = jax.tree.map(lambda *x: jnp.concatenate(x)[: len(row)], *pieces)
    place = (jnp.asarray(x, jnp.int32) for x in (numbers[episode], row))
    return InitialStates(*whole, *place)


def decode_observation(model: WorldModel, state: State) -> Observation:
    """What the model says is observed in states (...): its mean, in the units and types of logs."""
    return {name: _raw(said) for name, said in model.observation(state).items()}


def _raw(said: Distribution) -> jax.Array:
    mean = said.mean()
    if isinstance(said, ImageMSE):
        return jnp.clip(jnp.round(mean), 0, 255).astype(jnp.uint8)
    return mean


@nnx.jit
def filter_windows(
    model: WorldModel, window: Window, last: jax.Array, key: jax.Array
) -> tuple[State, Observation, jax.Array]:
    """State, observation and action (B, ...) at row `last` (B,) of each window."""
    at = jnp.arange(len(last)), last
    state = jax.tree.map(lambda x: x[at], model.observe(window, key))
    return state, decode_observation(model, state), window.action[at]


def _places(
    lengths: np.ndarray, context: int, most: int, beginning: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Episodes (S,) and rows in them (S,), at most `most`, evenly spaced."""
    first = np.minimum(context, lengths - 1) - 1
    counts = np.ones_like(lengths) if beginning else lengths - 1 - first
    episode = np.repeat(np.arange(len(lengths)), counts)
    row = np.concatenate([f + np.arange(n) for f, n in zip(first, counts, strict=True)])
    if len(row) > most:
        kept = np.linspace(0, len(row) - 1, most).round().astype(int)
        episode, row = episode[kept], row[kept]
    return episode, row
