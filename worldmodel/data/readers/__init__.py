"""One file a format. A reader turns its options into a EpisodeStream; `load` stacks and checks it."""

from __future__ import annotations

import dataclasses
import glob
import logging
import os
from pathlib import Path

from worldmodel.config import DataOptions
from worldmodel.config.registry import entry_of
from worldmodel.data import cache
from worldmodel.data.episodes import (
    EpisodeStream,
    raise_data_errors,
    split_long_episodes,
    stack_episodes,
)
from worldmodel.data.progress import progress_bar
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.validation import drop_invalid_episodes
from worldmodel.errors import ConfigError, DataError, bullet_list

logger = logging.getLogger(__name__)

# Options that do not shape what is read.
USE = {"name", "environment", "holdout", "normalize", "cache", "cache_dir", "loader", "num_workers"}
KEPT_BYTES = 32 * 2**20  # files from this size on are kept decoded


def load(options: DataOptions) -> Trajectories:
    """Reads the logs that `options` describe, and checks them. Raises DataError.

    Large ones are kept decoded in `cache_dir`, and come back memory-mapped.
    """
    log = entry_of("data", options).target(options)
    if not _keeps(options, log):
        return _read(options, log, None)
    recipe = {k: v for k, v in dataclasses.asdict(options).items() if k not in USE}
    key = cache.cache_key(recipe | {"kind": type(options).__name__}, log.files)
    folder = Path(options.cache_dir).expanduser() / "decoded" / key
    if not (folder / cache.META).exists():
        with cache.atomic_folder(folder) as part:
            cache.write_metadata(_read(options, log, part), part)
    return cache.open_cache(folder)


def _read(options: DataOptions, log: EpisodeStream, folder: Path | None) -> Trajectories:
    """Stacks and checks the episodes; what is skipped is told."""
    skip = options.on_invalid_episode == "skip"
    skipped: list[str] = []
    episodes = progress_bar(
        split_long_episodes(log.episodes, options.max_episode_steps), log.count, log.source
    )
    trajectories = stack_episodes(
        episodes,
        log.source,
        declared_actions(options) or log.action_spec,
        skipped=skipped if skip else None,
        folder=folder,
    )
    _check_declared(options, trajectories)
    before = trajectories.num_episodes
    trajectories, faults = drop_invalid_episodes(trajectories)
    if not skip:
        raise_data_errors(faults, log.source)
    left_out = len(skipped) + before - trajectories.num_episodes
    if left_out:
        logger.warning(
            "%s",
            bullet_list(f"{log.source}: {left_out} faulty episodes left out", skipped + faults),
        )
    return trajectories


def _check_declared(options: DataOptions, trajectories: Trajectories) -> None:
    """Raises ConfigError for bounds that are not one for each dimension of the actions."""
    actions, low = trajectories.actions, options.action_low
    if low is None or (actions.ndim == 2 and actions.shape[1] == len(low)):
        return
    there = "are classes" if actions.ndim == 1 else f"have {actions.shape[1]} dimensions"
    raise ConfigError(f"data.action_low has {len(low)} numbers, but these actions {there}")


def _keeps(options: DataOptions, log: EpisodeStream) -> bool:
    """Whether the logs are kept decoded: large files are, and all where that is asked for."""
    if not log.files or options.cache == "never":
        return False
    if options.cache == "always" or options.loader == "host":
        return True
    return sum(file.stat().st_size for file in log.files) >= KEPT_BYTES


def declared_actions(options: DataOptions) -> ActionSpec | None:
    """The bounds given by `action_low` and `action_high`, or None."""
    low, high = options.action_low, options.action_high
    if low is None or high is None:
        return None
    return ActionSpec(False, len(low), tuple(low), tuple(high))


def existing_path(options: DataOptions, accepted: str) -> Path:
    """`options.path`, if something is there. Raises DataError, which says what is `accepted`."""
    if not options.path:
        raise DataError(f"data.path is not set; data={options.name} reads {accepted}")
    path = Path(options.path).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist; data={options.name} reads {accepted}")
    if path.is_dir() and not any(path.iterdir()):
        raise DataError(f"{path} is empty; data={options.name} reads {accepted}")
    return path


def existing_files(options: DataOptions, accepted: str, *endings: str) -> list[Path]:
    """The files that `options.path` names, sorted: one file, all in a folder, or a glob pattern.

    Raises DataError if there are none with one of the `endings`.
    """
    pattern = os.path.expanduser(options.path or "")
    if any(mark in pattern for mark in "*?[") and not os.path.exists(pattern):
        found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    else:
        path = existing_path(options, accepted)
        found = sorted(path.iterdir()) if path.is_dir() else [path]
        if path.is_file():
            return found
    files = [file for file in found if file.is_file() and file.suffix.lower() in endings]
    if not files:
        raise DataError(
            f"{options.path} names no file that ends in {' or '.join(endings)}; "
            f"data={options.name} reads {accepted}"
        )
    return files


def needs_path(options: DataOptions) -> str:
    """What a format of files says where no path is given."""
    return f"data.path needs a file, a folder or a pattern such as logs/*, for data={options.name}"
