"""Readers of datasets, one file per format. `load` runs a reader, and checks what it returns."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from functools import partial
from itertools import chain, islice
from pathlib import Path

from worldmodel.config import DataOptions
from worldmodel.config.data_sources import dataset_errors
from worldmodel.config.option import option_errors
from worldmodel.config.registry import entries, entry_of
from worldmodel.data import cache, consistency
from worldmodel.data.action_inference import action_note, declared_actions
from worldmodel.data.episodes import Episode, EpisodeStream, raise_data_errors, stack_episodes
from worldmodel.data.long_episodes import split_long_episodes
from worldmodel.data.observations import ObservationChoice, holds_encoded_images
from worldmodel.data.progress import progress_bar
from worldmodel.data.readers.files import reading
from worldmodel.data.readers.sizes import check_holes
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.validation import drop_invalid_episodes
from worldmodel.errors import UserError, bullet_list, raise_config_errors, require
from worldmodel.system.storage import atomic_folder, remove_folder, user_path

logger = logging.getLogger(__name__)

# Options that do not change the content of a dataset.
RUNTIME_OPTIONS = {
    *("name", "holdout", "normalize"),
    *("cache", "cache_dir", "loader", "num_workers"),
}
CACHED_BYTES = 32 * 2**20  # files of at least this size are cached
CACHED_IMAGE_BYTES = 2 * 2**20  # likewise, where images are encoded


def load(options: DataOptions, *, warn: bool = True) -> Trajectories:
    """Reads and checks a dataset.

    Large ones are cached in `options.cache_dir` and memory-mapped.

    Args:
        options: the options of a format, such as `NPZData(path="logs/*.npz")`
        warn: log what the data say about themselves (`consistency.notes`): missed resets, actions
            of another row, observations that were not logged

    Raises:
        ConfigError: options that are missing or do not go together
        DataError: data that are missing, unreadable or invalid, with file, episode, step and field

    Example:
        >>> import numpy as np
        >>> from worldmodel.data import load
        >>> from worldmodel.data.readers.npz import NPZData
        >>> np.savez("flight.npz", observations=np.zeros((11, 3)), actions=np.zeros((10, 1)))
        >>> load(NPZData(path="flight.npz")).num_transitions
        10
    """
    kinds = tuple(entry.options for entry in entries("data").values())
    accepted = 'the options of a format, such as NPZData(path="logs/*.npz")'
    require(isinstance(options, kinds), "options", repr(options), accepted)
    raise_config_errors(option_errors(options, "data."))
    raise_config_errors(dataset_errors(options))
    trajectories = _load(options)
    found = consistency.notes(trajectories) if warn else []
    if warn and options.classes is None and options.environment_id is None:
        found += filter(None, [action_note(trajectories)])
    for note in found:
        logger.warning("%s: %s", trajectories.source, note)
    return trajectories


def _load(options: DataOptions) -> Trajectories:
    """Reads a dataset, or opens it in the cache."""
    stream = entry_of("data", options).target(options)
    with reading("files that can be read"):
        for file in stream.files:
            check_holes(file)
    cached, stream = _is_cached(options, stream)
    if not cached:
        return _read(options, stream, None)
    recipe = {k: v for k, v in dataclasses.asdict(options).items() if k not in RUNTIME_OPTIONS}
    with reading("files that can be read"):
        key = cache.cache_key(recipe | {"kind": type(options).__name__}, stream.files)
    folder = user_path(options.cache_dir) / "decoded" / key
    if folder.exists():
        try:
            return cache.open_cache(folder)
        except cache.DamagedCacheError as error:
            logger.warning("%s is damaged (%s); the data are decoded again", folder, error)
            remove_folder(folder)
    with atomic_folder(folder) as part, cache.recorded_warnings() as warnings:
        cache.write_metadata(_read(options, stream, part), part, warnings)
    return cache.open_cache(folder, warn=False)


def _read(options: DataOptions, stream: EpisodeStream, folder: Path | None) -> Trajectories:
    """Stacks and checks the episodes; a warning lists those that are skipped."""
    skip = options.on_invalid_episode == "skip"
    skipped: list[str] = []
    episodes = progress_bar(
        split_long_episodes(stream.episodes, options.max_episode_steps), stream.count, stream.source
    )
    trajectories = stack_episodes(
        episodes,
        stream.source,
        declared_actions(options, stream.action_spec),
        skipped=skipped if skip else None,
        folder=folder,
        choice=ObservationChoice.of(options),
        offsets=stream.offsets,
        environment=partial(_environment_actions, options),
    )
    lost = {**stream.lost_digits, **trajectories.lost_digits}
    # An image that is converted a second time has a shape that no environment shows.
    images = {**stream.image_conversions, **trajectories.image_conversions}
    images = {key: value for key, value in images.items() if key in trajectories.observations}
    trajectories = dataclasses.replace(trajectories, lost_digits=lost, image_conversions=images)
    before = trajectories.num_episodes
    trajectories, errors = drop_invalid_episodes(trajectories)
    if not skip:
        raise_data_errors(errors, stream.source)
    left_out = len(skipped) + before - trajectories.num_episodes
    if left_out:
        head = f"{stream.source}: {left_out} invalid episodes skipped"
        logger.warning("%s", bullet_list(head, skipped + errors))
    return trajectories


def _is_cached(options: DataOptions, stream: EpisodeStream) -> tuple[bool, EpisodeStream]:
    """Whether the decoded dataset is cached: large files are, those with encoded images, and any if
    the options say so; and the stream, of which the first episode may have been read.
    """
    if not stream.files or options.cache == "never":
        return False, stream
    if options.cache == "always" or options.loader == "host":
        return True, stream
    size = sum(file.stat().st_size for file in stream.files)
    if not CACHED_IMAGE_BYTES <= size < CACHED_BYTES:
        return size >= CACHED_BYTES, stream
    episodes = iter(stream.episodes)
    first = list(islice(episodes, 1))
    encoded = any(holds_encoded_images(e.observations) for e in first if isinstance(e, Episode))
    return encoded, dataclasses.replace(stream, episodes=chain(first, episodes))


def _environment_actions(options: DataOptions) -> ActionSpec | None:
    """The actions of the environment; None without one, or where it cannot be created, which its
    evaluation reports.
    """
    if options.environment_id is None:
        return None
    from worldmodel.data.action_spaces import logged_actions
    from worldmodel.data.environment import GuardedEnvironment

    try:
        with contextlib.closing(GuardedEnvironment(options.environment_id)) as guarded:
            return logged_actions(guarded.environment.action_space)
    except UserError:
        return None
