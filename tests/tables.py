"""CSV and Parquet tables for the tests of their reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from worldmodel.data import Trajectories, load
from worldmodel.data.episodes import Episode, UnreadableEpisode
from worldmodel.data.readers.table import TableData, read
from worldmodel.errors import DataError

COLUMNS: dict[str, Any] = {"observations": ["x", "y"], "actions": ["u"]}
WRITERS = {
    "csv": csv.write_csv,
    "parquet": parquet.write_table,
    "tsv": lambda table, path: csv.write_csv(table, path, csv.WriteOptions(delimiter="\t")),
}


def options(path: Path | str, **changes: Any) -> TableData:
    return TableData(path=str(path), cache="never", **{**COLUMNS, **changes})


def written(path: Path, columns: dict[str, Any]) -> Path:
    """Writes the columns to a file, in the format of its ending."""
    WRITERS[path.suffix[1:]](pa.table(columns), path)
    return path


def text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(count: int, **changes: Any) -> dict[str, Any]:
    """`count` different rows: x is the index of the row, y half of it, u ten times it."""
    row = np.arange(count)
    return {"x": row * 1.0, "y": row / 2, "u": row * 10.0, **changes}


def episodes(path: Path | str, **changes: Any) -> list[Episode]:
    found = list(read(options(path, **changes)).episodes)
    assert not [episode for episode in found if isinstance(episode, UnreadableEpisode)]
    return found


def error(path: Path | str, **changes: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(options(path, **changes))
    return str(caught.value)


def assert_same(one: Trajectories, other: Trajectories) -> None:
    assert one.fields().keys() == other.fields().keys()
    for field, value in one.fields().items():
        np.testing.assert_array_equal(value, other.fields()[field])
    np.testing.assert_array_equal(one.lengths, other.lengths)
    np.testing.assert_array_equal(one.terminated, other.terminated)
    assert one.action_spec == other.action_spec
