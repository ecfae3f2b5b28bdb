"""Minari's local data sets, whatever they are stored as; nothing is downloaded.

An episode has T + 1 observations, T actions, rewards, terminations and truncations. Minari is
imported inside the functions, since not everybody has it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.spec import ActionSpec
from worldmodel.errors import DataError, did_you_mean, first_line

logger = logging.getLogger(__name__)

MOST_SETS = 10  # that a message names

Keys = tuple[str | int, ...]  # where a leaf is in nested dicts and tuples
Convert = Callable[[Any], np.ndarray]  # what Minari read -> one row a step


class Part(NamedTuple):
    """A named part of the observation: where it is, and how it becomes numbers."""

    path: Keys
    convert: Convert


@dataclass
class MinariData(DataOptions):
    """A local Minari data set; `path`: the folder that holds it, if not Minari's own."""

    name: str = option("minari", "data source")
    dataset: str | None = option(None, "id of the data set, such as D4RL/pen/human-v2")

    def errors(self) -> Iterator[str]:
        if not self.dataset:
            yield "data.dataset needs the id of a local Minari data set, such as D4RL/pen/human-v2"
        yield from super().errors()


@register("data", "minari", MinariData, source="dataset")
def read(options: MinariData) -> EpisodeStream:
    """The local set `options.dataset`, under `options.path` or in Minari's own folder.

    Observations are boxes, discrete ones (as one-hot vectors), binary ones, and dicts and tuples of
    them; texts are left out, with a warning. Actions are boxes or discrete. Raises DataError for
    others, and where there is no such set.
    """
    if not options.dataset:
        raise DataError("data.dataset is not set; accepted: the id of a local Minari data set")
    root = Path(options.path or os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets")
    folder = root.expanduser() / options.dataset / "data"
    dataset = _open(options.dataset, root.expanduser(), folder)
    source = f"{options.dataset} in {root}"
    parts = _parts(dataset.observation_space, source)
    spec, act = _actions(dataset.action_space, source)
    files = tuple(sorted(path for path in folder.rglob("*") if path.is_file()))
    return EpisodeStream(source, _episodes(dataset, parts, act), spec, files, len(dataset))


def _open(name: str, root: Path, folder: Path) -> Any:
    try:
        import minari
    except ImportError as error:
        raise DataError(
            f'data=minari needs Minari ({error}): pip install "worldmodel[minari]"'
        ) from error
    if not folder.is_dir():
        raise DataError(_not_there(name, root))
    try:
        return minari.MinariDataset(folder)
    except Exception as error:  # Minari and Gymnasium raise whatever they met
        raise DataError(f"{folder}: Minari cannot open it ({first_line(error)})") from error


def _not_there(name: str, root: Path) -> str:
    """What is there, and how to download what is not."""
    there = sorted(
        path.parents[1].relative_to(root).as_posix() for path in root.rglob("data/metadata.json")
    )
    more = f" and {len(there) - MOST_SETS} more" if len(there) > MOST_SETS else ""
    return (
        f"{root} has no Minari data set {name!r}{did_you_mean(name, there)}; "
        f"there: {', '.join(there[:MOST_SETS]) or 'none'}{more}; "
        f"to download it: MINARI_DATASETS_PATH={root} minari download {name}"
    )


# ---------------------------------------------------------------------------------------- episodes


def _episodes(
    dataset: Any, parts: dict[str, Part], act: Convert
) -> Iterator[Episode | UnreadableEpisode]:
    for index in range(len(dataset)):
        name = f"episode {index}"
        try:
            # One by one: an iterator of Minari's ends at the first one that is damaged.
            yield _episode(dataset[index], _steps_logged(dataset, index), parts, act, name)
        except DataError as fault:
            yield UnreadableEpisode(name, str(fault))
        except Exception as error:  # HDF5, Arrow and image decoders raise whatever they met
            yield UnreadableEpisode(name, f"Minari cannot read it ({first_line(error)})")


def _steps_logged(dataset: Any, index: int) -> int | None:
    """The number of steps that the set's own record of an episode states, if it does."""
    (record,) = dataset.storage.get_episode_metadata([index])
    return record.get("total_steps")


def _episode(
    logged: Any, steps: int | None, parts: dict[str, Part], act: Convert, name: str
) -> Episode:
    """Raises DataError that says what is wrong with the episode."""
    if steps is not None and len(logged) != steps:
        raise DataError(f"Minari gives {len(logged)} of its {steps} steps")  # long ones in Arrow
    observations = {
        key: part.convert(_at(logged.observations, part.path)) for key, part in parts.items()
    }
    for key, rows in observations.items():
        if len(rows) != len(logged) + 1:
            raise DataError(
                f"observation {key!r} has {len(rows)} rows for {len(logged)} steps; "
                f"accepted: {len(logged) + 1}"
            )
    ended = np.asarray(logged.terminations, bool)
    inside = np.flatnonzero(ended[:-1])
    if len(inside):
        raise DataError(
            f"it terminates in row {inside[0]}, and goes on to row {len(ended)}; "
            "accepted: one end, at the end"
        )
    return Episode(observations, act(logged.actions), logged.rewards, bool(ended[-1:].any()), name)


# ------------------------------------------------------------------------------------------ spaces


def _parts(space: spaces.Space, source: str) -> dict[str, Part]:
    """Name -> part of the observation; '/' joins nested names."""
    parts = {}
    for path, leaf in _leaves(space):
        name = "/".join(map(str, path)) or ("image" if _is_image(leaf) else "observation")
        if isinstance(leaf, spaces.Text):
            logger.warning("%s: observation %r left out, it is a text", source, name)
        else:
            parts[name] = Part(path, _converter(leaf, name, source))
    if not parts:
        raise DataError(f"{source}: no observation holds numbers; accepted: vectors, uint8 images")
    return parts


def _leaves(space: spaces.Space, path: Keys = ()) -> Iterator[tuple[Keys, spaces.Space]]:
    if isinstance(space, spaces.Dict):
        inner = space.items()
    elif isinstance(space, spaces.Tuple):
        inner = enumerate(space)
    else:
        yield path, space
        return
    for key, leaf in inner:
        yield from _leaves(leaf, (*path, key))


def _at(tree: Any, path: Keys) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _is_image(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def _converter(space: spaces.Space, name: str, source: str) -> Convert:
    """From what Minari reads of an observation to (T+1, ...) numbers."""
    if _is_image(space):  # (T+1, height, width), or with channels
        shape = (*space.shape, 1)[:3]
        return lambda rows: np.asarray(rows).reshape(-1, *shape)
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return np.asarray
    if isinstance(space, spaces.Discrete):
        return lambda rows: _one_hot(np.asarray(rows), space, name)
    raise DataError(
        f"{source}: observation {name!r} is {space}; "
        "accepted: Box, Discrete, MultiBinary, and Dict or Tuple of those"
    )


def _one_hot(classes: np.ndarray, space: spaces.Discrete, name: str) -> np.ndarray:
    """(T+1,) classes to (T+1, n) float32."""
    known = np.arange(space.start, space.start + space.n)
    hot = classes.reshape(-1, 1) == known
    wrong = np.flatnonzero(~hot.any(axis=1))
    if len(wrong):
        raise DataError(
            f"observation {name!r} is {classes[wrong[0]]} in row {wrong[0]}; "
            f"accepted: {known[0]} to {known[-1]}"
        )
    return hot.astype(np.float32)


def _actions(space: spaces.Space, source: str) -> tuple[ActionSpec | None, Convert]:
    """What the space declares (None: no finite bounds), and how actions become rows."""
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return ActionSpec(True, int(space.n)), lambda actions: np.asarray(actions) - start
    if not isinstance(space, spaces.Box):
        raise DataError(f"{source}: action is {space}; accepted: Box or Discrete")
    low, high = (bound.astype(np.float32).reshape(-1) for bound in (space.low, space.high))
    with np.errstate(over="ignore"):  # bounds as wide as float32 are none
        bounded = bool(np.all(np.isfinite(high - low) & (low < high)))
    spec = ActionSpec(False, len(low), tuple(low.tolist()), tuple(high.tolist()))
    return (spec if bounded else None), lambda actions: _vectors(actions, len(low))


def _vectors(actions: Any, size: int) -> np.ndarray:
    return np.asarray(actions, np.float32).reshape(-1, size)
