"""Minari's local datasets, in any storage format; nothing is downloaded.

An episode has T+1 observations, and T actions, rewards, terminations and truncations.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.observations import ObservationChoice
from worldmodel.data.readers.files import reading
from worldmodel.data.readers.hdf5_storage import check_storage, datasets_below, item_of
from worldmodel.data.readers.marks import truths
from worldmodel.data.readers.sizes import check_parquet
from worldmodel.errors import DataError, did_you_mean
from worldmodel.system.storage import user_path

if TYPE_CHECKING:
    from worldmodel.data.spaces import Convert, Part

MAX_DATASETS_SHOWN = 10  # in a message
BYTES_PER_EPISODE = 100  # at least
SPACES = ("Box", "Discrete", "MultiBinary", "MultiDiscrete", "Dict", "Tuple", "Text")


@dataclass
class MinariData(DataOptions):
    """A local Minari dataset; `path` is the folder that holds it if it is not Minari's own."""

    name: str = option("minari", "data source")
    dataset: str | None = option(None, "id of a local Minari dataset, such as D4RL/pen/human-v2")

    def recorded_seeds(self) -> list[int | None]:
        dataset = _open(*_place(self))
        with reading("episodes as Minari writes them"):
            records = dataset.storage.get_episode_metadata(range(len(dataset)))
            seeds = [record.get("seed") for record in records]
            return [None if seed is None else int(seed) for seed in seeds]


def local_datasets(folder: Path) -> Iterator[str]:
    """Describes Minari's local datasets for `python -m worldmodel.data list`."""
    if importlib.util.find_spec("minari") is None:
        return
    import minari

    yield "Local Minari datasets"
    try:
        with reading("datasets as Minari writes them"):
            lines = [
                f"  minari:{name}: {entry['total_episodes']:,} episodes, "
                f"{entry['total_steps']:,} transitions"
                for name, entry in minari.list_local_datasets().items()
            ]
    except DataError as error:
        lines = [f"  {error}"]
    yield from lines or ["  none"]


@register("data", "minari", MinariData, source="dataset", listing=local_datasets)
def read(options: MinariData) -> EpisodeStream:
    """Reads the local dataset `options.dataset`, below `options.path` or in Minari's own folder.

    Spaces are converted as by `observation_parts` and `action_converter`. Raises DataError for
    other spaces, and if there is no such dataset.
    """
    name, root, folder = _place(options)
    dataset = _open(name, root, folder)
    from worldmodel.data.action_spaces import action_converter
    from worldmodel.data.spaces import observation_parts

    source = f"{name} in {root}"
    parts = observation_parts(dataset.observation_space, source, ObservationChoice.of(options))
    spec, act = action_converter(dataset.action_space, source)
    return EpisodeStream(
        source, _episodes(dataset, folder, parts, act), spec, _files(folder), len(dataset)
    )


def _place(options: MinariData) -> tuple[str, Path, Path]:
    """The name of the dataset, the folder of all, and that of its files."""
    root = user_path(options.path or os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets")
    name = str(options.dataset)
    return name, root, root / name / "data"


def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.rglob("*") if path.is_file()))


def _open(name: str, root: Path, folder: Path) -> Any:
    try:
        import minari
    except ImportError as error:
        raise DataError(
            f'data=minari needs Minari ({error}): pip install "worldmodel[minari]"'
        ) from error
    if not os.path.isdir(folder) or not folder.resolve().is_relative_to(root.resolve()):
        raise DataError(_missing_dataset(name, root))
    with reading("a dataset as Minari writes it", folder):
        _check_metadata(folder)
        return minari.MinariDataset(folder)


def _check_metadata(folder: Path) -> None:
    """Raises DataError for metadata from which Minari would make an environment, that is run any
    code, and for more episodes than the files can hold.
    """
    metadata = json.loads((folder / "metadata.json").read_text())
    for key in ("observation_space", "action_space"):
        if not isinstance(metadata.get(key), str):
            raise DataError(
                f"its metadata have no {key}, and the environment that they name is not created, "
                "since that runs its code; accepted: both spaces, as Minari writes them"
            )
        _check_space(json.loads(metadata[key]))
    size, count = sum(file.stat().st_size for file in _files(folder)), metadata["total_episodes"]
    if not 0 < count * BYTES_PER_EPISODE <= size:
        raise DataError(
            f"its metadata claim total_episodes={count:,} in {size:,} bytes; accepted: at least "
            "one, and as many as fit"
        )


def _check_space(space: Any) -> None:
    """Raises DataError for a type of space that Minari does not write."""
    if not isinstance(space, dict) or space.get("type") not in SPACES:
        kind = space.get("type") if isinstance(space, dict) else space
        raise DataError(f"its metadata hold a space {kind!r}; accepted: {', '.join(SPACES)}")
    below = space.get("subspaces", ())
    for inner in below.values() if isinstance(below, dict) else below:
        _check_space(inner)


def _missing_dataset(name: str, root: Path) -> str:
    """Lists the datasets below `root`, and how to download the missing one."""
    present = sorted(
        path.parents[1].relative_to(root).as_posix() for path in root.rglob("data/metadata.json")
    )
    rest = len(present) - MAX_DATASETS_SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return (
        f"{root} has no Minari dataset {name!r}{did_you_mean(name, present)}; "
        f"present: {', '.join(present[:MAX_DATASETS_SHOWN]) or 'none'}{more}; "
        f"to download it: MINARI_DATASETS_PATH={root} minari download {name}"
    )


def _episodes(
    dataset: Any, folder: Path, parts: dict[str, Part], act: Convert
) -> Iterator[Episode | UnreadableEpisode]:
    for index in range(len(dataset)):
        name = f"episode {index}"
        try:
            with reading("an episode as Minari writes it"):
                _check_episode(folder, index)
                # One by one: Minari's own iterator stops at the first damaged episode.
                yield _episode(dataset[index], _recorded_steps(dataset, index), parts, act, name)
        except DataError as error:
            yield UnreadableEpisode(name, str(error))


def _check_episode(folder: Path, index: int) -> None:
    """Raises DataError for an episode stored elsewhere, in part, or larger than it can be."""
    if (file := folder / "main_data.hdf5").exists():
        import h5py

        with h5py.File(file, "r") as opened:
            group = item_of(opened, f"episode_{index}")
            check_storage(dict(datasets_below(group, f"{group.name}/")))
    for file in folder.glob(f"{index}/*.parquet"):
        check_parquet(file)


def _recorded_steps(dataset: Any, index: int) -> int | None:
    """The number of transitions in the metadata of an episode, if it is there."""
    (record,) = dataset.storage.get_episode_metadata([index])
    return record.get("total_steps")


def _episode(
    logged: Any, steps: int | None, parts: dict[str, Part], act: Convert, name: str
) -> Episode:
    """Converts an episode. Raises DataError, without its name."""
    if steps is not None and len(logged) != steps:  # Arrow truncates long episodes
        raise DataError(f"Minari returns {len(logged)} of its {steps} transitions")
    observations = {key: part.of(logged.observations) for key, part in parts.items()}
    for key, values in observations.items():
        if len(values) != len(logged) + 1:
            raise DataError(
                f"observation {key!r} has {len(values)} steps for {len(logged)} transitions; "
                f"accepted: {len(logged) + 1}"
            )
    ended = truths(logged.terminations, "terminations")
    inside = np.flatnonzero(ended[:-1])
    if len(inside):
        raise DataError(
            f"it terminates at step {inside[0]} and continues to step {len(ended)}; "
            "accepted: termination at the last step only"
        )
    return Episode(observations, act(logged.actions), logged.rewards, bool(ended[-1:].any()), name)
