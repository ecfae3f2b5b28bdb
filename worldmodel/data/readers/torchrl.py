"""Memory-mapped folders of TorchRL (tensordict), read with NumPy alone.

`meta.json` names the shape and type of every `KEY.memmap`, and a nested key is a folder. Row t has
an observation and its action, and `next/` the observation after it, with `reward` and the marks
`terminated`, `truncated` and `done`. A batch of two axes is (sequences, time).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream
from worldmodel.data.observations import ObservationChoice
from worldmodel.data.readers.arrays.reading import are_counts, step_actions
from worldmodel.data.readers.files import existing_path, reading, summary
from worldmodel.data.readers.marks import MARKS, FieldNames, check_roles, read_marks, role_of
from worldmodel.data.readers.sizes import check_memory
from worldmodel.errors import DataError

META = "meta.json"
OF_META = ("shape", "device", "_type")  # entries that are no keys
DTYPES = {
    **{f"torch.float{bits}": f"f{bits // 8}" for bits in (16, 32, 64)},
    **{f"torch.int{bits}": f"i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{"torch.uint8": "u1", "torch.bool": "?"},
}
TRAJECTORY = ("collector/traj_ids", "traj_ids", "episode")  # a number for each trajectory
ROWS_AT_ONCE = 65_536
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
        layout.told.warn(layout.unread, rows)
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
    """observed, following: name -> (N, ...); last, terminal: (N,) bool"""

    observed: dict[str, np.ndarray]
    following: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray | None
    last: np.ndarray
    terminal: np.ndarray
    told: FieldNames
    unread: list[str]


def _layout(fields: Fields, sequences: int, options: TorchRLData) -> _Layout:
    """Finds the fields by their keys. Raises DataError without observations or one action."""
    roles = options.roles
    check_roles(roles, [key.removeprefix("next/") for key in fields])
    after = {k.removeprefix("next/"): v for k, v in fields.items() if k.startswith("next/")}
    marks = {k: v for k, v in after.items() if role_of(k, roles) in MARKS}
    rewards = [v for k, v in after.items() if role_of(k, roles) == "reward"]
    actions = [k for k in fields if role_of(k, roles) == "action" and not k.startswith("next/")]
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
    found = read_marks(marks, roles, ends=_ends(fields, observed, following, sequences))
    unread = [k for k in fields if not k.startswith("next/") and k not in other | {*after}]
    return _Layout(
        observed,
        following,
        fields[actions[0]],
        rewards[0] if rewards else None,
        found.last,
        found.terminal,
        FieldNames(str(options.path)),
        unread,
    )


def _ends(fields: Fields, observed: Fields, following: Fields, sequences: int) -> np.ndarray:
    """(N,) bool, rows that end a trajectory whatever the marks say: the last one of a sequence, one
    before another number of trajectory, and one whose next observation is not that of the next row.
    """
    count = len(next(iter(observed.values())))
    ends = np.arange(1, count + 1) % (count // sequences) == 0
    for key in (key for key in TRAJECTORY if key in fields):
        numbers = np.asarray(fields[key]).reshape(count, -1)
        ends[:-1] |= (numbers[1:] != numbers[:-1]).any(1)
    for key, value in observed.items():
        for begin in range(0, count - 1, ROWS_AT_ONCE):
            end = min(begin + ROWS_AT_ONCE, count - 1)
            after = np.asarray(following[key][begin:end]).reshape(end - begin, -1)
            row = np.asarray(value[begin + 1 : end + 1]).reshape(end - begin, -1)
            same = (after == row) | ((after != after) & (row != row))
            ends[begin:end] |= ~same.all(1)
    return ends


def _episodes(layout: _Layout) -> Iterator[Episode]:
    last = np.flatnonzero(layout.last)
    row_bytes = sum(value[:1].nbytes for value in layout.observed.values())
    numbers = are_counts(layout.actions, layout.told.source)
    for index, (begin, end) in enumerate(zip([0, *(last[:-1] + 1)], last, strict=True)):
        name, rows, final = f"episode {index}", slice(begin, end + 1), slice(end, end + 1)
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
        )
