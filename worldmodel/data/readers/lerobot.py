"""LeRobotDatasets of versions 2.0, 2.1 and 3.0, in the folder that holds `meta/info.json`.

A row holds the observation and the action commanded at it, `next.reward` its reward: T rows for T
actions, and the observation after the last one is not logged. `observation.NAME` is the observation
NAME: numbers, encoded images, or frames of a video, which are decoded once, in order, by PyAV (the
extra `video`). Cameras that `data.observations` does not name are not decoded.

`next.done` is true in the last row of every episode in many datasets, whether the environment ended
or not: then an episode is terminal if `next.success` is true in its last row; without that,
`data.roles` is asked for if there are rewards, and no episode is terminal if there are none.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.readers.files import existing_path, reading
from worldmodel.data.readers.lerobot_metadata import (
    ACCEPTED,
    EpisodeEntry,
    Metadata,
    dataset_root,
    is_dataset,
)
from worldmodel.data.readers.lerobot_steps import check_steps
from worldmodel.data.readers.marks import FieldNames, check_roles, read_marks, truths
from worldmodel.data.readers.tables.columns import Column, encoded, is_bytes
from worldmodel.data.readers.tables.files import Request, read_parquet
from worldmodel.data.readers.video import Clip, check_installed, decoded
from worldmodel.errors import DataError, bullet_list, did_you_mean

logger = logging.getLogger(__name__)

OBSERVATION = "observation."  # before the name of an observation
REWARD, DONE, SUCCESS, TASK = "next.reward", "next.done", "next.success", "task"
FRAME = "frame_index"
INDICES = ("timestamp", FRAME, "episode_index", "index", "task_index")


@dataclass
class LeRobotData(DataOptions):
    """A LeRobotDataset of version 2.0, 2.1 or 3.0: the folder that holds `meta`."""

    name: str = option("lerobot", "data source")
    tasks: list[str] | None = option(
        None,
        "texts of the tasks whose episodes are read (null: all); the observation `task`, if "
        "data.observations names it, tells tasks apart",
    )

    def column_names(self) -> dict[str, list[str]]:
        try:
            features = Metadata.of(existing_path(self)).features
        except DataError:
            return {}
        given = {n.removeprefix(OBSERVATION): f.get("names") for n, f in features.items()}
        flat = {n: v.get("motors") if isinstance(v, dict) else v for n, v in given.items()}
        return {n: list(map(str, v)) for n, v in flat.items() if isinstance(v, list)}


@register("data", "lerobot", LeRobotData, recognizes=is_dataset, root_of=dataset_root)
def read(options: LeRobotData) -> EpisodeStream:
    """Reads the episodes of a dataset, in order. Raises DataError for metadata that are damaged or
    of another version, and for ends that cannot be told from terminal states.
    """
    root = existing_path(options)
    metadata = Metadata.of(root)
    fields = _Fields.of(metadata, options)
    if fields.videos:
        check_installed(str(options.path))
    entries = metadata.episodes(list(fields.videos.values()))
    if not entries:
        raise DataError(f"{options.path}: no episodes; accepted: at least one")
    entries, index = _index(metadata, options, fields, entries)
    files = {e.data for e in entries} | {file for e in entries for file, _ in e.videos.values()}
    present = [file for file in sorted(files) if file.is_file()]
    return EpisodeStream(
        str(options.path),
        _episodes(metadata, fields, entries, index),
        files=(*metadata.metadata_files, *present),
        count=len(entries),
    )


@dataclass(frozen=True)
class _Fields:
    """What is read of a dataset.

    columns: observation -> its column
    videos: observation -> the feature of its video
    actions: columns of the action
    reward: column of the reward, or None
    marks: column -> its role
    tasks: those that the observation `task` tells apart, or None
    """

    columns: Mapping[str, str]
    videos: Mapping[str, str]
    actions: Sequence[str]
    reward: str | None
    marks: Mapping[str, str]
    tasks: list[int] | None

    @classmethod
    def of(cls, metadata: Metadata, options: LeRobotData) -> _Fields:
        """Raises DataError for observations that the dataset has not, and without an action."""
        features, roles = metadata.features, {k: str(v) for k, v in options.roles.items()}
        check_roles(roles, features)
        present = {n.removeprefix(OBSERVATION): n for n in features if n.startswith(OBSERVATION)}
        present |= {n: n for n, role in roles.items() if role == "observation"}
        chosen = options.observations
        names = list(present) if chosen is None else chosen
        for name in names:
            if name not in present and name != TASK:
                known = [*present, TASK]
                raise DataError(
                    f"{options.path}: has no observation {name!r}"
                    f"{did_you_mean(name.removeprefix(OBSERVATION), known)}; "
                    f"present: {', '.join(known)}"
                )
        actions = [n for n in features if n == "action"] or [
            n for n in features if n.startswith("action.")
        ]
        actions = [n for n, role in roles.items() if role == "action"] or actions
        if not actions:
            raise DataError(
                f"{options.path}: no feature 'action'; present: {', '.join(features)}; accepted: "
                "action, action.NAME, or others by data.roles={NAME: action}"
            )
        rewards = [n for n, role in roles.items() if role == "reward"] or [REWARD]
        reward = next((n for n in rewards if n in features and roles.get(n) != "ignore"), None)
        videos = set(metadata.of_type("video"))
        marks = {n: r for n, r in roles.items() if r in ("terminal", "truncated", "end")}
        if DONE in features and DONE not in roles:
            marks[DONE] = "done"
        found = cls(
            {n: present[n] for n in names if n != TASK and present[n] not in videos},
            {n: present[n] for n in names if n != TASK and present[n] in videos},
            actions,
            reward,
            marks,
            list(metadata.tasks()) if TASK in names else None,
        )
        used = {*found.read_columns, *present.values(), *INDICES, *roles, *marks, SUCCESS}
        unread = [n for n in features if n not in used]
        FieldNames(str(options.path)).warn(unread, int(metadata.info.get("total_frames") or 0))
        return found

    @property
    def read_columns(self) -> list[str]:
        """The columns of an episode, each once."""
        single = [] if self.reward is None else [self.reward]
        return list(dict.fromkeys([*self.columns.values(), *self.actions, *single]))


# -------------------------------------------------------------------------------------------- ends


@dataclass(frozen=True)
class _Index:
    """What is known of every episode before its rows are read.

    seconds: episode -> (T,) the time of its rows
    terminal: episode -> whether it is terminal
    errors: file of rows -> why its marks and times cannot be read
    """

    seconds: Mapping[int, np.ndarray]
    terminal: Mapping[int, bool]
    errors: Mapping[Path, str]


def _index(
    metadata: Metadata, options: LeRobotData, fields: _Fields, entries: Sequence[EpisodeEntry]
) -> tuple[list[EpisodeEntry], _Index]:
    """The episodes of the chosen tasks. Raises DataError if marks cannot be told apart."""
    known = [n for n in (SUCCESS, "task_index", FRAME) if n in metadata.features]
    columns, errors = _joined(entries, [*fields.marks, *known, "timestamp", "episode_index"])
    numbers = columns["episode_index"].astype(np.int64)
    last = np.append(numbers[1:] != numbers[:-1], True)
    ends = np.flatnonzero(last)
    seconds = np.split(columns["timestamp"].astype(np.float64), ends[:-1] + 1)
    frames = np.split(columns[FRAME], ends[:-1] + 1) if FRAME in columns else []
    check_steps(str(options.path), metadata.fps, numbers[ends].tolist(), seconds, frames)
    terminal = _terminal(options, fields, columns, last) if fields.marks else last & False
    chosen = _of_tasks(metadata, options, entries, numbers, columns) if options.tasks else entries
    return list(chosen), _Index(
        dict(zip(numbers[ends].tolist(), seconds, strict=True)),
        dict(zip(numbers[ends].tolist(), terminal[ends].tolist(), strict=True)),
        errors,
    )


def _joined(
    entries: Sequence[EpisodeEntry], names: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[Path, str]]:
    """Columns of all files of rows that can be read, end to end, and the errors of the others.
    Raises DataError if none can be read.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    errors: dict[Path, str] = {}
    for file in dict.fromkeys(entry.data for entry in entries):
        try:
            with reading(ACCEPTED, file):
                columns = read_parquet(file, Request([[name] for name in names]))
        except DataError as error:
            errors[file] = str(error)  # reported with its episodes
            continue
        for name in names:
            parts[name].append(_array(name, columns[name]).reshape(-1))
    if errors and not parts[names[0]]:
        raise DataError(next(iter(errors.values())))
    return {name: np.concatenate(values) for name, values in parts.items()}, errors


def _terminal(
    options: LeRobotData, fields: _Fields, columns: Mapping[str, np.ndarray], last: np.ndarray
) -> np.ndarray:
    """(N,) the terminal rows among the `last` of episodes."""
    marks, roles = {n: truths(columns[n], n) for n in fields.marks}, dict(fields.marks)
    for name, mark in marks.items():
        if (early := np.flatnonzero(mark & ~last)).size:
            raise DataError(
                f"{options.path}: {name} is true in {early.size} rows inside episodes, first in "
                f"row {early[0]}; accepted: true in last rows only "
                f"(data.roles={{{name}: ignore}} leaves it out)"
            )
    if roles.get(DONE) == "done" and marks[DONE][last].all():
        if SUCCESS in columns and SUCCESS not in options.roles:
            marks[DONE] = marks[DONE] & truths(columns[SUCCESS], SUCCESS)
            roles[DONE] = "terminal"
            logger.info(
                "%s: %s is true at the end of all %d episodes, so those are terminal whose last %s "
                "is true: %d; data.roles={%s: terminal} reads all as such",
                options.path, DONE, last.sum(), SUCCESS, marks[DONE].sum(), DONE,
            )  # fmt: skip
        elif fields.reward is None:
            roles[DONE] = "end"
    with reading(ACCEPTED, str(options.path)):
        return read_marks(marks, roles, ends=last).terminal


def _of_tasks(
    metadata: Metadata,
    options: LeRobotData,
    entries: Sequence[EpisodeEntry],
    numbers: np.ndarray,
    columns: Mapping[str, np.ndarray],
) -> list[EpisodeEntry]:
    texts, wanted = metadata.tasks(), options.tasks or ()
    for task in wanted:
        if task not in texts.values():
            head = f"data.tasks={task}: no such task{did_you_mean(task, texts.values())}; present:"
            raise DataError(bullet_list(head, [repr(text) for text in texts.values()]))
    indices = [index for index, text in texts.items() if text in wanted]
    kept = set(numbers[np.isin(columns["task_index"], indices)].tolist())
    return [entry for entry in entries if entry.index in kept]


# ---------------------------------------------------------------------------------------- episodes


def _episodes(
    metadata: Metadata, fields: _Fields, entries: Sequence[EpisodeEntry], index: _Index
) -> Iterator[Episode | UnreadableEpisode]:
    rows = _Rows(metadata, fields)
    nothing = np.zeros(0)
    frames: dict[str, Iterator[np.ndarray | DataError]] = {}
    for name, feature in fields.videos.items():
        places = [(entry.index, *entry.videos[feature]) for entry in entries]
        clips = [Clip(file, begin + index.seconds.get(e, nothing)) for e, file, begin in places]
        frames[name] = decoded(clips, metadata.fps)
    for entry in entries:
        images = {key: next(clips) for key, clips in frames.items()}
        try:
            for found in images.values():
                if isinstance(found, DataError):
                    raise found
            if entry.data in index.errors:
                raise DataError(index.errors[entry.data])
            with reading(ACCEPTED, entry.data):
                observations, actions, rewards = rows.of(entry)
            yield Episode(
                {**observations, **images},
                actions,
                rewards,
                terminated=index.terminal[entry.index],
                name=f"episode {entry.index}",
                time=index.seconds[entry.index],
                final_logged=False,
            )
        except DataError as error:
            yield UnreadableEpisode(f"episode {entry.index}", str(error))


class _Rows:
    """The rows of episodes, of which those of one file are held."""

    def __init__(self, metadata: Metadata, fields: _Fields):
        self.metadata, self.fields = metadata, fields
        self.file: Path | None = None
        self.columns: dict[str, np.ndarray] = {}

    def of(
        self, entry: EpisodeEntry
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray | None]:
        """Observations, actions and rewards of an episode. Raises DataError, without its file."""
        if self.file != entry.data:
            self._open(entry.data)
        rows = np.flatnonzero(self.columns["episode_index"].reshape(-1) == entry.index)
        if len(rows) != entry.length or not len(rows):
            raise DataError(
                f"has {len(rows)} rows of episode {entry.index}; accepted: {entry.length}, as its "
                "metadata say"
            )
        part = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
        fields = self.fields
        observations = {n: self._value(c, part) for n, c in fields.columns.items()}
        if fields.tasks is not None:
            indices = self.columns["task_index"][part].reshape(-1)
            observations[TASK] = (indices[:, None] == np.array(list(fields.tasks))).astype(
                np.float32
            )
        actions = [self._value(name, part) for name in fields.actions]
        action = actions[0] if len(actions) == 1 else np.concatenate(actions, 1)
        if action.dtype.kind in "iu" and action.shape[1:] == (1,):
            action = action[:, 0]  # classes
        rewards = None if fields.reward is None else self._value(fields.reward, part)
        return observations, action, rewards

    def _open(self, file: Path) -> None:
        names = [*self.fields.read_columns, "episode_index"]
        names += ["task_index"] if self.fields.tasks is not None else []
        columns = read_parquet(file, Request([[name] for name in dict.fromkeys(names)]))
        self.columns = {name: _array(name, column) for name, column in columns.items()}
        self.file = file

    def _value(self, name: str, part: np.ndarray | slice) -> np.ndarray:
        """A column in the type and shape of its feature."""
        values, feature = self.columns[name][part], self.metadata.features[name]
        shape: list[int] = list(feature.get("shape") or ())
        dtype = str(feature["dtype"])
        integers = values.dtype.kind == "f" and dtype.startswith(("int", "uint"))
        if integers and np.isfinite(values).all():
            values = values.astype(dtype)
        if values.dtype.kind != "O" and len(shape) > 1 and math.prod(shape) == values[:1].size:
            values = values.reshape(-1, *shape)
        return values


def _array(name: str, column: Column) -> np.ndarray:
    """(N, ...) numbers, or objects: bytes, text."""
    if hasattr(column, "dtype"):  # an array already
        return column
    if is_bytes(column):
        return encoded(name, column)
    cells = column.to_pylist()
    try:
        return np.asarray(cells)
    except ValueError as error:
        raise DataError(f"column {name!r} has rows of several shapes; accepted: one") from error
