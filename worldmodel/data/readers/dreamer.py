"""Replay of Dreamer, in both of its kinds.

- DreamerV3: chunks `TIME-UUID-SUCCESSOR-LENGTH.npz` of consecutive steps of one worker, of which
  each names the next one. Episodes run over their borders. Row t holds an observation, the reward
  earned on arriving there, and the action taken there: rewards stand one row later than in D4RL.
- before, and V-D4RL: an archive an episode. Row t holds an observation, and the action and reward
  that led to it: actions stand one row later, too, and those of the first row are zeros.

The last row of an episode holds its final observation. What is missing at either end, as a chunk
that was overwritten or an episode that was interrupted, is told; the transitions there are read.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.observations import ObservationChoice
from worldmodel.data.readers.files import existing_files, reading, summary
from worldmodel.data.readers.marks import discounts, role_of, truths
from worldmodel.data.readers.npz import member_array
from worldmodel.data.readers.sizes import check_memory, check_size
from worldmodel.errors import DataError, bullet_list

logger = logging.getLogger(__name__)

CHUNK = re.compile(r"(\d{8}T\d{6}(?:F\d+)?)-([^-]+)-([^-]+)-(\d+)\.npz")
EPISODE = re.compile(r"\d{8}T\d{6}(?:F\d+)?-[^-]+-\d+\.npz")
# Not observed: bookkeeping of the replay, and latents of the agent that acted.
BOOKKEEPING = ("stepid", "consec", "reset")
NOT_OBSERVED = ("log_", "log/", "dyn/", "enc/", "dec/")
FILES_COMPARED = 20  # whose first and last actions tell how actions are aligned

# Warnings, after the number of episodes that have them.
SINGLE_STEP = "of a single row left out, since they hold no transition"
BEGIN_INSIDE = "begin inside an episode, since the rows before are not in the replay"
BEGIN_UNKNOWN = (
    "begin where it cannot be told whether rows before are missing, since there is no is_first"
)
INTERRUPTED = "end without is_last, as where a run was interrupted; they count as truncated"

Rows = dict[str, np.ndarray]  # key -> (n, ...)
EVERY = ObservationChoice()


@dataclass
class DreamerData(DataOptions):
    """Replay of Dreamer (.npz): a folder of chunks, or of a file an episode."""

    name: str = option("dreamer", "data source")
    actions_led_here: bool | None = option(
        None, "each action is stored with the observation that it led to (null: by the files)"
    )


ACCEPTED = summary(DreamerData)


def holds_replay(folder: Path) -> bool:
    """Whether the archives of a folder are named as Dreamer names them."""
    names = [file.name for file in folder.glob("*.npz")]
    return bool(names) and all(CHUNK.fullmatch(n) or EPISODE.fullmatch(n) for n in names)


@register("data", "dreamer", DreamerData, recognizes=holds_replay)
def read(options: DreamerData) -> EpisodeStream:
    """Reads the episodes of all workers. Raises DataError if there is no file, and for chunks that
    are linked in a circle.
    """
    files = existing_files(options, endings=(".npz",))
    streams = linked(files)
    led_here = options.actions_led_here
    if led_here is None:
        chunks = all(CHUNK.fullmatch(file.name) for file in files)
        led_here = not chunks and _actions_led_here(files, options.roles)
    replay = _Replay(str(options.path), options.roles, led_here, ObservationChoice.of(options))
    return EpisodeStream(str(options.path), replay.episodes(streams), files=files)


def linked(files: Sequence[Path]) -> list[list[Path]]:
    """The streams of chunks, each in the order of its links; files of another name are streams of
    their own. Raises DataError for links in a circle, and chunks with the same successor.
    """
    chunks = {match[2]: (match[3], f) for f in files if (match := CHUNK.fullmatch(f.name))}
    followed = Counter(successor for successor, _ in chunks.values() if successor in chunks)
    if twice := [uuid for uuid, times in followed.items() if times > 1]:
        raise DataError(f"{chunks[twice[0]][1]} follows {followed[twice[0]]} chunks; accepted: one")
    streams = [[file] for file in files if not CHUNK.fullmatch(file.name)]
    for uuid in chunks:
        if uuid not in followed:
            streams.append([])
            at: str | None = uuid
            while at in chunks:
                successor, file = chunks[at]
                streams[-1].append(file)
                at = successor
    if sum(map(len, streams)) < len(files):
        raise DataError(f"{files[0].parent}: chunks are linked in a circle; accepted: in a row")
    return sorted(streams)


def _actions_led_here(files: Sequence[Path], roles: Mapping[str, str]) -> bool:
    """Whether actions are stored with the observations that they led to: the first one is zeros
    then, and otherwise the last one. Raises DataError if neither is.
    """
    first = last = count = 0
    for file in files[:FILES_COMPARED]:
        try:
            rows = _load(file, roles)
        except DataError:  # is reported when the file is read
            continue
        action = rows[_key("action", rows, roles)]
        count += 1
        first, last = first + (not np.any(action[:1])), last + (not np.any(action[-1:]))
    if count and count not in (first, last):
        raise DataError(
            f"{files[0].parent}: of {count} files, the first action is zero in {first} and the "
            f"last in {last}, so it cannot be told whether an action led to the observation of its "
            "row or was taken there; set data.actions_led_here to true or false"
        )
    return first == count


# ------------------------------------------------------------------------------------------- files


def _load(file: Path, roles: Mapping[str, str], choice: ObservationChoice = EVERY) -> Rows:
    """The arrays of an archive, all of as many rows; of the observations those of the `choice`.
    Raises DataError for any others.
    """
    with reading(ACCEPTED), zipfile.ZipFile(file) as archive:
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
        kinds = {key: _role(key, roles) for key in members}
        out = {key for key, kind in kinds.items() if kind == "ignore"}
        observed = {_name(key): key for key, kind in kinds.items() if kind == "observation"}
        kept = choice.select(observed, "this file")
        out |= {key for name, key in observed.items() if name not in kept}
        wanted = {key: member for key, member in members.items() if key not in out}
        check_size(sum(m.file_size for m in wanted.values()), file.stat().st_size)
        rows = {key: np.asarray(member_array(archive, m)[:]) for key, m in wanted.items()}
    _key("action", rows, roles)
    counts = {key: len(value) for key, value in rows.items()}
    most = max(counts.values())
    if match := CHUNK.fullmatch(file.name):
        most = int(match[4])
    if wrong := [f"{key} has {n} rows" for key, n in counts.items() if n != most]:
        raise DataError(bullet_list(f"accepted: {most} rows of every key", wrong))
    return rows


def _role(key: str, roles: Mapping[str, str]) -> str:
    """What a key means: all that has no other meaning to Dreamer is observed."""
    if key in roles:
        return roles[key]
    if key in BOOKKEEPING or key.startswith(NOT_OBSERVED):
        return "ignore"
    role = role_of(key)
    known = ("action", "reward", "start", "final", "terminal", "not_terminal")
    return role if role in known else "observation"


def _key(role: str, rows: Rows, roles: Mapping[str, str]) -> str:
    """The one key of a role. Raises DataError for none or several."""
    keys = [key for key in rows if _role(key, roles) == role]
    if len(keys) != 1:
        raise DataError(
            f"has {' and '.join(keys) or 'no key'} for the {role}; accepted: one, named {role} or "
            f"by data.roles={{KEY: {role}}}; present: {', '.join(rows)}"
        )
    return keys[0]


def _flags(role: str, rows: Rows, roles: Mapping[str, str]) -> np.ndarray | None:
    """(n,) bool of the keys of a role; None without any."""
    keys = [key for key in rows if _role(key, roles) == role]
    convert = discounts if role == "not_terminal" else truths
    return np.logical_or.reduce([convert(rows[k], k) for k in keys]) if keys else None


# ---------------------------------------------------------------------------------------- episodes


@dataclass
class _Part:
    """Consecutive rows of one episode, the last ones so far: whether its first and its last row are
    there. `begun` is None where it cannot be told.
    """

    name: str
    rows: list[Rows]
    begun: bool | None
    ended: bool = False


@dataclass
class _Replay:
    source: str
    roles: Mapping[str, str]
    actions_led_here: bool
    choice: ObservationChoice
    notes: Counter[str] = field(default_factory=Counter)
    starts_end: bool = False  # whether a chunk has no is_last, so that is_first tells ends

    def episodes(self, streams: Sequence[Sequence[Path]]) -> Iterator[Episode | UnreadableEpisode]:
        for stream in streams:
            for part in self._parts(stream):
                if isinstance(part, UnreadableEpisode):
                    yield part
                    continue
                try:
                    if episode := self._episode(part):
                        yield episode
                except DataError as error:
                    yield UnreadableEpisode(part.name, str(error))
        for note, times in (+self.notes).items():
            logger.warning("%s: %d episodes %s", self.source, times, note)

    def _parts(self, stream: Sequence[Path]) -> Iterator[_Part | UnreadableEpisode]:
        """Joins the rows of each episode, over the borders of chunks."""
        part: _Part | None = None
        self.starts_end = False
        for file in stream:
            try:
                rows = _load(file, self.roles, self.choice)
                first, last = (_flags(role, rows, self.roles) for role in ("start", "final"))
            except DataError as error:
                if part:
                    yield part
                part = None
                yield UnreadableEpisode(file.name, str(error))
                continue
            count = len(next(iter(rows.values())))
            told = first is not None or part is not None
            if CHUNK.fullmatch(file.name):
                ended = part is not None and part.ended
                first, last = self._chunk_ends(rows, first, last, after_end=ended)
            if first is None:  # a file an episode
                first = np.arange(count) == 0
            last = np.arange(count) == count - 1 if last is None else last
            begins = {0, *np.flatnonzero(first), *(np.flatnonzero(last) + 1)} - {count}
            cuts = [*sorted(map(int, begins)), count]
            for begin, end in zip(cuts[:-1], cuts[1:], strict=True):
                if part and (part.ended or first[begin]):
                    part.ended |= self.starts_end
                    yield part
                    part = None
                begun = bool(first[begin]) if told or begin else None
                part = part or _Part(f"{file.name} from row {begin}", [], begun)
                part.rows.append({key: value[begin:end] for key, value in rows.items()})
                part.ended = bool(last[end - 1])
        if part:
            yield part

    def _chunk_ends(
        self, rows: Rows, first: np.ndarray | None, last: np.ndarray | None, *, after_end: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last rows of episodes in a chunk that has one of both. Raises DataError
        without any.
        """
        self.starts_end = last is None
        if first is None and last is None:
            raise DataError(
                "has neither is_first nor is_last, so it cannot be told where episodes begin; "
                f"accepted: either, or data.roles={{KEY: final}}; present: {', '.join(rows)}"
            )
        if first is None and last is not None:
            first = np.concatenate([[after_end], last[:-1]])
        elif last is None and first is not None:
            last = np.append(first[1:], False)
            terminal = _flags("terminal", rows, self.roles)
            last = last if terminal is None else last | terminal
        assert first is not None and last is not None
        return first, last

    def _episode(self, part: _Part) -> Episode | None:
        """Shifts actions and rewards to the rows where actions were taken; None for a single row.

        Raises DataError, without the name of the episode.
        """
        keys = part.rows[0].keys()
        if other := [rows.keys() ^ keys for rows in part.rows if rows.keys() != keys]:
            raise DataError(f"only some chunks have {', '.join(sorted(other[0]))}")
        check_memory(2 * sum(v.nbytes for rows in part.rows for v in rows.values()), part.name)
        rows = {key: np.concatenate([rows[key] for rows in part.rows]) for key in keys}
        self.notes[BEGIN_INSIDE] += part.begun is False
        self.notes[BEGIN_UNKNOWN] += part.begun is None
        self.notes[INTERRUPTED] += not part.ended
        actions = rows[_key("action", rows, self.roles)]
        if len(actions) < 2:
            self.notes[SINGLE_STEP] += 1
            return None
        observed = [key for key in keys if _role(key, self.roles) == "observation"]
        reward = [key for key in keys if _role(key, self.roles) == "reward"]
        return Episode(
            {_name(key): rows[key] for key in observed},
            actions=actions[1:] if self.actions_led_here else actions[:-1],
            rewards=rows[_key("reward", rows, self.roles)][1:] if reward else None,
            terminated=self._terminated(rows),
            name=part.name,
        )

    def _terminated(self, rows: Rows) -> bool:
        """Whether the last row is terminal. Raises DataError if another one is, or none can be."""
        marks = {role: _flags(role, rows, self.roles) for role in ("terminal", "not_terminal")}
        marks = {role: flags for role, flags in marks.items() if flags is not None}
        if not marks:
            raise DataError(
                "has neither is_terminal nor discount, so it cannot be told where the environment "
                "ended; accepted: either, or data.roles={KEY: terminal}; present: "
                f"{', '.join(rows)}"
            )
        for role, flags in marks.items():
            if (early := np.flatnonzero(flags[:-1])).size:
                what = "is_terminal" if role == "terminal" else "a discount of 0"
                raise DataError(
                    f"{what} in row {early[0]} of {len(flags)}, before the last; accepted: in the "
                    "last row of an episode"
                )
        if len({bool(flags[-1]) for flags in marks.values()}) > 1:
            raise DataError(
                "is_terminal and discount disagree on its last row; data.roles={discount: ignore} "
                "or data.roles={is_terminal: ignore} reads the other"
            )
        return any(flags[-1] for flags in marks.values())


def _name(key: str) -> str:
    """The name of an observation, as in other archives."""
    return "observation" if key == "observations" else key.removeprefix("observations/")
