"""Pickles of Decision Transformer: a list of episodes, each a dict of arrays whose rows are its
steps, or one dict of arrays end to end as D4RL returns it. No object of a pickle is made but arrays
(see `safe_pickle.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.config import option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.readers import arrays, steps
from worldmodel.data.readers.arrays.fields import field_roles, require
from worldmodel.data.readers.files import existing_files, read_files, summary
from worldmodel.data.readers.marks import FieldNames, check_roles
from worldmodel.data.readers.safe_pickle import load_pickle
from worldmodel.data.readers.sizes import check_size
from worldmodel.errors import DataError


@dataclass
class PickleData(arrays.ArrayOptions):
    """Pickles (.pkl) of dicts of arrays, one an episode, as of Decision Transformer."""

    name: str = option("pickle", "data source")


ACCEPTED = summary(PickleData)


@register("data", "pickle", PickleData, endings=(".pkl", ".pickle"))
def read(options: PickleData) -> EpisodeStream:
    """Reads the episodes of all files. Raises DataError if there is no file."""
    files = existing_files(options)
    one_file = partial(_episodes, options, FieldNames(str(options.path)))
    return EpisodeStream(str(options.path), read_files(files, one_file, ACCEPTED), files=files)


def _episodes(
    options: PickleData, told: FieldNames, path: Path, prefix: str
) -> Iterator[Episode | UnreadableEpisode]:
    content, on_disk = load_pickle(path), path.stat().st_size
    if isinstance(content, dict) and not all(isinstance(v, dict) for v in content.values()):
        fields = _arrays(content)
        roles = field_roles(fields, options.roles)
        check_roles(options.roles, fields)
        require(roles, fields, ACCEPTED)
        read_fields = {name: fields[name] for name in roles}
        shapes = {name: value.shape for name, value in fields.items()}
        yield from arrays.episodes(
            read_fields, roles, shapes, str(path), prefix, options, told, fields.__getitem__
        )
        return
    named = content.items() if isinstance(content, dict) else enumerate(_list(content))
    episodes = {
        f"{prefix}{name if isinstance(name, str) else f'episode {name}'}": _arrays(fields)
        for name, fields in named
    }
    total = sum(value.nbytes for fields in episodes.values() for value in fields.values())
    check_size(total, on_disk, "the arrays of all episodes")
    opened = {name: partial(dict, fields) for name, fields in episodes.items()}
    yield from steps.episodes(opened, str(path), options, ACCEPTED)


def _list(content: Any) -> list[Mapping[str, Any]]:
    if not isinstance(content, list) or not content:
        raise DataError(f"holds {_described(content)}; accepted: {ACCEPTED}")
    if other := [value for value in content if not isinstance(value, dict)]:
        raise DataError(f"holds a list of {_described(other[0])}; accepted: {ACCEPTED}")
    return content


def _described(content: Any) -> str:
    if isinstance(content, np.ndarray):
        return f"an array of shape {content.shape}"
    return "an empty list" if content == [] else f"a {type(content).__name__}"


def _arrays(fields: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """The numeric fields as arrays, those of nested dicts as NAME/KEY. Others are left out."""
    found: dict[str, np.ndarray] = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            found |= _arrays(value, f"{prefix}{key}/")
            continue
        try:
            array = np.asarray(value)
        except ValueError:  # steps of different shapes
            continue
        if array.dtype.kind in "fiub":
            found[f"{prefix}{key}"] = array
    return found
