"""Hostile LeRobotDatasets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hostile_sources import Write, add
from lerobot_sets import CAMERA, episode, frame, write_set, write_video
from pyarrow import parquet

from worldmodel.data.readers.lerobot import LeRobotData

ROWS = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = f"videos/{CAMERA}/chunk-000/file-000.mp4"


def _set(change: Callable[[Path], Any], video: bool = False) -> Write:
    def write(folder: Path) -> LeRobotData:
        root = write_set(folder / "set", "v3.0", [episode(4), episode(3, 1)], video=video)
        change(root)
        return LeRobotData(path=str(root), cache="never")

    return write


def _info(**changes: Any) -> Write:
    def change(root: Path) -> None:
        file = root / "meta/info.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return _set(change)


def _column(file: str, name: str, values: Any, video: bool = False) -> Write:
    def change(root: Path) -> None:
        table = parquet.read_table(root / file)
        index = table.schema.get_field_index(name)
        parquet.write_table(table.set_column(index, name, pa.array(values)), root / file)

    return _set(change, video)


def _deep(root: Path) -> None:
    (root / "meta/info.json").write_text("[" * 100_000)


def _large_frames(root: Path) -> None:
    write_video(root / VIDEO, [np.zeros((64, 4096, 3), np.uint8)] + [frame(0, 0, 64)] * 8)


def _missing_lists(root: Path) -> None:
    table = parquet.read_table(root / ROWS)
    action = pa.array([[1.0, 2.0]] * 6 + [None], pa.list_(pa.float32()))
    index = table.schema.get_field_index("action")
    parquet.write_table(table.set_column(index, "action", action), root / ROWS)


add(
    "lerobot",
    {
        "metadata 100,000 lists deep": (_set(_deep), "info.json"),
        "features of lists": (_info(features=[1, 2]), "info.json"),
        "a version of code": (_info(codebase_version="v3.0; import os"), "is of version"),
        "an infinite rate": (_info(fps=float("inf")), "fps=inf"),
        "rows of another folder": (_info(data_path="../../{file_index}.parquet"), "names the file"),
        "rows of the system": (_info(data_path="/dev/zero"), "names the file"),
        "a path with code": (_info(data_path="{chunk_index!r:{file_index}}"), "names the file"),
        "a path of a million digits": (
            _info(data_path="data/{file_index:0999999d}.parquet"), "names the file"
        ),
        "10^15 rows": (_column(EPISODES, "length", [10**15, 3]), "has 4 rows"),
        "negative rows": (_column(EPISODES, "length", [-4, 3]), "has 4 rows"),
        "the same episode twice": (_column(EPISODES, "episode_index", [0, 0]), "has 4 rows"),
        "times of the far future": (
            _column(ROWS, "timestamp", np.full(7, 1e30, np.float32), video=True), "file-000.mp4"
        ),
        "times that are not finite": (
            _column(ROWS, "timestamp", np.full(7, np.nan, np.float32), video=True), "file-000.mp4"
        ),
        "missing actions": (_set(_missing_lists), "column 'action'"),
        "frames of 64 x 4096": (_set(_large_frames, video=True), ""),
        "a pipe as rows": (
            _set(lambda r: ((r / ROWS).unlink(), (r / ROWS).mkdir())), "file-000.parquet"
        ),
    },
)  # fmt: skip
