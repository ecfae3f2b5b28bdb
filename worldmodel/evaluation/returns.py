"""Returns in the real environment over a fixed set of episodes, all of them run to their end.

Episode j has its own seed and a lane of its own in the policy's batch, so its return depends
neither on how many environments run at once nor on when others end. Keeping the first N episodes
that finish would favour short ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from worldmodel.config.environment_ids import EnvironmentId
from worldmodel.data.collection import LONGEST_EPISODE_STEPS
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.environments.real import Observation, RealEnvironment
from worldmodel.errors import check_count
from worldmodel.evaluation.statistics import finite_or_none
from worldmodel.models.interface import State, WorldModel
from worldmodel.nn.learner import split_module

MOST_LANES = 64  # episodes in one call of the policy
PLANNED_LANES = 8  # each of them holds hundreds of imagined rollouts

# (what it remembers, None at first; observations (E, ...); seeds of the episodes (E,); step)
# -> (what it remembers, raw actions (E, ...))
ActFunction = Callable[[Any, Observation, np.ndarray, int], tuple[Any, np.ndarray]]


class ActorState(NamedTuple):
    """What an agent with a model carries from step to step."""

    state: State
    action: jax.Array  # the last one taken
    own: Any  # the chooser's


@dataclass(frozen=True)
class EvaluationEpisodes:
    """E episodes in the real environment, one row each.

    seeds: (E,); rewards: (E, T), zeros after an episode's end; lengths: (E,) steps
    terminated, truncated: (E,) bool, as the environment reports; an episode that it does not end in
    time is truncated
    success: (E,) bool, whether it was reported at any step; None if it never is
    """

    seeds: np.ndarray
    rewards: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray | None

    @property
    def returns(self) -> np.ndarray:
        """(E,) undiscounted. Summed in order: what is added after the end changes no digit. What is
        not a number is the worst.
        """
        earned = self.rewards.cumsum(1)[:, -1]
        return np.where(np.isnan(earned), -np.inf, earned)

    def rows(self) -> list[dict[str, Any]]:
        """Plain JSON, a dict an episode; a return that is not finite is null."""
        success = [None] * len(self.seeds) if self.success is None else self.success.tolist()
        columns = {
            "seed": self.seeds.tolist(),
            "return": [finite_or_none(x) for x in self.returns],
            "length": self.lengths.tolist(),
            "terminated": self.terminated.tolist(),
            "truncated": self.truncated.tolist(),
            "success": success,
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def run_episodes(
    environment: str | EnvironmentId,
    spec: DataSpec,
    act: ActFunction,
    episodes: int,
    seed: int,
    parallel: int | None = None,
    lanes: int = MOST_LANES,
) -> EvaluationEpisodes:
    """Plays a fixed set of episodes, all to their end; episode j has seed + j.

    A call of `act` serves `lanes` episodes. `parallel` environments run at once (none: as many as
    there are lanes). They step together, with one call of `act` a step; it changes the time taken,
    not the episodes.
    """
    for name, count, low in (("episodes", episodes, 1), ("seed", seed, 0), ("lanes", lanes, 1)):
        check_count(name, count, low)
    if parallel is not None:
        check_count("parallel", parallel)
    parallel = min(parallel or lanes, lanes, episodes)
    with environments_of(environment, spec, parallel) as environments:
        return run_episodes_in(environments, spec, act, episodes, seed, min(episodes, lanes))


def run_episodes_in(
    environments: Sequence[RealEnvironment],
    spec: DataSpec,
    act: ActFunction,
    episodes: int,
    seed: int,
    lanes: int = MOST_LANES,
    steps: int = LONGEST_EPISODE_STEPS,
) -> EvaluationEpisodes:
    """`run_episodes` in existing environments; episodes are cut after `steps`."""
    parts = []
    for block in range(0, episodes, lanes):
        seeds = seed + block + np.arange(lanes)
        used = min(lanes, episodes - block)
        for first in range(0, used, len(environments)):
            group = np.arange(first, min(first + len(environments), used))
            parts.append(_play(environments, group, seeds, act, spec, steps))
    return _joined(parts)


def random_policy(spec: DataSpec) -> ActFunction:
    """Uniform over the actions; every episode draws from a generator of its own seed."""
    action = spec.action

    def draw(generator: np.random.Generator) -> np.ndarray:
        if action.discrete:
            return np.asarray(generator.integers(action.size), np.int32)
        drawn = generator.uniform(-1, 1, action.size).astype(np.float32)
        return action.from_unit(drawn) if action.kind == "mixed" else drawn

    def act(
        generators: Any, observation: Observation, seeds: np.ndarray, step: int
    ) -> tuple[Any, np.ndarray]:
        if generators is None:
            generators = [np.random.default_rng([seed, 1]) for seed in seeds.tolist()]
        return generators, action.denormalize(np.stack([draw(g) for g in generators]))

    return act


class StatePolicy(Protocol):
    """Chooses actions (B, ...) in states (B, ...); its memory starts as `init_carry(B)`."""

    def init_carry(self, batch: int) -> Any: ...

    def __call__(
        self, model: WorldModel, state: State, memory: Any, key: jax.Array, /
    ) -> tuple[Any, jax.Array]: ...


class FeaturePolicy(nnx.Module):
    """Acts on the features: the mode of a policy's distribution, or a draw with `sample`."""

    def __init__(self, policy: nnx.Module, sample: bool = False):
        self.policy, self.sample = policy, sample

    def init_carry(self, batch: int) -> tuple[()]:
        return ()

    def __call__(
        self, model: WorldModel, state: State, memory: tuple[()], key: jax.Array
    ) -> tuple[tuple[()], jax.Array]:
        chosen = self.policy(model.features(state))
        return memory, chosen.sample(key) if self.sample else chosen.mode()


def model_policy(model: WorldModel, chooser: StatePolicy, spec: DataSpec) -> ActFunction:
    """Filters what it sees with `model.observe`, row by row, and acts as `chooser`, a module, would
    in the state. All randomness belongs to the episode's seed.
    """
    return model_policies(model, [chooser], spec)[0]


def model_policies(
    model: WorldModel, choosers: Sequence[StatePolicy], spec: DataSpec
) -> list[ActFunction]:
    """`model_policy` of several choosers that differ in parameters alone: one compiled program."""
    definition, _ = split_module((model, choosers[0]))

    # Compiled, so that its arrays lie where the parameters do, as those of every later step will:
    # else the first step would be a program of its own.
    @partial(jax.jit, static_argnames="lanes", keep_unused=True)
    def begin(params: Any, lanes: int) -> ActorState:
        model, chooser = nnx.merge(definition, params)
        return _initial_state(model, chooser, spec, lanes)

    @jax.jit
    def advance(
        params: Any, memory: ActorState, observation: Observation, seeds: jax.Array, step: jax.Array
    ) -> tuple[ActorState, jax.Array]:
        model, chooser = nnx.merge(definition, params)

        def one(memory: ActorState, observation: Observation, seed: jax.Array) -> Any:
            filter_key, act_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
            seen = {key: jnp.asarray(value)[None, None] for key, value in observation.items()}
            unknown = jnp.zeros_like(memory.action)[:, None]  # what will be done there
            window = observed_window(seen, unknown, step == 0)
            state = model.observe(window, filter_key, memory.state, memory.action)
            state = jax.tree.map(lambda x: x[:, 0], state)
            own, action = chooser(model, state, memory.own, act_key)
            action = spec.action.clip(action)  # as the environment will receive it
            return ActorState(state, action.astype(memory.action.dtype), own), action[0]

        return jax.vmap(one)(memory, observation, seeds)

    def acting(chooser: StatePolicy) -> ActFunction:
        _, params = split_module((model, chooser))

        def act(
            memory: Any, observation: Observation, seeds: np.ndarray, step: int
        ) -> tuple[Any, np.ndarray]:
            if memory is None:
                memory = begin(params, len(seeds))
            memory, action = advance(params, memory, observation, seeds, np.int32(step))
            return memory, spec.action.denormalize(np.asarray(action))

        return act

    return [acting(chooser) for chooser in choosers]


def _play(
    environments: Sequence[RealEnvironment],
    group: np.ndarray,
    seeds: np.ndarray,
    act: ActFunction,
    spec: DataSpec,
    steps: int,
) -> EvaluationEpisodes:
    """The episodes in the lanes `group`; the other lanes hold zeros and go unread."""
    count = len(group)
    running, terminated, truncated, success, reported = np.zeros((5, count), bool)
    running[:], lengths, rewards = True, np.zeros(count, int), []
    seen = {key: np.zeros((len(seeds), *o.shape), o.dtype) for key, o in spec.observations.items()}
    for i, lane in enumerate(group):
        for key, value in environments[i].reset(int(seeds[lane])).items():
            seen[key][lane] = value
    memory, step = None, 0
    while running.any() and step < steps:
        memory, actions = act(memory, seen, seeds, step)
        # The device may still read the last arrays: the next row goes into new ones.
        seen = {key: value.copy() for key, value in seen.items()}
        rewards.append(np.zeros(count))
        for i in np.flatnonzero(running).tolist():
            outcome = environments[i].step(actions[group[i]])
            for key, value in outcome.observation.items():
                seen[key][group[i]] = value
            rewards[-1][i] = outcome.reward
            terminated[i], truncated[i] = outcome.terminated, outcome.truncated
            reported[i] |= outcome.success is not None
            success[i] |= bool(outcome.success)
            lengths[i] += 1
            running[i] = not (outcome.terminated or outcome.truncated)
        step += 1
    return EvaluationEpisodes(
        seeds[group],
        np.stack(rewards, 1),
        lengths,
        terminated,
        truncated | running,
        success if reported.any() else None,
    )


def _joined(parts: Sequence[EvaluationEpisodes]) -> EvaluationEpisodes:
    longest = max(part.rewards.shape[1] for part in parts)
    never = all(part.success is None for part in parts)
    success = [np.zeros(len(p.seeds), bool) if p.success is None else p.success for p in parts]
    padded = [np.pad(p.rewards, ((0, 0), (0, longest - p.rewards.shape[1]))) for p in parts]
    return EvaluationEpisodes(
        seeds=np.concatenate([part.seeds for part in parts]),
        rewards=np.concatenate(padded),
        lengths=np.concatenate([part.lengths for part in parts]),
        terminated=np.concatenate([part.terminated for part in parts]),
        truncated=np.concatenate([part.truncated for part in parts]),
        success=None if never else np.concatenate(success),
    )


@contextlib.contextmanager
def environments_of(
    identity: str | EnvironmentId, spec: DataSpec, count: int
) -> Iterator[list[RealEnvironment]]:
    """`count` environments, closed in the end."""
    with contextlib.ExitStack() as stack:
        made = [RealEnvironment(identity, spec) for _ in range(count)]
        for environment in made:
            stack.callback(environment.close)
        yield made


def _initial_state(
    model: WorldModel, chooser: StatePolicy, spec: DataSpec, lanes: int
) -> ActorState:
    """The memory before the first step, one batch of size 1 for each lane: (E, 1, ...)."""
    action = jnp.zeros((1, *spec.action.shape), spec.action.dtype)
    memory = ActorState(model.initial((1,)), action, chooser.init_carry(1))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (lanes, *x.shape)), memory)


def observed_window(
    observation: Mapping[str, ArrayLike], action: ArrayLike, begins: ArrayLike = True
) -> Window:
    """T steps of B episodes, (B, T, ...), without their rewards; `begins`: whether the first one is
    an episode's first.
    """
    actions = jnp.asarray(action)
    no = jnp.zeros(actions.shape[:2], bool)
    return Window(
        observation={key: jnp.asarray(value) for key, value in observation.items()},
        action=actions,
        reward=jnp.zeros(no.shape),
        is_first=no.at[:, 0].set(begins),
        is_last=no,
        is_terminal=no,
        mask=~no,
    )
