"""A policy that does what was logged, as far as a model's features tell: behaviour cloning."""

from __future__ import annotations

import jax
import numpy as np
import optax
from flax import nnx

from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import Window, build_window_index, gather_windows, step_arrays
from worldmodel.models.interface import WorldModel
from worldmodel.nn.heads import ActionHead
from worldmodel.nn.learner import Params, split_module

WINDOWS, ROWS = 256, 32  # of the logs, evenly spaced
AT_ONCE = 8  # windows: an image of each row is held at full size, with dozens of channels
UNITS, LAYERS = 128, 2
UPDATES, BATCH, LEARNING_RATE = 500, 256, 1e-3


def clone_policy(
    model: WorldModel, spec: DataSpec, logs: Trajectories, key: jax.Array
) -> ActionHead:
    """Trained to make the logged actions likely, on the features of some windows of the logs."""
    index = build_window_index(logs, ROWS)
    chosen = np.linspace(0, index.count - 1, min(WINDOWS, index.count)).astype(int)
    window = gather_windows(
        step_arrays(logs), index.starts[chosen], index.valid_lengths[chosen], ROWS
    )
    build_key, key = jax.random.split(key)
    head = ActionHead(
        model.feature_size, spec.action, UNITS, LAYERS, rngs=nnx.Rngs(params=build_key)
    )
    definition, _ = split_module(head)
    return nnx.merge(definition, _trained(model, head, window, key))


@nnx.jit
def _trained(model: WorldModel, head: ActionHead, window: Window, key: jax.Array) -> Params:
    observe_key, key = jax.random.split(key)

    def features_of(given: tuple[Window, jax.Array]) -> jax.Array:
        window, key = given
        return model.features(model.observe(jax.tree.map(lambda x: x[None], window), key))[0]

    keys = jax.random.split(observe_key, len(window.mask))
    features = jax.lax.map(features_of, (window, keys), batch_size=AT_ONCE)
    features = features.reshape(-1, features.shape[-1])
    actions = window.action.reshape(len(features), *window.action.shape[2:])
    taken = (window.mask & ~window.is_last).ravel()  # nothing is done at an episode's last row
    shares = taken / taken.sum()
    definition, params = split_module(head)
    optimizer = optax.adam(LEARNING_RATE)

    def loss(params: Params, rows: jax.Array) -> jax.Array:
        return -nnx.merge(definition, params)(features[rows]).log_prob(actions[rows]).mean()

    def update(carry: tuple[Params, optax.OptState], key: jax.Array) -> tuple:
        params, state = carry
        rows = jax.random.choice(key, len(features), (BATCH,), p=shares)
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        return (optax.apply_updates(params, updates), state), None

    begun = (params, optimizer.init(params))
    return jax.lax.scan(update, begun, jax.random.split(key, UPDATES))[0][0]
