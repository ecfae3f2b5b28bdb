"""Memory-mapped folders of TorchRL (tensordict), read with NumPy alone.

`meta.json` names the shape and type of every `KEY.memmap`, and a nested key is a folder. Row t has
an observation and its action, and `next/` the observation after it, with `reward` and the marks
`terminated`, `truncated` and `done`. A batch of two axes is (sequences, time).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream
from worldmodel.data.observations import ObservationChoice
from worldmodel.data.readers.arrays.next_observations import agreement, placeholder_ends
from worldmodel.data.readers.arrays.reading import are_counts, step_actions
from worldmodel.data.readers.files import existing_path, reading, summary
from worldmodel.data.readers.marks import MARKS, check_roles, marked_rows, read_marks, role_of
from worldmodel.data.readers.sizes import check_memory
from worldmodel.errors import DataError

logger = logging.getLogger(__name__)

META = "meta.json"
OF_META = ("shape", "device", "_type")  # entries that are no keys
DTYPES = {
    **{f"torch.float{bits}": f"f{bits // 8}" for bits in (16, 32, 64)},
    **{f"torch.int{bits}": f"i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{"torch.uint8": "u1", "torch.bool": "?"},
}
TRAJECTORY = ("collector/traj_ids", "traj_ids", "episode")  # a number for each trajectory
NEXT = "next/"
MAX_DEPTH = 8  # of nested keys

Fields = Mapping[str, np.ndarray]  # key -> (N, ...), memory-mapped


@dataclass
class TorchRLData(DataOptions):
    """A memory-mapped folder of TorchRL, with meta.json and next/."""

    name: str = option("torchrl", "data source")


ACCEPTED = summary(TorchRLData)


def holds_memmap(folder: Path) -> bool:
    """Whether a folder, or its `storage`, is a tensordict of transitions."""
    return any((place / "next" / META).is_file() for place in (folder, folder / "storage"))


@register("data", "torchrl", TorchRLData, recognizes=holds_memmap)
def read(options: TorchRLData) -> EpisodeStream:
    """Reads the trajectories of a folder. Raises DataError for any other folder."""
    folder = existing_path(options)
    if not holds_memmap(folder):
        raise DataError(f"data.path={options.path}: holds no next/{META}; accepted: {ACCEPTED}")
    place = folder if (folder / "next" / META).is_file() else folder / "storage"
    with reading(ACCEPTED, place):
        fields, sequences = _fields(place)
        rows = _used_rows(place, fields, sequences)
        layout = _layout({key: value[:rows] for key, value in fields.items()}, sequences, options)
    files = tuple(sorted(file for file in folder.rglob("*") if file.is_file()))
    return EpisodeStream(str(options.path), _episodes(layout), files=files)


# ------------------------------------------------------------------------------------------ files


def _fields(place: Path) -> tuple[dict[str, np.ndarray], int]:
    """Every key as (N, ...), and the number of sequences of equal length among the N rows."""
    batch = json.loads((place / META).read_text())["shape"]
    known = isinstance(batch, list) and all(type(n) is int and n > 0 for n in batch)
    if not known or len(batch) not in (1, 2):
        raise DataError(f"{META} has shape {batch}; accepted: (rows,) or (sequences, time)")
    found = dict(_arrays(place, "", 0))
    for key, value in found.items():
        if list(value.shape[: len(batch)]) != batch:
            raise DataError(f"{key} has shape {value.shape}; accepted: {batch} and its own axes")
    rows = math.prod(batch)
    flat = {key: value.reshape(rows, *value.shape[len(batch) :]) for key, value in found.items()}
    return flat, batch[0] if len(batch) == 2 else 1


def _arrays(place: Path, prefix: str, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (key, array) below a folder, memory-mapped."""
    meta = json.loads((place / META).read_text())
    for key, entry in meta.items():
        file = place / f"{key}.memmap"
        if key in OF_META or not isinstance(entry, dict) or "/" in key or not file.is_file():
            continue
        name, shape = f"{prefix}{key}", tuple(entry["shape"])
        if entry["dtype"] not in DTYPES:
            accepted = ", ".join(DTYPES)
            raise DataError(f"{name} is {entry['dtype']}; accepted: {accepted}")
        dtype = np.dtype(DTYPES[entry["dtype"]])
        claimed, held = math.prod(shape) * dtype.itemsize, file.stat().st_size
        if min(shape, default=0) < 1 or claimed != held:
            raise DataError(f"{name} has {held:,} bytes; accepted: {claimed:,} for {shape}")
        yield name, np.memmap(file, dtype, "r", shape=shape)
    for folder in sorted(place.iterdir()):
        if (folder / META).is_file() and depth < MAX_DEPTH:
            yield from _arrays(folder, f"{prefix}{folder.name}/", depth + 1)


def _used_rows(place: Path, fields: Fields, sequences: int) -> int:
    """The rows of a replay buffer that were written, and otherwise all."""
    rows, file = len(next(iter(fields.values()), ())), place / "storage_metadata.json"
    written = json.loads(file.read_text()).get("len") if file.is_file() else None
    if type(written) is int and 0 < written < rows // sequences:
        if sequences > 1:
            raise DataError(f"{written} of {rows} rows are written; accepted: all of a batch")
        return written
    return rows


# --------------------------------------------------------------------------------------- episodes


@dataclass
class _Layout:
    """observed, following: name -> (N, ...); last, terminal, known: (N,) bool, of which `known` is
    where the observation after a last row was logged
    """

    observed: dict[str, np.ndarray]
    following: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray | None
    last: np.ndarray
    terminal: np.ndarray
    known: np.ndarray
    source: str


def _layout(fields: Fields, sequences: int, options: TorchRLData) -> _Layout:
    """Finds the fields by their keys. Raises DataError without observations or one action."""
    roles, source = options.roles, str(options.path)
    check_roles(roles, [*fields, *(key.removeprefix(NEXT) for key in fields)])
    after = {k.removeprefix(NEXT): v for k, v in fields.items() if k.startswith(NEXT)}
    marks = {k: v for k, v in after.items() if role_of(k, roles) in MARKS}
    _check_done(marks, roles)
    for key in (k for k, role in roles.items() if role == "observation" and k not in after):
        raise DataError(
            f"data.roles={{{key}: observation}}: has no next/{key}, the observation after the last "
            f"action; accepted: keys both here and in next/, or data.roles={{{key}: ignore}}"
        )
    actions = [k for k in fields if role_of(k, roles) == "action" and not k.startswith(NEXT)]
    other = {*marks, *TRAJECTORY, *actions, "step_count", "index"}
    other |= {k for k in fields if role_of(k, roles) in ("reward", "ignore", *MARKS)}
    observed = {k: fields[k] for k in after if k in fields and k not in other}
    if len(actions) != 1 or not observed:
        present = ", ".join(fields) or "none"
        raise DataError(
            f"holds {', '.join(actions) or 'no action'}, and observations "
            f"{', '.join(observed) or 'none'}; accepted: one `action`, and keys both here and in "
            f"next/; present: {present}"
        )
    observed = {key: observed[key] for key in ObservationChoice.of(options).among(observed)}
    following = {key: after[key] for key in observed}
    ends, known = _ends(fields, observed, following, sequences, marks, options)
    found = read_marks(marks, roles, ends=ends)
    unread = [k for k in fields if not k.startswith(NEXT) and k not in other | {*after}]
    if unread:
        logger.warning(
            "%s: %s: as long as the actions (%d rows), but not in next/, so not read. "
            "data.roles={%s: ignore} ends this warning, or reward names it",
            source, ", ".join(unread), len(ends), unread[0],
        )  # fmt: skip
    rewards = _rewards(fields, roles)
    return _Layout(
        observed, following, fields[actions[0]], rewards, found.last, found.terminal, known, source
    )


def _check_done(marks: Fields, roles: Mapping[str, str]) -> None:
    """Raises DataError for ends that `done`, which is any of them in TorchRL, does not have."""
    named = {k: v for k, v in marks.items() if role_of(k, roles) in ("terminal", "truncated")}
    if "done" not in marks or "done" in roles or not named:
        return
    done = marked_rows({"done": marks["done"]})
    for name, mark in named.items():
        if len(other := np.flatnonzero(marked_rows({name: mark}, roles) & ~done)):
            raise DataError(
                f"next/{name} marks {len(other)} rows (first: {other[0]}) that next/done does not; "
                f"accepted: done in all of them (data.roles={{{name}: ignore}} or "
                "data.roles={done: ignore} reads the other)"
            )


def _rewards(fields: Fields, roles: Mapping[str, str]) -> np.ndarray | None:
    """Those of next/, or of the root if `data.roles` names them. Raises DataError otherwise."""
    keys = [k for k in fields if role_of(k.removeprefix(NEXT), roles) == "reward"]
    chosen = [k for k in keys if k.startswith(NEXT)] or [k for k in keys if k in roles]
    if keys and not chosen:
        raise DataError(
            f"{keys[0]} is beside the observations and not in next/, where TorchRL has the reward "
            f"of an action: data.roles={{{keys[0]}: reward}} reads it as that of the action in its "
            f"own row, data.roles={{{keys[0]}: ignore}} leaves it out"
        )
    return fields[chosen[0]] if chosen else None


def _ends(
    fields: Fields,
    observed: Fields,
    following: Fields,
    sequences: int,
    marks: Fields,
    options: TorchRLData,
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool twice: rows that end a trajectory whatever the marks say, and those after which the
    observation was logged. The first are the last one of a sequence, one before another number of
    trajectory, and one whose next observation is not that of the next row.

    Raises DataError for marks that next observations contradict, unless `data.roles` ignores them.
    """
    roles, count = options.roles, len(next(iter(observed.values())))
    sequence = np.arange(1, count + 1) % (count // sequences) == 0
    numbered = np.zeros(count, bool)
    trajectory = [key for key in TRAJECTORY if key in fields and roles.get(key) != "ignore"]
    for key in trajectory:
        numbers = np.asarray(fields[key]).reshape(count, -1)
        numbered[:-1] |= (numbers[1:] != numbers[:-1]).any(1)
    if any(roles.get(f"{NEXT}{key}") == "ignore" for key in following):
        return sequence | numbered, np.zeros(count, bool)
    told = marked_rows(marks, roles) if marks else np.zeros(count, bool)
    terminal = {k: v for k, v in marks.items() if role_of(k, roles) in ("terminal", "not_terminal")}
    names = ", ".join([*marks, *trajectory])
    agreed = agreement(
        observed,
        following,
        told | numbered | _cut(observed, following, sequence),
        marked_rows(terminal, roles) if terminal else np.zeros(count, bool),
        f"{NEXT}{next(iter(following))}",
        names,
    )
    unknown = agreed.unknown.copy()
    if unknown.any():
        logger.warning(
            "%s: next/ has the observation of the next row at %d ends that %s mark, where the next "
            "trajectory begins: the observations after these are taken as not logged",
            options.path, unknown[:-1].sum(), names,
        )  # fmt: skip
    ends = sequence | numbered | agreed.ends
    held, what = placeholder_ends(observed, following, ends | told)
    if held.any():
        logger.warning(
            "%s: the observation in next/ %s at all %d ends of episodes, and hardly anywhere else: "
            "the observations after these are taken as not logged", options.path, what, held.sum()
        )  # fmt: skip
    return ends, ~(unknown | held)


def _cut(observed: Fields, following: Fields, sequence: np.ndarray) -> np.ndarray:
    """(N,) bool: last rows of sequences whose next observation is not that of the next row."""
    cut, rows = np.zeros_like(sequence), np.flatnonzero(sequence[:-1])
    for key, value in observed.items():
        for row in rows:
            cut[row] |= not np.array_equal(following[key][row], value[row + 1])
    return cut


def _episodes(layout: _Layout) -> Iterator[Episode]:
    last = np.flatnonzero(layout.last)
    row_bytes = sum(value[:1].nbytes for value in layout.observed.values())
    numbers = are_counts(layout.actions, layout.source)
    for index, (begin, end) in enumerate(zip([0, *(last[:-1] + 1)], last, strict=True)):
        name, rows, known = f"episode {index}", slice(begin, end + 1), bool(layout.known[end])
        final = slice(end, end + known)
        check_memory(row_bytes * int(end - begin + 2), name)
        yield Episode(
            {
                key: np.concatenate([value[rows], layout.following[key][final]])
                for key, value in layout.observed.items()
            },
            actions=step_actions(np.asarray(layout.actions[rows]), numbers),
            rewards=None if layout.rewards is None else np.asarray(layout.rewards[rows]),
            terminated=bool(layout.terminal[end]),
            name=name,
            final_logged=known,
        )
