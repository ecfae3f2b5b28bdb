"""Returns in the real environment over a fixed set of episodes, all of them run to their end.

Episode j has its own seed and a lane of its own in the policy's batch, so its return depends
neither on how many environments run at once nor on when others end. Keeping the first N episodes
that finish would favour short ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.data.readers.gymnasium import LONGEST_EPISODE_STEPS
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.evaluation.environments import Observation, RealEnvironment
from worldmodel.models.interface import State, WorldModel

MOST_LANES = 64  # episodes in one call of the policy
PLANNED_LANES = 8  # each of them holds hundreds of imagined rollouts

# (what it remembers, None at first; observations (E, ...); seeds of the episodes (E,); step)
# -> (what it remembers, raw actions (E, ...))
Act = Callable[[Any, Observation, np.ndarray, int], tuple[Any, np.ndarray]]


class Memory(NamedTuple):
    """What one who acts with a model carries from row to row."""

    state: State
    action: jax.Array  # the last one taken
    own: Any  # the chooser's


def episode_returns(
    environment: str,
    spec: DataSpec,
    act: Act,
    episodes: int,
    seed: int,
    parallel: int | None = None,
    lanes: int = MOST_LANES,
) -> np.ndarray:
    """(episodes,) undiscounted returns; episode j has seed + j.

    A call of `act` serves `lanes` episodes. `parallel` environments run at once (none: as many as
    there are lanes). They step together, with one call of `act` a step; it changes the time taken,
    not the returns.
    """
    lanes = min(episodes, lanes)
    parallel = min(parallel or lanes, lanes)
    returns = np.zeros(episodes)
    with _environments(environment, spec, parallel) as environments:
        for block in range(0, episodes, lanes):
            seeds = seed + block + np.arange(lanes)
            used = min(lanes, episodes - block)
            for first in range(0, used, parallel):
                group = np.arange(first, min(first + parallel, used))
                returns[block + group] = _play(environments, group, seeds, act, spec)
    return returns


def random_policy(spec: DataSpec) -> Act:
    """Uniform over the actions; every episode draws from a generator of its own seed."""
    action = spec.action

    def draw(generator: np.random.Generator) -> np.ndarray:
        if action.discrete:
            return np.asarray(generator.integers(action.size), np.int32)
        return generator.uniform(-1, 1, action.size).astype(np.float32)

    def act(
        generators: Any, observation: Observation, seeds: np.ndarray, step: int
    ) -> tuple[Any, np.ndarray]:
        if generators is None:
            generators = [np.random.default_rng([seed, 1]) for seed in seeds.tolist()]
        return generators, action.denormalize(np.stack([draw(g) for g in generators]))

    return act


class Chooser(Protocol):
    """Chooses an action (B, ...) in a state (B, ...); what it remembers starts as `memory(B)`."""

    def memory(self, batch: int) -> Any: ...

    def __call__(
        self, model: WorldModel, state: State, memory: Any, key: jax.Array
    ) -> tuple[Any, jax.Array]: ...


class Reactive(nnx.Module):
    """Acts on the features: the mode of a policy's distribution, or a draw with `sample`."""

    def __init__(self, policy: nnx.Module, sample: bool = False):
        self.policy, self.sample = policy, sample

    def memory(self, batch: int) -> tuple[()]:
        return ()

    def __call__(
        self, model: WorldModel, state: State, memory: tuple[()], key: jax.Array
    ) -> tuple[tuple[()], jax.Array]:
        chosen = self.policy(model.features(state))
        return memory, chosen.sample(key) if self.sample else chosen.mode()


def model_policy(model: WorldModel, chooser: Chooser, spec: DataSpec) -> Act:
    """Filters what it sees with `model.observe`, row by row, and acts as `chooser`, a module, would
    in the state. All randomness belongs to the episode's seed.
    """
    definition, params = nnx.split((model, chooser))

    @jax.jit
    def advance(
        params: Any, memory: Memory, observation: Observation, seeds: jax.Array, step: jax.Array
    ) -> tuple[Memory, jax.Array]:
        model, chooser = nnx.merge(definition, params)

        def one(memory: Memory, observation: Observation, seed: jax.Array) -> Any:
            filter_key, act_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
            window = _row(observation, memory.action, step == 0)
            state = model.observe(window, filter_key, memory.state, memory.action)
            state = jax.tree.map(lambda x: x[:, 0], state)
            own, action = chooser(model, state, memory.own, act_key)
            if not spec.action.discrete:
                action = jnp.clip(action, -1, 1)  # what the environment will be told
            return Memory(state, action.astype(memory.action.dtype), own), action[0]

        return jax.vmap(one)(memory, observation, seeds)

    def act(
        memory: Any, observation: Observation, seeds: np.ndarray, step: int
    ) -> tuple[Any, np.ndarray]:
        if memory is None:
            memory = _nothing(model, chooser, spec, len(seeds))
        memory, action = advance(params, memory, observation, seeds, np.int32(step))
        return memory, spec.action.denormalize(np.asarray(action))

    return act


def _play(
    environments: list[RealEnvironment],
    group: np.ndarray,
    seeds: np.ndarray,
    act: Act,
    spec: DataSpec,
) -> np.ndarray:
    """Returns of the episodes in the lanes `group`; the other lanes hold zeros and go unread."""
    returns, running = np.zeros(len(group)), np.ones(len(group), bool)
    seen = {key: np.zeros((len(seeds), *o.shape), o.dtype) for key, o in spec.observations.items()}
    for i, lane in enumerate(group):
        _put(seen, lane, environments[i].reset(int(seeds[lane])))
    memory, step = None, 0
    while running.any() and step < LONGEST_EPISODE_STEPS:
        memory, actions = act(memory, seen, seeds, step)
        # The device may still read the last arrays: the next row goes into new ones.
        seen = {key: value.copy() for key, value in seen.items()}
        for i in np.flatnonzero(running):
            observation, reward, over = environments[i].step(actions[group[i]])
            _put(seen, group[i], observation)
            returns[i] += reward
            running[i] = not over
        step += 1
    return returns


@contextlib.contextmanager
def _environments(name: str, spec: DataSpec, count: int) -> Iterator[list[RealEnvironment]]:
    with contextlib.ExitStack() as stack:
        made = [RealEnvironment(name, spec) for _ in range(count)]
        for environment in made:
            stack.callback(environment.close)
        yield made


def _put(seen: Observation, lane: int, observation: Observation) -> None:
    for key, value in observation.items():
        seen[key][lane] = value


def _nothing(model: WorldModel, chooser: Chooser, spec: DataSpec, lanes: int) -> Memory:
    """What is remembered before the first row, one batch of size 1 a lane: (E, 1, ...)."""
    size = () if spec.action.discrete else (spec.action.size,)
    action = jnp.zeros((1, *size), jnp.int32 if spec.action.discrete else jnp.float32)
    memory = Memory(model.initial((1,)), action, chooser.memory(1))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (lanes, *x.shape)), memory)


def _row(observation: dict[str, jax.Array], action: jax.Array, first: jax.Array) -> Window:
    """A single row as a window (1, 1, ...); what will be done at it is not known yet."""
    no = jnp.zeros((1, 1), bool)
    return Window(
        observation={key: value[None, None] for key, value in observation.items()},
        action=jnp.zeros_like(action)[:, None],
        reward=jnp.zeros((1, 1)),
        is_first=jnp.broadcast_to(first, (1, 1)),
        is_last=no,
        is_terminal=no,
        mask=~no,
    )
