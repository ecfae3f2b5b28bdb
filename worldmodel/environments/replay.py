"""Logged actions replayed in an environment, from logged states: do logs and environment agree?

A replay begins at a logged step, whose state is set, or at the reset of a recorded seed. It takes
the logged actions and compares what it observes, earns and ends with what was logged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from worldmodel.config.environment_ids import EnvironmentId
from worldmodel.data.environment import GuardedEnvironment
from worldmodel.data.offsets import add_offset
from worldmodel.data.spaces import leaves
from worldmodel.data.trajectories import Trajectories
from worldmodel.environments.real import RealEnvironment
from worldmodel.environments.states import StateSetter, is_state, state_setter
from worldmodel.errors import UserError

HORIZONS = (1, 5, 15, 50)
STARTS = 25  # of an episode
LONG_STARTS = 5  # of those, replayed to the longest horizon; the others for a step
LAST = 10  # steps before an end that are replayed to it
PARTED = 0.01  # of a typical step, or of the rewards' deviation, from which on they part
TOGETHER = 1e-3  # of a typical step, up to which a replay has not parted by its own errors
SHIFTS = {-1: "the row before", 1: "the row after"}
REPEATED = 20  # steps that are taken twice, to see whether the environment is random
CANNOT = (
    "its state cannot be set from what is logged, and no seeds of its resets are recorded. "
    "Accepted: Pendulum, CartPole, MountainCar, Acrobot; MuJoCo environments that observe their "
    "velocities and all but the first positions, or logs with states or with qpos and qvel (where "
    "they are not read yet: roles={infos/qpos: observation, infos/qvel: observation}); and "
    "episodes of data=gymnasium or Minari, which record seeds"
)


@dataclass(frozen=True)
class Step:
    """One replayed step, compared with the logged one.

    episode: its number; row: of the logged action in the episode
    horizon: steps since the state was set
    error: root mean square difference of the observation, in training standard deviations
    share: the same, in typical changes over a step
    before: `share` of the step before in the same replay
    reward: absolute difference of the reward; not a number where none was logged
    ended: whether the episode ended, in the logs and in the environment
    worst: name and dimension of the largest difference, and both values, in the logs and here
    """

    episode: int
    row: int
    horizon: int
    error: float
    share: float
    before: float
    reward: float
    ended: tuple[bool, bool]
    worst: tuple[str, int, float, float]


@dataclass(frozen=True)
class Replay:
    """What was replayed.

    steps: all steps, in order
    setting: what states were taken from, in words
    undetermined: starts whose state the logs do not determine
    random: whether the environment differs from itself, after the same state and action
    reward_std: standard deviation of the logged rewards, None without rewards
    from_states: whether states were set, at steps of an episode
    shifts: median `share` after one step by the row that the action was taken from, 0 first
    """

    steps: Sequence[Step]
    setting: str
    undetermined: int
    random: bool
    reward_std: float | None
    from_states: bool
    shifts: Mapping[int, float]

    def parted(self, step: Step) -> bool:
        """Whether logs and environment differ by more than rounding."""
        earned = self.reward_std is not None and step.reward > PARTED * self.reward_std
        return bool(step.share > PARTED or earned or step.ended[0] != step.ended[1])

    @cached_property
    def judged(self) -> list[Step]:
        """Steps from states that were the same: errors grow with the horizon even if both agree.
        All steps where the resets were reproduced, since then no error is made.
        """
        if not self.from_states:
            return list(self.steps)
        found: dict[tuple[int, int], Step] = {}  # each logged step once, from the nearest start
        for step in sorted(self.steps, key=lambda step: step.horizon):
            if step.horizon == 1 or step.before < TOGETHER:
                found.setdefault((step.episode, step.row), step)
        return [found[place] for place in sorted(found)]


def replay(
    dataset: Trajectories,
    environment: str | EnvironmentId,
    episodes: int,
    seeds: Sequence[int | None] | None = None,
) -> Replay:
    """Replays `episodes` of a dataset, evenly spaced.

    seeds: of the resets of its episodes, where they were recorded

    Raises UserError for an environment that fails or does not match, and where neither a state nor
    a seed is known.
    """
    chosen = np.unique(np.linspace(0, dataset.num_episodes - 1, episodes).round().astype(int))
    spec, guarded = dataset.spec(), GuardedEnvironment(environment)
    shown = leaves(guarded.environment.observation_space)
    guarded.close()
    seen = {k: o for k, o in spec.observations.items() if k in shown or not is_state(k)}
    seen = seen or spec.observations
    spec = type(spec)(seen, spec.action, spec.has_reward, spec.reward_mean_std)
    real = RealEnvironment(environment, spec)
    try:
        return _Replayer(dataset, real, seeds).run(chosen)
    finally:
        real.close()


class _Replayer:
    """Replays in one environment."""

    def __init__(
        self, dataset: Trajectories, real: RealEnvironment, seeds: Sequence[int | None] | None
    ):
        self.dataset, self.real, self.seeds = dataset, real, seeds
        sizes = {k: v.shape[1] for k, v in dataset.observations.items() if v.ndim == 2}
        real.reset(0)
        self.setter: StateSetter | None = state_setter(
            real.environment, sizes, [*real.spec.observations]
        )
        self.undetermined = 0
        if self.setter is None and not (seeds and any(seed is not None for seed in seeds)):
            raise UserError(f"{real.guarded.label}: {CANNOT}")

    def run(self, episodes: np.ndarray) -> Replay:
        setter, rewards = self.setter, self.dataset.rewards
        reward_std = None if rewards is None else float(self.real.spec.reward_mean_std[1])
        if setter is None:
            steps = [step for e in episodes for step in self._from_reset(int(e))]
            if not steps:
                raise UserError(f"{self.real.guarded.label}: {CANNOT}")
            setting = "the resets of the recorded seeds"
            return Replay(steps, setting, 0, False, reward_std, False, {})
        steps = [step for e in episodes for step in self._from_states(setter, int(e))]
        if not steps:
            raise UserError(
                f"{self.real.guarded.label}: no logged step determines the state of the environment"
            )
        firsts = [(step.episode, step.row) for step in steps if step.horizon == 1]
        found = Replay(steps, setter.source, self.undetermined, False, reward_std, True, {})
        shifts = {}
        if any(map(found.parted, found.judged)):
            some = firsts[:: max(1, len(firsts) // 200)]
            shifts = {shift: self._shifted(setter, some, shift) for shift in (0, *SHIFTS)}
        random = self._is_random(setter, firsts[:: max(1, len(firsts) // REPEATED)])
        return Replay(steps, setter.source, self.undetermined, random, reward_std, True, shifts)

    def _from_states(self, setter: StateSetter, episode: int) -> Iterator[Step]:
        transitions = int(self.dataset.lengths[episode]) - 1
        starts = np.unique(np.linspace(0, transitions - 1, STARTS).round().astype(int))
        far = {*starts[:: max(1, len(starts) // LONG_STARTS)], max(0, transitions - LAST)}
        starts = np.union1d(starts, max(0, transitions - LAST))
        self.real.reset(0)
        for start in starts.tolist():
            if not self._set(setter, episode, start):
                self.undetermined += 1
                continue
            yield from self._steps(episode, start, HORIZONS[-1] if start in far else 1)

    def _from_reset(self, episode: int) -> Iterator[Step]:
        seed = self.seeds[episode] if self.seeds else None
        if seed is None:
            return
        begins = self.real.reset(int(seed))
        row = int(self.dataset.offsets[episode])
        error, share, worst = self._difference(begins, row)
        if share > PARTED:
            yield Step(episode, 0, 0, error, share, 0.0, np.nan, (False, False), worst)
            return
        yield from self._steps(episode, 0, int(self.dataset.lengths[episode]) - 1)

    def _set(self, setter: StateSetter, episode: int, row: int) -> bool:
        at = int(self.dataset.offsets[episode]) + row
        data = self.dataset
        values = {
            key: add_offset(values[at], data.vector_offsets.get(key, ()))
            for key, values in data.observations.items()
            if values.ndim == 2
        }
        if not setter.determines(values):
            return False
        setter.apply(values)
        return True

    def _steps(self, episode: int, start: int, most: int, shift: int = 0) -> Iterator[Step]:
        data, first = self.dataset, int(self.dataset.offsets[episode])
        transitions = int(data.lengths[episode]) - 1
        known, before = int(data.observed_lengths[episode]), 0.0
        for row in range(start, min(start + most, transitions)):
            outcome = self.real.step(data.actions[first + row + shift])
            error, share, worst = 0.0, 0.0, ("", 0, 0.0, 0.0)
            if row + 1 < known:
                error, share, worst = self._difference(outcome.observation, first + row + 1)
            reward = np.nan
            if data.rewards is not None:
                reward = abs(outcome.reward - float(data.rewards[first + row]))
            logged_end = bool(data.terminated[episode]) and row + 1 == transitions
            ended = (logged_end, outcome.terminated)
            yield Step(episode, row, row + 1 - start, error, share, before, reward, ended, worst)
            before = share
            if outcome.terminated:
                return

    def _difference(
        self, observation: Mapping[str, np.ndarray], row: int
    ) -> tuple[float, float, tuple[str, int, float, float]]:
        """Errors in deviations and in typical steps, and the largest difference."""
        errors, shares, worst, largest = [], [], ("", 0, 0.0, 0.0), -1.0
        for key, spec in self.real.spec.observations.items():
            logged = self.dataset.observations[key][row].astype(np.float64).reshape(-1)
            here = observation[key].astype(np.float64).reshape(-1)
            std = np.asarray(spec.std) if spec.std else np.full(len(logged), 64.0)
            typical = np.asarray(spec.delta_rms) if spec.delta_rms else std / 4
            difference = np.abs(here - logged)
            errors.append(difference / std)
            # What never changes in the logs has no typical step.
            rounding = 1e-5 * np.maximum(np.abs(logged), 1e-3 * std)
            shares.append(np.maximum(difference - rounding, 0) / np.maximum(typical, 1e-6 * std))
            d = int(shares[-1].argmax())
            if shares[-1][d] > largest:
                largest = float(shares[-1][d])
                there, now = (spec.to_raw(x.reshape(spec.shape)).flat[d] for x in (logged, here))
                worst = (key, d, float(there), float(now))
        error, share = (
            float(np.sqrt(np.mean(np.square(np.concatenate(x))))) for x in (errors, shares)
        )
        return error, share, worst

    def _shifted(self, setter: StateSetter, firsts: Sequence[tuple[int, int]], shift: int) -> float:
        """Median `share` after one step with the action of another row."""
        found = []
        for episode, row in firsts:
            inside = 0 <= row + shift < int(self.dataset.lengths[episode]) - 1
            if inside and self._set(setter, episode, row):
                found += [step.share for step in self._steps(episode, row, 1, shift)]
        return float(np.median(found)) if found else np.inf

    def _is_random(self, setter: StateSetter, firsts: Sequence[tuple[int, int]]) -> bool:
        """Whether the same state and action have several outcomes."""
        for episode, row in firsts:
            outcomes = []
            for seed in (1, 2):
                self.real.reset(seed)
                self._set(setter, episode, row)
                at = int(self.dataset.offsets[episode]) + row
                outcomes.append(self.real.step(self.dataset.actions[at]))
            one, other = outcomes
            same = all(
                np.allclose(one.observation[k], other.observation[k], rtol=1e-5, atol=1e-8)
                for k in one.observation
            )
            if not same or not np.isclose(one.reward, other.reward, rtol=1e-5, atol=1e-8):
                return True
        return False
