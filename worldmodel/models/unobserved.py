"""Steps whose observation was not logged: the state there is what the model predicts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from worldmodel.data.windows import Window
from worldmodel.models.interface import State, WorldModel

KEY = 0x0B5E  # of the predictions, so that other random numbers do not depend on them


def predict_unobserved(
    model: WorldModel,
    states: State,
    window: Window,
    key: jax.Array,
    state: State | None,
    action: jax.Array | None,
) -> State:
    """Filtered states (B, T, ...) in which those of steps without an observation are replaced by
    the model's prediction from the step before.

    Such a step is the last of its episode, so nothing follows it but padding. Without any in the
    dataset (`window.observed` is None) the states are returned as they are.

    Args:
        states: the result of a filter that took the placeholders for observations
        state, action: (B, ...) of the step before the window, as `observe` receives them
    """
    if window.observed is None:
        return states
    state = model.initial(window.shape[:1]) if state is None else state
    action = jnp.zeros_like(window.action[:, 0]) if action is None else action
    observed = window.observed
    first = jnp.argmin(observed, 1)  # without an observation; 0 if all steps have one

    def before(initial: jax.Array, steps: jax.Array) -> jax.Array:
        """(B, ...) of the step before `first`."""
        all_steps = jnp.concatenate([initial[:, None], steps], 1)
        return jax.vmap(lambda x, step: x[step])(all_steps, first)

    previous = jax.tree.map(before, state, states)
    predicted = model.step(previous, before(action, window.action), jax.random.fold_in(key, KEY))

    def merged(steps: jax.Array, predicted: jax.Array) -> jax.Array:
        known = jnp.expand_dims(observed, range(2, steps.ndim))
        return jnp.where(known, steps, predicted[:, None])

    return jax.tree.map(merged, states, predicted)
