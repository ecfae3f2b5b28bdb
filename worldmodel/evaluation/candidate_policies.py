"""Candidate policies of different quality, derived from a run's own, that act in a model and in the
real environment alike: from the first observation of the same episodes. One of them is cloned from
the dataset.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import Window, build_window_index, gather_windows, step_arrays
from worldmodel.environments.real import Observation
from worldmodel.evaluation.rank_metrics import ImaginedReturn
from worldmodel.evaluation.returns import FeaturePolicy, StatePolicy, observed_window
from worldmodel.models.interface import State, WorldModel
from worldmodel.nn.heads import ActionHead
from worldmodel.nn.learner import Params, split_module

NOISE = (0.1, 0.25, 0.5, 0.75)  # shares of actions that are drawn at random
WEIGHTS = (0.5, 1.0, 2.0)  # noise on parameters, in standard deviations of each array
# Behavior cloning
WINDOWS, ROWS = 256, 32  # of the dataset, evenly spaced
AT_ONCE = 8  # windows: an image of each row is held at full size, with dozens of channels
UNITS, LAYERS = 128, 2
UPDATES, BATCH, LEARNING_RATE = 500, 256, 1e-3


class EpsilonPolicy(FeaturePolicy):
    """Acts as the policy would, by its mode; a `share` of its actions is uniform on [low, high]
    instead. Classes, where actions are discrete, are those from `low` to `high` of [-1, 1].
    """

    def __init__(
        self,
        policy: nnx.Module,
        action: ActionSpec,
        share: float = 0.0,
        low: float = -1.0,
        high: float = 1.0,
    ):
        super().__init__(policy)
        self.action = action
        self.mixture = nnx.Variable(jnp.array([share, low, high], jnp.float32))

    def __call__(
        self, model: WorldModel, state: State, memory: tuple[()], key: jax.Array
    ) -> tuple[tuple[()], jax.Array]:
        share, low, high = self.mixture[...]
        action = self.policy(model.features(state)).mode()
        which_key, other_key = jax.random.split(key)
        other = low + (high - low) * jax.random.uniform(other_key, action.shape)
        if self.action.discrete:
            size = self.action.size
            other = jnp.clip(jnp.floor((other + 1) / 2 * size), 0, size - 1)
        elif self.action.kind == "mixed":
            other = self.action.from_unit(other)
        which = jax.random.uniform(which_key, action.shape[:1]) < share
        which = which.reshape(-1, *[1] * (action.ndim - 1))
        return memory, jnp.where(which, other.astype(action.dtype), action)


def candidate_policies(
    policy: nnx.Module,
    name: str,
    earlier_policies: Mapping[str, nnx.Module],
    action: ActionSpec,
) -> dict[str, EpsilonPolicy]:
    """By name: the policy, called `name`; earlier ones that act on the same features; the policy
    with noise on its actions or its parameters; constant and uniform actions. All are one program
    with other numbers.
    """
    mixture = partial(EpsilonPolicy, action=action)
    policies = {name: mixture(policy)}
    policies |= {name: mixture(other) for name, other in earlier_policies.items()}
    policies |= {noisy(share): mixture(policy, share=share) for share in NOISE}
    policies |= {f"parameters, noise {s:g}": mixture(_disturbed(policy, s)) for s in WEIGHTS}
    constant = {"lowest action": -1.0, "middle action": 0.0, "highest action": 1.0}
    if set(action.classes) == {2}:
        del constant["middle action"]  # is the highest one
    policies |= {name: mixture(policy, share=1.0, low=a, high=a) for name, a in constant.items()}
    return policies | {"random": mixture(policy, share=1.0)}


def noisy(share: float) -> str:
    """The name of the policy with a share of random actions."""
    return f"{100 * share:g} % random actions"


def imagined_returns(
    model: WorldModel,
    chooser: StatePolicy,
    spec: DataSpec,
    first: Observation,
    lengths: Sequence[int],
    key: jax.Array,
) -> ImaginedReturn:
    """The imagined returns of a policy from the first observations {name: (E, ...)} up to
    each of the lengths, (E, lengths): undiscounted, each reward times the probability of getting
    there.

    Choosers that differ in parameters alone share one compiled program.
    """
    action = spec.action
    count = len(next(iter(first.values())))
    seen = {name: value[:, None] for name, value in first.items()}
    window = observed_window(seen, np.zeros((count, 1, *action.shape), action.dtype))
    rewards = np.asarray(_rewards(model, chooser, window, key, max(lengths), action))
    earned = rewards.cumsum(1)[:, np.asarray(lengths) - 1]
    return ImaginedReturn(np.where(np.isnan(earned), -np.inf, earned))


@partial(nnx.jit, static_argnames=("steps", "spec"))
def _rewards(
    model: WorldModel,
    chooser: StatePolicy,
    window: Window,
    key: jax.Array,
    steps: int,
    spec: ActionSpec,
) -> jax.Array:
    """(B, steps) from the state after a window (B, 1)."""
    observe_key, stepper_key, key = jax.random.split(key, 3)
    start = jax.tree.map(lambda x: x[:, 0], model.observe(window, observe_key))
    batch = window.mask.shape[0]
    step = model.make_step(start, stepper_key)

    def advance(carry: tuple[State, Any, jax.Array], key: jax.Array) -> tuple[Any, jax.Array]:
        state, memory, reach = carry
        act_key, model_key = jax.random.split(key)
        memory, action = chooser(model, state, memory, act_key)
        action = spec.clip(action)  # as the environment would
        state = step(state, action, model_key)
        earned = reach * model.reward(state).mean()
        return (state, memory, reach * (1 - model.terminal(state).mean())), earned

    initial = (start, chooser.init_carry(batch), jnp.ones(batch))
    return jax.lax.scan(advance, initial, jax.random.split(key, steps))[1].T


def _disturbed(policy: nnx.Module, scale: float) -> nnx.Module:
    """The policy with noise on every array of parameters, a fixed draw for each scale."""
    definition, params = nnx.split(policy)
    generator = np.random.default_rng(zlib.crc32(f"{scale:g}".encode()))

    def moved(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        values = np.asarray(x)
        noise = generator.standard_normal(x.shape).astype(x.dtype)
        return jax.device_put(values + scale * values.std() * noise, x.sharding)

    return nnx.merge(definition, jax.tree.map(moved, params))


def clone_policy(
    model: WorldModel, spec: DataSpec, dataset: Trajectories, key: jax.Array
) -> ActionHead:
    """Behavior cloning: maximizes the likelihood of the logged actions, given the features of some
    windows of the dataset.
    """
    index = build_window_index(dataset, ROWS)
    chosen = np.linspace(0, index.count - 1, min(WINDOWS, index.count)).astype(int)
    window = gather_windows(
        step_arrays(dataset), index.starts[chosen], index.valid_lengths[chosen], ROWS
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

    def features_of(window_and_key: tuple[Window, jax.Array]) -> jax.Array:
        window, key = window_and_key
        return model.features(model.observe(jax.tree.map(lambda x: x[None], window), key))[0]

    keys = jax.random.split(observe_key, len(window.mask))
    features = jax.lax.map(features_of, (window, keys), batch_size=AT_ONCE)
    features = features.reshape(-1, features.shape[-1])
    actions = window.action.reshape(len(features), *window.action.shape[2:])
    taken = (window.mask & ~window.is_last).ravel()  # the last step of an episode has no action
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

    initial = (params, optimizer.init(params))
    return jax.lax.scan(update, initial, jax.random.split(key, UPDATES))[0][0]
