"""Episodes of a Gymnasium environment, collected on first use and cached in the native format."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.config import DataOptions, option
from worldmodel.config.environment_ids import EnvironmentId
from worldmodel.config.registry import register
from worldmodel.data.behaviours import BEHAVIOURS
from worldmodel.data.episodes import EpisodeStream
from worldmodel.data.readers import tfds
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.readers.tfds_builder import is_prepared
from worldmodel.data.rlds_writer import write_rlds
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.validation import validate
from worldmodel.system.storage import check_writable, user_path

FORMAT = 1  # of what is collected: increment it to collect cached datasets again


@dataclass
class GymnasiumData(DataOptions):
    """Episodes of a Gymnasium environment, collected on first use and cached in `cache_dir`."""

    name: str = option("gymnasium", "data source")
    environment: str | None = option(
        None,
        "Gymnasium id of the environment in which to collect episodes and evaluate policies, such "
        "as Pendulum-v1",
    )
    behaviour_policies: list[str] = option(
        ["uniform", "sticky", "ornstein_uhlenbeck"],
        "behavior policies; episodes take turns",
        choices=tuple(BEHAVIOURS),
    )
    episodes: int = option(200, "number of episodes to collect", low=1)
    collection_seed: int = option(
        0, "seed of the collection, separate from `seed`, so that runs share a dataset", low=0
    )

    def recorded_seeds(self) -> list[int | None]:
        return [self.collection_seed + episode for episode in range(self.episodes)]


def behaviour_lines(folder: Path) -> Iterator[str]:
    """Describes the behavior policies for `python -m worldmodel.data list`."""
    yield "Behavior policies of data=gymnasium"
    for name, behaviour in BEHAVIOURS.items():
        yield f"  {name:20s} {(behaviour.__doc__ or '').strip().splitlines()[0]}"


@register("data", "gymnasium", GymnasiumData, source="environment", listing=behaviour_lines)
def read(options: GymnasiumData) -> EpisodeStream:
    """Reads the dataset from `cache_dir`, and collects it first if it is not there.

    Several processes may do so at once: the first to finish stores its copy of the same dataset.
    """
    folder = cache_folder(options)
    if not is_prepared(folder):
        # Before the episodes are collected, which may take long.
        check_writable(folder, "set data.cache_dir to a folder that can be written")
        trajectories = collect(options)
        validate(trajectories)
        with contextlib.suppress(FileExistsError):
            write_rlds(trajectories, folder, str(options.environment), _recipe(options))
    return tfds.read(
        TFDSData(path=str(folder), environment=options.environment, holdout=options.holdout)
    )


def collect(options: GymnasiumData) -> Trajectories:
    """Collects the episodes; episode j has seed `collection_seed` + j. Raises UserError."""
    from worldmodel.data.collection import collect_episodes

    return collect_episodes(
        EnvironmentId(str(options.environment), options.environment_options),
        options.behaviour_policies,
        options.episodes,
        options.collection_seed,
    )


def cache_folder(options: GymnasiumData) -> Path:
    """The folder of this dataset: a readable name, and a digest of all that determines it."""
    recipe = json.dumps(_recipe(options), sort_keys=True)
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    environment = re.sub(r"[^\w.-]+", "-", str(options.environment))
    name = f"{environment}-{options.episodes}-episodes-{digest}"
    return user_path(options.cache_dir) / name


def _recipe(options: GymnasiumData) -> dict[str, Any]:
    arguments = options.environment_options
    return {
        "environment": options.environment,
        **({"environment_options": arguments} if arguments else {}),
        "behaviours": list(options.behaviour_policies),
        "episodes": options.episodes,
        "collection_seed": options.collection_seed,
        "format": FORMAT,
    }
