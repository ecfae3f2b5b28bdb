"""Bags of ROS 1 (.bag) and ROS 2 (.db3, MCAP). A bag is an episode.

Topics speak at their own times. The episode is sampled at `data.rate`: each step has the last
value of every field before it. It begins when all topics have spoken, and ends with the first topic
of the observations that falls silent. With `data.reward` the last step is a transition, too, whose
outcome was not seen; without, it is the final observation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import MISSING

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream
from worldmodel.data.readers.files import existing_files, read_files, reading, summary
from worldmodel.data.readers.ros_messages import (
    Decoder,
    Definitions,
    check_field,
    compressed_image_of,
    image_of,
    numbers_of,
)
from worldmodel.data.readers.sizes import check_memory
from worldmodel.errors import DataError, did_you_mean
from worldmodel.system.storage import user_path

logger = logging.getLogger(__name__)

METADATA = "metadata.yaml"  # of a folder that is one bag of ROS 2
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
NANOSECONDS = 10**9
MOST_HELD = 1000  # steps for each message, at most
OFTEN_HELD = 1.5  # a rate so many times that of a topic causes a warning


@dataclass
class RosbagData(DataOptions):
    """Bags of ROS 1 (.bag) and ROS 2 (.db3, .mcap), sampled at a rate: a bag is an episode."""

    name: str = option("rosbag", "data source")
    observations: list[str] = option(  # pyright: ignore[reportIncompatibleVariableOverride]
        MISSING,
        "fields of the observation, /TOPIC/FIELD/..., such as /odom/pose/pose/position/x: one "
        "vector, and an image for each topic of images",
    )
    actions: list[str] = option(MISSING, "fields of the action, such as /cmd_vel/linear/x")
    reward: str | None = option(None, "field of the reward (null: no reward)")
    rate: float = option(MISSING, "steps per second", low=1e-4, high=1e5)

    def chosen_observations(self) -> None:
        return None


ACCEPTED = summary(RosbagData)


def holds_bags(folder: Path) -> bool:
    """Whether a folder is a bag of ROS 2, or holds such folders."""
    return (folder / METADATA).is_file() or any(folder.glob(f"*/{METADATA}"))


def present_topics(options: RosbagData) -> str:
    """A line with the topics of the first bag and their types; '' if it cannot be read."""
    try:
        with reading(ACCEPTED):
            bag = _bags(options)[0][0]
            with _reader(bag) as reader:
                kinds = {c.topic: c.msgtype for c in reader.connections}
    except DataError:
        return ""
    return f"topics of {bag}: {', '.join(f'{t} ({kind})' for t, kind in sorted(kinds.items()))}"


@register(
    "data",
    "rosbag",
    RosbagData,
    endings=(".bag", ".mcap", ".db3"),
    recognizes=holds_bags,
    columns=present_topics,
)
def read(options: RosbagData) -> EpisodeStream:
    """Reads all bags. Raises DataError if there is none, and without `rosbags`."""
    try:
        import rosbags  # noqa: F401  whether it is installed
    except ImportError as error:
        message = 'data=rosbag needs the package rosbags: pip install -e ".[rosbag]"'
        raise DataError(message) from error
    bags, files = _bags(options)
    episodes = read_files(bags, partial(_episode, options), ACCEPTED)
    return EpisodeStream(str(options.path), episodes, files=files, count=len(bags))


def _bags(options: RosbagData) -> tuple[list[Path], tuple[Path, ...]]:
    """The bags that `options.path` names, and all of their files. Raises DataError for none."""
    path = user_path(options.path or "")
    if not (path.is_dir() and holds_bags(path)):
        files = existing_files(options)
        return list(files), files
    bags = [path] if (path / METADATA).is_file() else sorted(path.glob(f"*/{METADATA}"))
    bags = [bag.parent if bag.name == METADATA else bag for bag in bags]
    return bags, tuple(file for bag in bags for file in sorted(bag.iterdir()) if file.is_file())


class Field(NamedTuple):
    """A field of messages: its option's text, its topic, and the names inside of a message."""

    text: str
    topic: str
    parts: tuple[str, ...]
    kind: str  # the type of the messages

    @property
    def is_image(self) -> bool:
        return not self.parts and self.kind in (IMAGE, COMPRESSED)


def _episode(options: RosbagData, path: Path, prefix: str) -> Iterator[Episode]:
    name = prefix.strip() or path.name
    with _reader(path) as reader:
        definitions = _definitions(reader)
        kinds = {c.topic: c.msgtype for c in reader.connections}
        wanted = [*options.observations, *options.actions, *filter(None, [options.reward])]
        fields = {text: _field(text, kinds, definitions) for text in dict.fromkeys(wanted)}
        if images := [t for t in [*options.actions, options.reward] if t and fields[t].is_image]:
            raise DataError(f"{images[0]} is an image; accepted for it: numbers")
        times = _times(reader, {field.topic for field in fields.values()})
        seen = {fields[text].topic for text in options.observations}
        samples = _samples(times, seen, options.rate, name)
        columns = _columns(reader, path.suffix == ".bag", definitions, fields, times, samples)
    vector = [columns[text] for text in options.observations if not fields[text].is_image]
    observations = {"observation": np.concatenate(vector, 1)} if vector else {}
    for text in options.observations:
        if fields[text].is_image:
            observations[text.strip("/")] = columns[text]
    yield Episode(
        observations,
        actions=np.concatenate([columns[text] for text in options.actions], 1),
        rewards=columns[options.reward] if options.reward else None,
        terminated=False,
        name=name,
        time=(samples - samples[0]) / NANOSECONDS,
        final_logged=options.reward is None,  # else the last reward would be lost
    )


def _reader(path: Path) -> AbstractContextManager[Any]:
    from rosbags import rosbag1, rosbag2

    return rosbag1.Reader(path) if path.suffix == ".bag" else rosbag2.Reader(path)


def _definitions(reader: Any) -> Definitions:
    """Those in the bag; those of ROS 2 for a bag without any."""
    from rosbags.interfaces import MessageDefinitionFormat
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    found = dict(get_typestore(Stores.EMPTY).fielddefs)
    written = [c for c in reader.connections if c.msgdef.format != MessageDefinitionFormat.NONE]
    if not written:
        return get_typestore(Stores.LATEST).fielddefs
    for connection in written:
        if connection.msgdef.format == MessageDefinitionFormat.MSG:
            found.update(get_types_from_msg(connection.msgdef.data, connection.msgtype))
        else:
            found.update(get_types_from_idl(connection.msgdef.data))
    return found


def _field(text: str, kinds: Mapping[str, str], definitions: Definitions) -> Field:
    """Splits /TOPIC/FIELD after the longest topic that there is. Raises DataError for others."""
    topics = [t for t in kinds if text == t or text.startswith(f"{t}/")]
    if not topics:
        near = did_you_mean(text, kinds) or did_you_mean("/".join(text.split("/")[:2]), kinds)
        raise DataError(f"has no topic for {text}{near}; its topics: {', '.join(sorted(kinds))}")
    topic = max(topics, key=len)
    parts = tuple(filter(None, text.removeprefix(topic).split("/")))
    check_field(definitions, kinds[topic], parts, topic)
    return Field(text, topic, parts, kinds[topic])


def _times(reader: Any, topics: set[str]) -> dict[str, np.ndarray]:
    """Topic -> (messages,) nanoseconds, in order. Raises DataError for a topic that is silent."""
    found: dict[str, list[int]] = {topic: [] for topic in topics}
    for connection, time, _ in reader.messages(_connections(reader, topics)):
        found[connection.topic].append(time)
    if silent := sorted(topic for topic, times in found.items() if not times):
        raise DataError(f"no message of {', '.join(silent)}; accepted: at least one of each topic")
    arrays = {topic: np.array(times, np.int64) for topic, times in found.items()}
    for topic, of in arrays.items():
        if (backwards := np.flatnonzero(np.diff(of) < 0)).size:
            raise DataError(f"message {backwards[0] + 1} of {topic} is older than the one before")
    return arrays


def _connections(reader: Any, topics: set[str]) -> list[Any]:
    return [connection for connection in reader.connections if connection.topic in topics]


def _samples(
    times: Mapping[str, np.ndarray], observed: set[str], rate: float, name: str
) -> np.ndarray:
    """(steps,) nanoseconds of the steps; tells what is cut off at the ends."""
    begin = max(int(of.min()) for of in times.values())
    end = min(int(times[topic].max()) for topic in observed)
    first = min(int(of.min()) for of in times.values())
    last = max(int(of.max()) for of in times.values())
    count, messages = (end - begin) * rate / NANOSECONDS + 1, sum(map(len, times.values()))
    if not 2 <= count <= MOST_HELD * messages:
        raise DataError(
            f"all topics have spoken for {(end - begin) / NANOSECONDS:g} s, which at "
            f"data.rate={rate:g} is {max(0, int(count)):,} steps of {messages:,} messages; "
            f"accepted: 2 to {MOST_HELD} steps for each message"
        )
    if first < begin or end < last:
        logger.warning(
            "%s: %.3g s before all topics have spoken and %.3g s after one of them is silent are "
            "left out",
            name, (begin - first) / NANOSECONDS, (last - end) / NANOSECONDS,
        )  # fmt: skip
    for topic in sorted(observed):
        spoken = len(times[topic]) - 1
        usual = spoken * NANOSECONDS / max(1, int(np.ptp(times[topic])))
        if rate > OFTEN_HELD * usual:
            logger.warning(
                "%s: %s speaks %.3g times a second, so that at data.rate=%g most steps repeat the "
                "one before",
                name, topic, usual, rate,
            )  # fmt: skip
    return begin + np.round(np.arange(int(count)) * NANOSECONDS / rate).astype(np.int64)


def _columns(
    reader: Any,
    packed: bool,
    definitions: Definitions,
    fields: Mapping[str, Field],
    times: Mapping[str, np.ndarray],
    samples: np.ndarray,
) -> dict[str, np.ndarray]:
    """Field -> (steps, ...) its last value at each step. Only those messages are decoded."""
    held = {topic: np.searchsorted(of, samples, "right") - 1 for topic, of in times.items()}
    needed = {topic: set(index.tolist()) for topic, index in held.items()}
    kinds = {field.topic: field.kind for field in fields.values()}
    decoders = {topic: Decoder(definitions, kind, packed) for topic, kind in kinds.items()}
    values: dict[str, dict[int, Any]] = {text: {} for text in fields}
    position = dict.fromkeys(times, -1)
    for connection, _, raw in reader.messages(_connections(reader, set(times))):
        topic = connection.topic
        position[topic] += 1
        if position[topic] in needed[topic]:
            message = decoders[topic].decode(raw)
            for text, field in fields.items():
                if field.topic == topic:
                    values[text][position[topic]] = _value(message, field)
    return {text: _stacked(values[text], held[fields[text].topic], text) for text in fields}


def _value(message: dict[str, Any], field: Field) -> Any:
    if not field.is_image:
        return numbers_of(message, field.parts, field.text)
    convert = image_of if field.kind == IMAGE else compressed_image_of
    return convert(message, field.text)


def _stacked(values: Mapping[int, Any], held: Sequence[int] | np.ndarray, text: str) -> np.ndarray:
    """(steps, ...) of the values by number of the message. Raises DataError for other shapes."""
    first = values[int(held[0])]
    if isinstance(first, bytes):
        encoded = np.empty(len(held), object)
        encoded[:] = [values[int(index)] for index in held]
        return encoded
    check_memory(first.nbytes * len(held), text)
    for index, value in values.items():
        if value.shape != first.shape:
            raise DataError(
                f"{text} has shape {value.shape} in message {index}, and {first.shape} before; "
                "accepted: one shape"
            )
    return np.stack([values[int(index)] for index in held])
