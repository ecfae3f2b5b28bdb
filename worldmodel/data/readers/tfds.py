"""TFDS in the RLDS layout, stored as ArrayRecord or TFRecord, read without TensorFlow.

One record is one episode: `steps` with `observation`, `action`, `reward`, `is_first`, `is_last`,
`is_terminal` and `discount`. `rlds_writer.py` writes it. tensorflow_datasets is imported inside the
functions, since that takes a second.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.images import ImageConversion
from worldmodel.data.observations import ObservationChoice
from worldmodel.data.readers.files import existing_path, reading
from worldmodel.data.readers.tfds_builder import (
    ACCEPTED,
    INFO,
    INSTALL_TENSORFLOW,
    holds_dataset,
    prepared,
    prepared_folder,
)
from worldmodel.data.readers.tfds_ends import Ends, LastSteps, ends_in_zeros
from worldmodel.data.readers.tfds_features import (
    Keys,
    check_compressed,
    check_counts,
    check_features,
    numeric_observations,
    step_features,
)
from worldmodel.data.rlds_writer import CARD, METADATA_KEY, NATIVE_FORMAT, OBSERVED
from worldmodel.data.spec import ActionSpec
from worldmodel.errors import DataError, UserError, bullet_list, first_line
from worldmodel.system.storage import user_path

logger = logging.getLogger(__name__)

FORMATS = ("array_record", "tfrecord")  # that can be read, the preferred one first

# Warnings, after the number of episodes that have them.
SINGLE_STEP = "of a single step left out, since they hold no transition"
NO_LAST_OBSERVATION = (
    "end in zeros, which D4RL's builder writes for missing observations; they are not used"
)

MAX_SEEDS = 10**7  # of metadata, which may come from others

Record = Mapping[str, Any] | UnreadableEpisode


@dataclass
class TFDSData(DataOptions):
    """TFDS in the RLDS layout: a prepared directory, or the name of a TFDS builder."""

    name: str = option("tfds", "data source")
    builder: str | None = option(
        None, "TFDS builder instead of a path, such as d4rl_mujoco_halfcheetah/v0-medium"
    )
    split: str = option("train", "TFDS split to read")

    def recorded_environment(self) -> str | None:
        return read_metadata(user_path(self.path)).get("environment") if self.path else None

    def recorded_seeds(self) -> list[int | None] | None:
        recipe = read_metadata(user_path(self.path)) if self.path else {}
        first, count = recipe.get("collection_seed"), recipe.get("episodes")
        if not (isinstance(first, int) and isinstance(count, int) and 0 < count <= MAX_SEEDS):
            return None
        return [first + episode for episode in range(count)]


def prepared_datasets(folder: Path) -> Iterator[str]:
    """Describes the prepared datasets below `folder` for `python -m worldmodel.data list`."""
    yield f"Datasets in {folder}"
    count = 0
    for info in sorted(folder.glob(f"**/{INFO}")):
        place = info.parent
        if any(part.startswith(".") for part in place.relative_to(folder).parts):
            continue  # is being written
        count += 1
        yield f"  {place}: {_card_summary(place / CARD)}{_environment_of(place)}"
    if not count:
        yield "  none"


def _card_summary(path: Path) -> str:
    if not path.exists():
        return f"no {path.name}; inspect it"
    try:
        card = json.loads(path.read_text())
        return f"{card['episodes']:,} episodes, {card['transitions']:,} transitions"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"its {path.name} cannot be read"


def _environment_of(folder: Path) -> str:
    try:
        name = read_metadata(folder).get("environment")
    except UserError as error:
        return f"; {first_line(error)}"
    return f" of {name}" if name else ""


@register(
    "data",
    NATIVE_FORMAT,
    TFDSData,
    source="builder",
    recognizes=holds_dataset,
    listing=prepared_datasets,
)
def read(options: TFDSData) -> EpisodeStream:
    """Reads a prepared TFDS directory in the RLDS layout.

    `observation` is a tensor or a dict of tensors, `action` a vector of floats or one integer. Its
    bounds come from our metadata, or else from the data. Action and reward of the last step are
    padding, as in RLDS, even if it is not marked `is_last`; a reward there is asked about, unless
    this package or D4RL's builder wrote it. Episodes of a single step hold no transition and are
    left out, with a warning. Raises DataError for other layouts and formats.
    """
    by_name = options.builder
    folder = prepared(by_name, options.path) if by_name else prepared_folder(existing_path(options))
    files = tuple(sorted(p for p in folder.iterdir() if p.is_file() and p.name != CARD))
    with reading(ACCEPTED, folder):
        check_features(folder)
        check_counts(folder, files)
    builder = _builder(folder)
    source = f"{folder} ({options.split})"
    steps = step_features(builder, folder)
    choice = ObservationChoice.of(options)
    observations = numeric_observations(steps["observation"], source, choice)
    shards = _shards(builder, options.split, folder)
    records = _records(builder, options.split, shards)
    padded_with_zeros = builder.name.startswith("d4rl_")
    ends = Ends(steps, options.roles, source)
    metadata = read_metadata(folder)
    last_steps = LastSteps(
        options.roles, source, own="action" in metadata, asks=not padded_with_zeros
    )
    episodes = _episodes(records, steps, observations, ends, last_steps, padded_with_zeros)
    total = sum(shard.take for shard in shards)
    return EpisodeStream(
        source,
        episodes,
        _action_spec(folder, steps),
        files,
        total,
        offsets=metadata.get("offsets"),
        lost_digits=metadata.get("lost_digits", {}),
        image_conversions={
            key: ImageConversion.from_json(value)
            for key, value in metadata.get("images", {}).items()
        },
    )


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata that `write_rlds` stored, such as `environment`; empty for other datasets."""
    file = prepared_folder(Path(folder)) / "metadata.json"
    with reading(ACCEPTED, file):
        metadata = json.loads(file.read_text()) if file.exists() else {}
        return dict(metadata.get(METADATA_KEY, {}))


# ------------------------------------------------------------------------------------ the dataset


def _builder(folder: Path) -> Any:
    """Opens a prepared directory with TFDS, in the preferred one of its storage formats."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        stored = [file_format.value for file_format in builder.info.available_file_formats()]
        readable = [name for name in FORMATS if name in stored]
        if readable and readable[0] != _stored_as(builder):
            builder.info.set_file_format(readable[0], override=True, override_if_initialized=True)
    except Exception as error:  # TFDS raises any exception of its parsers
        needs = getattr(error, "name", None) == "tensorflow"  # as for audio and video
        remedy = INSTALL_TENSORFLOW if needs else f"data=tfds reads {ACCEPTED}"
        raise DataError(f"{folder}: TFDS cannot open it ({first_line(error)}); {remedy}") from error
    if not readable:
        raise DataError(
            f"{folder} is stored as {' and '.join(sorted(stored)) or 'an unknown format'}; "
            f"accepted: {', '.join(FORMATS)}"
        )
    return builder


def _stored_as(builder: Any) -> str:
    return builder.info.file_format.value


# ---------------------------------------------------------------------------------------- records


def _shards(builder: Any, split: str, folder: Path) -> Sequence[Any]:
    """The files of a split or of a part of it, each with its records to skip and take."""
    try:
        shards = builder.info.splits[split].file_instructions
    except Exception as error:  # TFDS raises any exception of its parser
        splits = ", ".join(builder.info.splits)
        raise DataError(
            f"{folder}: cannot read split {split!r} ({first_line(error)}); splits: {splits}, or a "
            "part such as train[:50%]"
        ) from error
    if not shards:
        raise DataError(f"{folder}: split {split!r} holds no episodes")
    outside = [s.filename for s in shards if Path(s.filename).parent != folder]
    if outside:
        raise DataError(bullet_list(f"{folder}: files are outside the folder", outside))
    if missing := [shard.basename() for shard in shards if not Path(shard.filename).is_file()]:
        raise DataError(bullet_list(f"{folder}: files are missing", missing))
    return shards


def _records(builder: Any, split: str, shards: Sequence[Any]) -> Iterator[Record]:
    """The records of a split, with steps as columns; decoding them one by one is ten times slower.

    TFRecord has no index, so all records after a damaged one are lost. Checksums are not verified.
    """
    import tensorflow_datasets as tfds

    decoders, episodes = {"steps": tfds.decode.SkipDecoding()}, count()
    indexed: Any = None
    if _stored_as(builder) == "array_record":
        indexed = builder.as_data_source(split, decoders=decoders, file_format="array_record")
    for shard in shards:
        end = shard.skip + shard.take
        records = islice(_intact_records(shard.filename), shard.skip, end)
        for position in range(shard.skip, end):
            episode = next(episodes)
            try:
                if indexed is not None:
                    yield indexed[episode]
                elif (record := next(records, None)) is None:
                    raise EOFError("the file is truncated or damaged here or before")
                else:
                    yield builder.info.features.deserialize_example_np(record, decoders=decoders)
            except Exception as error:  # ArrayRecord, protobuf and TFDS raise any exception
                yield UnreadableEpisode(
                    f"episode {episode}",
                    f"record {position} of {shard.basename()} cannot be read ({first_line(error)})",
                )


def _intact_records(path: str) -> Iterator[bytes]:
    """The records of a TFRecord file up to its end, or to the first length beyond it: each has its
    length in 8 bytes and a checksum in 4, its content, and a checksum of that.
    """
    left = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        while header := file.read(12):
            length = int.from_bytes(header[:8], "little")
            left -= 16 + length
            if left < 0:
                return
            yield file.read(length)
            file.seek(4, os.SEEK_CUR)


def _action_spec(folder: Path, steps: Mapping[str, Any]) -> ActionSpec | None:
    """From our metadata, or else from a feature with a number of classes, or else None."""
    if raw := read_metadata(folder).get("action"):
        with reading("the metadata that convert writes", folder / "metadata.json"):
            return ActionSpec.from_json(raw)
    classes = getattr(steps["action"], "num_classes", None)
    return ActionSpec(True, classes) if classes else None


# --------------------------------------------------------------------------------------- episodes


def _episodes(
    records: Iterator[Record],
    features: Mapping[str, Any],
    observations: Mapping[str, tuple[Keys, Any]],
    ends: Ends,
    last_steps: LastSteps,
    padded_with_zeros: bool,
) -> Iterator[Episode | UnreadableEpisode]:
    notes: Counter[str] = Counter()
    for index, record in enumerate(records):
        name = f"episode {index}"
        if isinstance(record, UnreadableEpisode):
            yield record
            continue
        try:
            episode = _episode(record["steps"], features, observations, ends, name)
        except DataError as error:
            yield UnreadableEpisode(name, str(error))
            continue
        if padded_with_zeros and episode.terminated and ends_in_zeros(episode.observations):
            notes[NO_LAST_OBSERVATION] += 1
            episode = _without_last(episode)
        episode = last_steps.read(episode)
        if len(episode.actions) < 1 + episode.final_logged:
            notes[SINGLE_STEP] += 1
            continue
        yield episode
    for note, times in notes.items():
        if times:
            logger.warning("%s: %d episodes %s", ends.told.source, times, note)
    last_steps.tell()


def _episode(
    steps: Mapping[str, Any],
    features: Mapping[str, Any],
    observations: Mapping[str, tuple[Keys, Any]],
    ends: Ends,
    name: str,
) -> Episode:
    """Converts the columns of an episode. Raises DataError, without its name."""
    terminated = ends.terminated(steps)
    rewards = None
    if "reward" in features:
        rewards = _column(features["reward"], steps["reward"], "reward")
    episode = Episode(
        observations={
            key: _column(feature, _at(steps["observation"], path), f"observation {key!r}")
            for key, (path, feature) in observations.items()
        },
        actions=_column(features["action"], steps["action"], "action"),
        rewards=rewards,
        terminated=terminated,
        name=name,
    )
    ends.told.warn(ends.unread, len(episode.actions))
    observed = steps.get(OBSERVED)
    logged = observed is None or np.asarray(observed, bool)[-1:].all()
    return episode if logged else _without_last(episode)


def _without_last(episode: Episode) -> Episode:
    """The same episode without its last observation, which was not logged."""
    return replace(
        episode,
        observations={key: value[:-1] for key, value in episode.observations.items()},
        actions=episode.actions[:-1],
        rewards=None if episode.rewards is None else episode.rewards[:-1],
        final_logged=False,
    )


def _at(tree: Any, path: Keys) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _column(feature: Any, raw: Any, field: str) -> np.ndarray:
    """(T+1, ...) values of a field, stored as numbers or encoded step by step."""
    if raw is None:
        raise DataError(f"{field} is missing from the record")
    if isinstance(raw, np.ndarray) and raw.dtype != object:
        return raw
    try:
        if isinstance(raw, Mapping):  # a tensor of variable shape: values and shapes
            raw = [dict(zip(raw, step, strict=True)) for step in zip(*raw.values(), strict=True)]
        check_compressed(feature, raw)
        return np.stack([feature.decode_example_np(step) for step in raw])
    except Exception as error:  # decoders raise any exception
        raise DataError(
            f"{field} cannot be decoded ({first_line(error)}); accepted: one shape at every step"
        ) from error
