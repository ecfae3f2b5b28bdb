"""The container every reader fills: whole episodes, row by row, in flat arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec


@dataclass(frozen=True)
class Trajectories:
    """Whole episodes laid end to end in N rows, as RLDS has them.

    An episode of T transitions has T+1 rows. `reward[t]` is what `action[t]`, taken at
    `observation[t]`, earned; in the last row of an episode action and reward are padding (zeros).

    observations: name -> (N, ...) float32 vectors or uint8 images
    actions: (N, A) float32 in raw units, or (N,) int32 classes
    rewards: (N,) float32, or None for logs without reward
    lengths: (episodes,) rows of each episode, at least 2
    terminated: (episodes,) True where the environment really ended; False for a time-out or the end
    of the log
    action_spec: kind and bounds of the actions
    source: where the logs come from, for messages
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray | None
    lengths: np.ndarray
    terminated: np.ndarray
    action_spec: ActionSpec
    source: str

    @property
    def num_episodes(self) -> int:
        return len(self.lengths)

    @property
    def num_rows(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_transitions(self) -> int:
        return self.num_rows - self.num_episodes

    @property
    def offsets(self) -> np.ndarray:
        """(episodes,) first row of each episode."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    def returns(self) -> np.ndarray:
        """(episodes,) undiscounted sum of rewards; the padding of last rows is zero."""
        if self.rewards is None:
            raise ValueError("these logs have no reward")
        return np.add.reduceat(self.rewards.astype(np.float64), self.offsets)

    def fingerprint(self) -> str:
        """SHA-256 of everything in here: does a run go on with the logs it began with?"""
        total = hashlib.sha256(repr(self.action_spec).encode())
        arrays = {f"observations.{key}": value for key, value in self.observations.items()}
        arrays |= {"actions": self.actions, "rewards": self.rewards}
        arrays |= {"lengths": self.lengths, "terminated": self.terminated}
        for name, array in sorted(arrays.items()):
            if array is not None:
                total.update(f"{name} {array.dtype} {array.shape}".encode())
                total.update(np.ascontiguousarray(array))
        return total.hexdigest()

    def select(self, episodes: np.ndarray) -> Trajectories:
        """The given episodes, in the given order."""
        offsets = self.offsets
        rows = np.concatenate(
            [np.arange(offsets[e], offsets[e] + self.lengths[e]) for e in episodes]
        )
        return Trajectories(
            observations={key: value[rows] for key, value in self.observations.items()},
            actions=self.actions[rows],
            rewards=None if self.rewards is None else self.rewards[rows],
            lengths=self.lengths[episodes],
            terminated=self.terminated[episodes],
            action_spec=self.action_spec,
            source=self.source,
        )

    def spec(self) -> DataSpec:
        """Shapes, and statistics over all rows held here: call it on the training split."""
        observations = {}
        for key, value in self.observations.items():
            if value.ndim == 4:
                observations[key] = ObservationSpec(value.shape[1:], str(value.dtype))
                continue
            mean = value.mean(0, dtype=np.float64)
            std = value.std(0, dtype=np.float64)
            std = np.where(std < 1e-6, 1.0, std)  # a constant column carries no scale of its own
            observations[key] = ObservationSpec(
                value.shape[1:], str(value.dtype), tuple(mean.tolist()), tuple(std.tolist())
            )
        return DataSpec(observations, self.action_spec, self.rewards is not None)


def split(
    trajectories: Trajectories, holdout: float, seed: int = 0
) -> tuple[Trajectories, Trajectories]:
    """Splits by episode into (training, held out). With one episode, or holdout 0, both are the
    whole set.

    The split depends on the data and `holdout` alone, not on the run's seed, so that runs can be
    compared.
    """
    episodes = np.random.default_rng(seed).permutation(trajectories.num_episodes)
    count = min(round(holdout * len(episodes)) or int(holdout > 0), len(episodes) - 1)
    if count == 0:
        return trajectories, trajectories
    return trajectories.select(np.sort(episodes[count:])), trajectories.select(
        np.sort(episodes[:count])
    )
