"""The container that every reader fills: whole episodes in flat arrays, one entry per step."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np

from worldmodel.data.images import ImageConversion
from worldmodel.data.moments import moments
from worldmodel.data.offsets import add_offset
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.errors import check_count, raise_data_errors, require

NUMBERS_AT_ONCE = 2**20  # in one chunk: 8 MiB as float64


@dataclass(frozen=True)
class Trajectories:
    """A dataset of whole episodes, in the step convention of RLDS.

    An episode of T transitions has T+1 steps. `rewards[t]` is the reward of taking `actions[t]` at
    observation t. The action and reward of the last step of an episode are padding (zeros). The
    arrays may be memory-mapped files, and may hold steps of other episodes: a selection shares the
    arrays of the whole dataset.

    Where the observation after the last action was not logged, the last step repeats the one before
    it as a placeholder, which is never learned from, compared with, or counted.

    Attributes:
        observations: name -> (N, ...) float32 vectors or uint8 images
        actions: (N, A) float32 in the data's own units, or (N,) int32 classes
        rewards: (N,) float32, or None if no rewards were logged
        lengths: (episodes,) number of steps of each episode, at least 2
        terminated: (episodes,) True for a terminal episode; False for one that was truncated
        action_spec: kind and bounds of the actions
        source: where the data come from, for messages
        episode_starts: (episodes,) first step of each episode, or None if they lie end to end
        names: names of the episodes in messages; if empty, 'episode 7'
        digest: the result of `fingerprint` where it was stored
        final_logged: (episodes,) whether the observation of the last step was logged, or None if
            all were
        image_conversions: name -> how images were made of what was logged, where they differ
        vector_offsets: name -> (D,) what was taken off a vector before it became float32 (see
            `offsets.py`); only those that have an offset
        lost_digits: field -> what of its digits float32 cannot hold, where that matters

    Raises:
        DataError: a field of another type, shape or length

    Example:
        >>> import numpy as np
        >>> from worldmodel.data import Episode, stack_episodes
        >>> episode = Episode({"x": np.zeros((4, 2))}, np.ones((3, 1)), np.ones(3), terminated=True)
        >>> dataset = stack_episodes([episode, episode], "two episodes")
        >>> dataset.num_episodes, dataset.num_transitions, dataset.num_steps
        (2, 6, 8)
        >>> dataset.returns().tolist()
        [3.0, 3.0]
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
    final_logged: np.ndarray | None = None
    image_conversions: Mapping[str, ImageConversion] = dataclasses.field(default_factory=dict)
    vector_offsets: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    lost_digits: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        raise_data_errors(list(_type_errors(self)) or _layout_errors(self), str(self.source))
        if self.final_logged is not None and self.final_logged.all():
            object.__setattr__(self, "final_logged", None)  # one value for "all were logged"

    @property
    def num_episodes(self) -> int:
        return len(self.lengths)

    @property
    def num_steps(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_transitions(self) -> int:
        return self.num_steps - self.num_episodes

    @cached_property
    def offsets(self) -> np.ndarray:
        """(episodes,) first step of each episode in the arrays."""
        if self.episode_starts is not None:
            return self.episode_starts
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    @cached_property
    def last_steps(self) -> np.ndarray:
        """(episodes,) last step of each episode, where action and reward are padding."""
        return self.offsets + self.lengths - 1

    @cached_property
    def observed_lengths(self) -> np.ndarray:
        """(episodes,) number of steps of each episode whose observation was logged."""
        return self.lengths if self.final_logged is None else self.lengths - ~self.final_logged

    @cached_property
    def placeholders(self) -> np.ndarray:
        """The last steps whose observation was not logged."""
        if self.final_logged is None:
            return np.zeros(0, np.int64)
        return self.last_steps[~self.final_logged]

    @property
    def num_bytes(self) -> int:
        """Bytes of the steps of these episodes, over all fields."""
        return self.num_steps * sum(v.dtype.itemsize * v[0].size for v in self.fields().values())

    def fields(self) -> dict[str, np.ndarray]:
        """Every array, by its name in files."""
        fields = {f"observations.{key}": value for key, value in self.observations.items()}
        fields["actions"] = self.actions
        return fields if self.rewards is None else fields | {"rewards": self.rewards}

    def raw_observations(self) -> dict[str, np.ndarray]:
        """name -> (N, ...) in the data's own units: those with an offset as float64."""
        offsets = self.vector_offsets
        return {k: add_offset(v, offsets.get(k, ())) for k, v in self.observations.items()}

    def labelled_fields(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every array, by its name in messages."""
        yield from ((f"observation {key!r}", value) for key, value in self.observations.items())
        yield "action", self.actions
        if self.rewards is not None:
            yield "reward", self.rewards

    def name(self, episode: int) -> str:
        """The name of an episode in messages."""
        return self.names[episode] if self.names else f"episode {episode}"

    def contiguous_slices(self) -> Iterator[slice]:
        """The steps of these episodes, in order, in as few slices as possible."""
        begins, ends = self.offsets, self.offsets + self.lengths
        breaks = np.flatnonzero(begins[1:] != ends[:-1])
        for first, last in zip([0, *(breaks + 1)], [*breaks, len(begins) - 1], strict=True):
            yield slice(int(begins[first]), int(ends[last]))

    def step_indices(self) -> np.ndarray:
        """(num_steps,) positions in the arrays of the steps of these episodes, in order."""
        return np.concatenate([np.arange(run.start, run.stop) for run in self.contiguous_slices()])

    def chunks(self, values: np.ndarray, padding: bool = True) -> Iterator[np.ndarray]:
        """The entries of `values` (N, ...) that belong to these episodes, in order, in chunks.

        Without `padding`, the last step of every episode is left out; with it, only those whose
        observation was not logged.
        """
        inside = np.ones(len(values), bool)
        inside[self.last_steps] = padding
        inside[self.placeholders] = False
        at_once = max(1, NUMBERS_AT_ONCE // max(1, values[:1].size))
        for run in self.contiguous_slices():
            for begin in range(run.start, run.stop, at_once):
                part = slice(begin, min(begin + at_once, run.stop))
                yield values[part] if inside[part].all() else values[part][inside[part]]

    def step_differences(self, values: np.ndarray) -> Iterator[np.ndarray]:
        """Differences (n, D) of consecutive logged steps of each episode, in chunks."""
        last = np.zeros(len(values), bool)
        last[self.last_steps] = True
        last[self.placeholders - 1] = True
        at_once = max(1, NUMBERS_AT_ONCE // max(1, values[:1].size))
        for run in self.contiguous_slices():
            for begin in range(run.start, run.stop - 1, at_once):
                end = min(begin + at_once, run.stop - 1)
                yield np.diff(values[begin : end + 1], axis=0)[~last[begin:end]]

    def returns(self) -> np.ndarray:
        """(episodes,) float64 undiscounted sum of rewards. Raises ValueError without rewards."""
        if self.rewards is None:
            raise ValueError("this dataset has no rewards")
        offsets = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        return np.add.reduceat(self.rewards[self.step_indices()].astype(np.float64), offsets)

    def fingerprint(self) -> str:
        """SHA-256 of the content, by which a resumed run recognizes its dataset."""
        if self.digest is not None:
            return self.digest
        total = hashlib.sha256(repr(self.action_spec).encode())
        rows = (self.num_steps,)
        for name, array in sorted(self.fields().items()):
            total.update(f"{name} {array.dtype} {rows + array.shape[1:]}".encode())
            for run in self.contiguous_slices():
                total.update(np.ascontiguousarray(array[run]).data)
        for array in (self.lengths.astype(np.int64), self.terminated, self.final_logged):
            if array is not None:
                total.update(np.ascontiguousarray(array).data)
        if self.vector_offsets:
            total.update(repr(sorted(self.vector_offsets.items())).encode())
        return total.hexdigest()

    def select(self, episodes: np.ndarray) -> Trajectories:
        """The given episodes (integers), in the given order, without copying any step."""
        ids = np.asarray(episodes)
        known = ids.dtype.kind in "iu" and ids.ndim == 1 and len(ids) > 0
        known = known and ids.min() >= 0 and ids.max() < self.num_episodes
        accepted = f"integers (n,) from 0 to {self.num_episodes - 1}, at least one"
        require(known, "episodes", f"{ids.dtype} {ids.shape}", accepted)
        return replace(
            self,
            lengths=self.lengths[ids],
            terminated=self.terminated[ids],
            episode_starts=self.offsets[ids],
            names=tuple(self.name(e) for e in ids.tolist()),
            digest=None,
            final_logged=None if self.final_logged is None else self.final_logged[ids],
        )

    def compact(self) -> Trajectories:
        """The same episodes end to end in arrays of their own."""
        if self.episode_starts is None:
            return self
        steps = self.step_indices()
        return replace(
            self,
            observations={key: value[steps] for key, value in self.observations.items()},
            actions=self.actions[steps],
            rewards=None if self.rewards is None else self.rewards[steps],
            episode_starts=None,
        )

    def spec(self, scaling: Mapping[str, str] | None = None) -> DataSpec:
        """Shapes, and statistics over all steps: call it on the training split.

        Args:
            scaling: vector -> its normalization (see `ObservationSpec`); `none` if absent
        """
        vectors = [key for key, value in self.observations.items() if value.ndim == 2]
        named = scaling is None or (isinstance(scaling, Mapping) and set(scaling) <= set(vectors))
        require(named, "scaling", repr(scaling), f"a normalization of {' and '.join(vectors)}")
        observations = {}
        for key, value in self.observations.items():
            shape, dtype = value.shape[1:], str(value.dtype)
            kind = (scaling or {}).get(key, "none")
            if value.ndim == 4:
                conversion = self.image_conversions.get(key)
                observations[key] = ObservationSpec(shape, dtype, conversion=conversion)
                continue
            m = moments(self.chunks(value))
            steps = self.step_differences(value) if self.observed_lengths.max() > 1 else None
            change = m.scale if steps is None else moments(steps).rms
            numbers = (tuple(x.tolist()) for x in (m.mean, m.scale, m.low, m.high, change))
            spec = ObservationSpec(shape, dtype, *numbers, normalization=kind)
            own = self.vector_offsets.get(key)
            observations[key] = spec if own is None else replace(spec, offset=tuple(own))
        if self.rewards is None:
            return DataSpec(observations, self.action_spec, has_reward=False)
        earned = moments(self.chunks(self.rewards[:, None], padding=False))
        reward = (float(earned.mean[0]), float(earned.scale[0]))
        return DataSpec(observations, self.action_spec, reward_mean_std=reward)


FIELD_TYPES: dict[str, tuple[Any, str]] = {
    "observations": (Mapping, "a dict of arrays by name"),
    "actions": (np.ndarray, "a NumPy array"),
    "rewards": (np.ndarray | None, "a NumPy array or None"),
    "lengths": (np.ndarray, "a NumPy array"),
    "terminated": (np.ndarray, "a NumPy array"),
    "action_spec": (ActionSpec, "an ActionSpec"),
    "source": (str, "a string"),
    "episode_starts": (np.ndarray | None, "a NumPy array or None"),
    "names": (tuple, "a tuple of strings"),
    "final_logged": (np.ndarray | None, "a NumPy array or None"),
}


def _type_errors(trajectories: Trajectories) -> Iterator[str]:
    for field, (kind, accepted) in FIELD_TYPES.items():
        value = getattr(trajectories, field)
        if not isinstance(value, kind):
            yield f"{field} is of type {type(value).__name__}; accepted: {accepted}"
        elif field == "observations":
            for key, array in value.items():
                if not (isinstance(key, str) and isinstance(array, np.ndarray)):
                    kinds = f"{type(key).__name__} to {type(array).__name__}"
                    yield f"observations maps {kinds}; accepted: {accepted}"


def _layout_errors(t: Trajectories) -> Iterator[str]:
    counts = {"lengths": (t.lengths, "iu"), "terminated": (t.terminated, "b")}
    if t.episode_starts is not None:
        counts["episode_starts"] = t.episode_starts, "iu"
    if t.final_logged is not None:
        counts["final_logged"] = t.final_logged, "b"
    wrong = {k: v for k, (v, kinds) in counts.items() if v.ndim != 1 or v.dtype.kind not in kinds}
    for field, value in wrong.items():
        kind = "integers" if counts[field][1] == "iu" else "bool"
        yield f"{field} is {value.dtype} of shape {value.shape}; accepted: {kind} (episodes,)"
    if wrong:
        return
    if t.num_episodes == 0:
        yield "no episodes; accepted: at least one"
        return
    for field, (value, _) in counts.items():
        if len(value) != t.num_episodes:
            yield (f"{field} has {len(value)} entries; accepted: {t.num_episodes}, one per episode")
    if t.names and len(t.names) != t.num_episodes:
        yield f"names has {len(t.names)} entries; accepted: {t.num_episodes}, one per episode"
    for episode in np.flatnonzero(t.lengths < 2):
        yield f"episode {episode} has {t.lengths[episode]} step(s); accepted: at least 2"
    if not t.observations:
        yield "no observations; accepted: at least one named observation"
    steps, reason = t.num_steps, "the sum of lengths"
    if t.episode_starts is not None:  # a selection: its arrays are those of the whole dataset
        steps, reason = len(t.actions), "as many as action"
    for field, value in t.labelled_fields():
        if value.shape[:1] != (steps,):
            present = len(value) if value.ndim else "no"
            yield f"{field} has {present} steps; accepted: {steps}, {reason}"
    if t.episode_starts is not None and len(t.episode_starts) == t.num_episodes:
        outside = (t.episode_starts < 0) | (t.episode_starts + t.lengths > steps)
        for episode in np.flatnonzero(outside):
            first, last = t.episode_starts[episode], t.last_steps[episode]
            yield f"episode {episode} is steps {first} to {last}; accepted: 0 to {steps - 1}"
    for key, value in t.observations.items():
        vector = value.dtype == np.float32 and value.ndim == 2
        image = value.dtype == np.uint8 and value.ndim == 4
        if not (vector or image) or 0 in value.shape[1:]:
            yield (
                f"observation {key!r} is {value.dtype} of shape {value.shape}; "
                "accepted: float32 (steps, D) or uint8 images (steps, height, width, channels)"
            )
    if t.rewards is not None and not (t.rewards.dtype == np.float32 and t.rewards.ndim == 1):
        yield f"reward is {t.rewards.dtype} of shape {t.rewards.shape}; accepted: float32 (steps,)"
    described = f"action is {t.actions.dtype} of shape {t.actions.shape}"
    if t.action_spec.discrete:
        if t.actions.dtype != np.int32 or t.actions.ndim != 1:
            yield f"{described}; accepted: int32 classes (steps,)"
    elif t.actions.dtype != np.float32 or t.actions.shape[1:] != (t.action_spec.size,):
        yield f"{described}; accepted: float32 (steps, {t.action_spec.size})"


def check_dataset(value: Any) -> None:
    """Raises ArgumentError for anything but a dataset."""
    accepted = "Trajectories, as `load` and `stack_episodes` return them"
    require(isinstance(value, Trajectories), "dataset", type(value).__name__, accepted)


def split(
    trajectories: Trajectories, holdout: float, seed: int = 0
) -> tuple[Trajectories, Trajectories]:
    """Splits a dataset by episode.

    The split depends on the number of episodes, `holdout` and `seed` alone, not on a run's seed, so
    that runs can be compared.

    Args:
        trajectories: the dataset
        holdout: share of the episodes to hold out, 0 to 0.9; at least one episode if above 0
        seed: seed of the permutation of the episodes

    Returns:
        The training split and the held-out split. With a single episode, or `holdout=0`, both are
        the whole dataset.

    Example:
        >>> import numpy as np
        >>> from worldmodel.data import Episode, split, stack_episodes
        >>> episode = Episode({"x": np.zeros((4, 2))}, np.ones((3, 1)), None, terminated=False)
        >>> training, held_out = split(stack_episodes([episode] * 10, "ten"), holdout=0.2)
        >>> training.num_episodes, held_out.num_episodes
        (8, 2)
    """
    check_dataset(trajectories)
    require(isinstance(holdout, Real) and 0 <= holdout < 1, "holdout", repr(holdout), "0 to 0.9")
    check_count("seed", seed, 0)
    training, held_out = split_episodes(trajectories.num_episodes, holdout, seed)
    if len(held_out) == trajectories.num_episodes:
        return trajectories, trajectories
    return trajectories.select(training), trajectories.select(held_out)


def split_episodes(count: int, holdout: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the episodes of each part of a split of `count` episodes, ascending."""
    episodes = np.random.default_rng(seed).permutation(count)
    kept = min(round(holdout * count) or int(holdout > 0), count - 1)
    if kept == 0:
        return np.arange(count), np.arange(count)
    return np.sort(episodes[kept:]), np.sort(episodes[:kept])
