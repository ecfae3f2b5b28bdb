"""Small LeRobotDatasets, written as the published layouts say, by pyarrow and PyAV."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

FPS = 10
SIZE = 32  # of a frame
CAMERA, STILL = "observation.images.top", "observation.images.wrist"


def episode(length: int, number: int = 0, **columns: Any) -> dict[str, Any]:
    """An episode whose values tell its number and its steps."""
    step = np.arange(length)
    state = np.stack([np.full(length, number), step], 1).astype(np.float32)
    action = np.stack([step, -step], 1) / 100
    return {"observation.state": state, "action": action.astype(np.float32), **columns}


def gray(number: int, step: int) -> int:
    """The level of the frames of an episode: 20 apart in steps, 5 in episodes."""
    return (20 * step + 5 * number) % 256


def frame(number: int, step: int, size: int = SIZE) -> np.ndarray:
    """A gray frame with a darker left half."""
    image = np.full((size, size, 3), gray(number, step), np.uint8)
    image[:, : size // 2] //= 2
    return image


def png(number: int, step: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame(number, step)).save(out, "PNG")
    return out.getvalue()


def write_video(file: Path, frames: Sequence[np.ndarray], fps: int = FPS, codec: str = "libx264"):
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as out:
        options = {"g": "2", "crf": "10"} if codec == "libx264" else {"g": "2"}
        stream = out.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for image in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        out.mux(stream.encode(None))


def features(columns: Mapping[str, Any], video: bool, still: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in columns.items():
        shape = list(value.shape[1:]) or [1]
        found[name] = {"dtype": str(value.dtype), "shape": shape, "names": None}
    found["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for name in ("frame_index", "episode_index", "index", "task_index"):
        found[name] = {"dtype": "int64", "shape": [1], "names": None}
    shape = {"shape": [SIZE, SIZE, 3], "names": ["height", "width", "channels"]}
    found |= {CAMERA: {"dtype": "video", **shape}} if video else {}
    return found | ({STILL: {"dtype": "image", **shape}} if still else {})


def table(
    columns: Mapping[str, Any], number: int, begin: int, still: bool, task: int = 0
) -> pa.Table:
    length = len(columns["action"])
    step = np.arange(length)
    listed = {n: list(v) if v.ndim > 1 else v for n, v in columns.items()}
    listed |= {
        "timestamp": (step / FPS).astype(np.float32), "frame_index": step, "index": begin + step,
        "episode_index": np.full(length, number), "task_index": np.full(length, task),
    }  # fmt: skip
    if still:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        images = [{"bytes": png(number, t), "path": f"{t}.png"} for t in step]
        listed[STILL] = pa.array(images, kind)
    return pa.table(listed)


def write_set(
    root: Path,
    version: str = "v3.0",
    episodes: Sequence[Mapping[str, Any]] = (),
    *,
    video: bool = False,
    still: bool = False,
    tasks: Sequence[str] = ("push",),
    per_file: int = 2,
    **info: Any,
) -> Path:
    """Writes a dataset; `per_file` episodes share a file in version 3.0. Episode i has task i."""
    lengths = [len(e["action"]) for e in episodes]
    begins = np.cumsum([0, *lengths])
    (root / "meta").mkdir(parents=True)
    tables = [table(e, i, int(begins[i]), still, i % len(tasks)) for i, e in enumerate(episodes)]
    frames = [[frame(i, t) for t in range(n)] for i, n in enumerate(lengths)]
    if version == "v3.0":
        _write_3(root, tables, frames if video else None, tasks, per_file)
    else:
        _write_2(root, tables, frames if video else None, tasks)
    known = {
        "codebase_version": version, "fps": FPS, "total_frames": int(begins[-1]),
        "total_episodes": len(lengths), "chunks_size": 1000,
        "features": features(episodes[0], video, still),
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(known | info))
    return root


def _write_3(root: Path, tables: list[pa.Table], frames: Any, tasks: Any, per_file: int) -> None:
    rows = []
    for first in range(0, len(tables), per_file):
        group = tables[first : first + per_file]
        file = first // per_file
        data = root / f"data/chunk-000/file-{file:03d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.concat_tables(group), data)
        seconds = 0.0
        for index, part in enumerate(group, first):
            row = {"episode_index": index, "length": len(part), "data/chunk_index": 0,
                   "data/file_index": file, "tasks": [tasks[index % len(tasks)]]}  # fmt: skip
            if frames:
                place = {"chunk_index": 0, "file_index": file, "from_timestamp": seconds}
                row |= {f"videos/{CAMERA}/{key}": value for key, value in place.items()}
            seconds += len(part) / FPS
            rows.append(row)
        if frames:
            joined = [image for clip in frames[first : first + per_file] for image in clip]
            write_video(root / f"videos/{CAMERA}/chunk-000/file-{file:03d}.mp4", joined)
    meta = root / "meta/episodes/chunk-000/file-000.parquet"
    meta.parent.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), meta)
    listed = {"task_index": range(len(tasks)), "__index_level_0__": list(tasks)}
    parquet.write_table(pa.table(listed), root / "meta/tasks.parquet")


def _write_2(root: Path, tables: list[pa.Table], frames: Any, tasks: Any) -> None:
    lines = []
    for index, part in enumerate(tables):
        file = root / f"data/chunk-000/episode_{index:06d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(part, file)
        lines.append({"episode_index": index, "tasks": [tasks[0]], "length": len(part)})
        if frames:
            name = f"videos/chunk-000/{CAMERA}/episode_{index:06d}.mp4"
            write_video(root / name, frames[index])
    for name, rows in {
        "episodes": lines,
        "tasks": [{"task_index": i, "task": task} for i, task in enumerate(tasks)],
    }.items():
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
