"""The container every reader fills: whole episodes, row by row, in flat arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from worldmodel.data.moments import moments
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec

NUMBERS_AT_ONCE = 2**20  # in one piece: 8 MiB as float64


@dataclass(frozen=True)
class Trajectories:
    """Whole episodes of rows, as RLDS has them.

    An episode of T transitions has T+1 rows. `reward[t]` is what `action[t]`, taken at
    `observation[t]`, earned; in the last row of an episode action and reward are padding (zeros).
    The arrays may be memory-mapped files, and may hold rows of other episodes: a selection shares
    them.

    observations: name -> (N, ...) float32 vectors or uint8 images
    actions: (N, A) float32 in raw units, or (N,) int32 classes
    rewards: (N,) float32, or None for logs without reward
    lengths: (episodes,) rows of each episode, at least 2
    terminated: (episodes,) True where the environment really ended; False for a time-out or the end
    of the log
    action_spec: kind and bounds of the actions
    source: where the logs come from, for messages
    episode_starts: (episodes,) first row of each episode, or None where they lie end to end
    names: what messages call the episodes; none: 'episode 7'
    digest: what `fingerprint` would compute, where that is known
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray | None
    lengths: np.ndarray
    terminated: np.ndarray
    action_spec: ActionSpec
    source: str
    episode_starts: np.ndarray | None = None
    names: tuple[str, ...] = ()
    digest: str | None = None

    @property
    def num_episodes(self) -> int:
        return len(self.lengths)

    @property
    def num_steps(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_transitions(self) -> int:
        return self.num_steps - self.num_episodes

    @property
    def offsets(self) -> np.ndarray:
        """(episodes,) first row of each episode."""
        if self.episode_starts is not None:
            return self.episode_starts
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    @property
    def last_steps(self) -> np.ndarray:
        """(episodes,) last row of each episode, where action and reward are padding."""
        return self.offsets + self.lengths - 1

    @property
    def num_bytes(self) -> int:
        """Bytes of the rows held, in all fields."""
        return self.num_steps * sum(v.dtype.itemsize * v[0].size for v in self.fields().values())

    def fields(self) -> dict[str, np.ndarray]:
        """Every array of rows, by its name in messages and files."""
        fields = {f"observations.{key}": value for key, value in self.observations.items()}
        fields["actions"] = self.actions
        return fields if self.rewards is None else fields | {"rewards": self.rewards}

    def name(self, episode: int) -> str:
        return self.names[episode] if self.names else f"episode {episode}"

    def contiguous_slices(self) -> Iterator[slice]:
        """The rows held, in order, as few slices as possible: what memory-mapped files like."""
        begins, ends = self.offsets, self.offsets + self.lengths
        breaks = np.flatnonzero(begins[1:] != ends[:-1])
        for first, last in zip([0, *(breaks + 1)], [*breaks, len(begins) - 1], strict=True):
            yield slice(int(begins[first]), int(ends[last]))

    def step_indices(self) -> np.ndarray:
        """(num_steps,) where in the arrays the rows of these episodes are, in order."""
        return np.concatenate([np.arange(run.start, run.stop) for run in self.contiguous_slices()])

    def chunks(self, values: np.ndarray, padding: bool = True) -> Iterator[np.ndarray]:
        """The rows of `values` (N, ...) that these episodes hold, in order, a few at a time.

        Without `padding`, the last row of every episode is left out.
        """
        inside = np.ones(len(values), bool)
        inside[self.last_steps] = padding
        at_once = max(1, NUMBERS_AT_ONCE // max(1, values[:1].size))
        for run in self.contiguous_slices():
            for begin in range(run.start, run.stop, at_once):
                part = slice(begin, min(begin + at_once, run.stop))
                yield values[part] if inside[part].all() else values[part][inside[part]]

    def step_differences(self, values: np.ndarray) -> Iterator[np.ndarray]:
        """Differences (n, D) of neighbouring rows of each episode, a few at a time."""
        last = np.zeros(len(values), bool)
        last[self.last_steps] = True
        at_once = max(1, NUMBERS_AT_ONCE // max(1, values[:1].size))
        for run in self.contiguous_slices():
            for begin in range(run.start, run.stop - 1, at_once):
                end = min(begin + at_once, run.stop - 1)
                yield np.diff(values[begin : end + 1], axis=0)[~last[begin:end]]

    def returns(self) -> np.ndarray:
        """(episodes,) undiscounted sum of rewards; the padding of last rows is zero."""
        if self.rewards is None:
            raise ValueError("these logs have no reward")
        offsets = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        return np.add.reduceat(self.rewards[self.step_indices()].astype(np.float64), offsets)

    def fingerprint(self) -> str:
        """SHA-256 of everything in here: does a run go on with the logs it began with?"""
        if self.digest is not None:
            return self.digest
        total = hashlib.sha256(repr(self.action_spec).encode())
        rows = (self.num_steps,)
        for name, array in sorted(self.fields().items()):
            total.update(f"{name} {array.dtype} {rows + array.shape[1:]}".encode())
            for run in self.contiguous_slices():
                total.update(np.ascontiguousarray(array[run]))
        for array in (self.lengths.astype(np.int64), self.terminated):
            total.update(np.ascontiguousarray(array))
        return total.hexdigest()

    def select(self, episodes: np.ndarray) -> Trajectories:
        """The given episodes, in the given order. No row is copied."""
        return replace(
            self,
            lengths=self.lengths[episodes],
            terminated=self.terminated[episodes],
            episode_starts=self.offsets[episodes],
            names=tuple(self.name(int(e)) for e in episodes),
            digest=None,
        )

    def compact(self) -> Trajectories:
        """The same episodes end to end in arrays of their own."""
        if self.episode_starts is None:
            return self
        rows = self.step_indices()
        return replace(
            self,
            observations={key: value[rows] for key, value in self.observations.items()},
            actions=self.actions[rows],
            rewards=None if self.rewards is None else self.rewards[rows],
            episode_starts=None,
        )

    def spec(self, scaling: Mapping[str, str] | None = None) -> DataSpec:
        """Shapes, and statistics over all rows held here: call it on the training split.

        `scaling` names how each vector is brought to a common range (see `ObservationSpec`).
        """
        observations = {}
        for key, value in self.observations.items():
            shape, dtype = value.shape[1:], str(value.dtype)
            kind = (scaling or {}).get(key, "none")
            if value.ndim == 4:
                observations[key] = ObservationSpec(shape, dtype)
                continue
            mean, std, low, high = moments(self.chunks(value))
            # A constant column carries no scale of its own; rounding may leave it a tiny one.
            std = np.where(std <= np.maximum(1e-6, 1e-7 * np.abs(mean)), 1.0, std)
            change = moments(self.step_differences(value)).rms
            numbers = (tuple(x.tolist()) for x in (mean, std, low, high, change))
            observations[key] = ObservationSpec(shape, dtype, *numbers, normalization=kind)
        if self.rewards is None:
            return DataSpec(observations, self.action_spec, has_reward=False)
        earned = moments(self.chunks(self.rewards[:, None], padding=False))
        reward = (float(earned.mean[0]), float(earned.std[0]) or 1.0)
        return DataSpec(observations, self.action_spec, reward_mean_std=reward)


def split(
    trajectories: Trajectories, holdout: float, seed: int = 0
) -> tuple[Trajectories, Trajectories]:
    """Splits by episode into (training, held out). With one episode, or holdout 0, both are the
    whole set.

    The split depends on the data and `holdout` alone, not on the run's seed, so that runs can be
    compared.
    """
    training, held_out = split_episodes(trajectories.num_episodes, holdout, seed)
    if len(held_out) == trajectories.num_episodes:
        return trajectories, trajectories
    return trajectories.select(training), trajectories.select(held_out)


def split_episodes(count: int, holdout: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the episodes of each part of a split of `count` episodes, ascending."""
    episodes = np.random.default_rng(seed).permutation(count)
    kept = min(round(holdout * count) or int(holdout > 0), count - 1)
    if kept == 0:
        return np.arange(count), np.arange(count)
    return np.sort(episodes[kept:]), np.sort(episodes[:kept])
