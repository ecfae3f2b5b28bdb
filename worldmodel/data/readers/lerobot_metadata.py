"""The metadata of a LeRobotDataset: its features, and which files hold which episode.

Version 3.0 keeps many episodes in a file and lists them in `meta/episodes`; versions 2.0 and 2.1
keep a file an episode. Templates of paths come with the dataset, and never lead outside it but
through links.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from worldmodel.data.readers.files import reading
from worldmodel.data.readers.sizes import check_parquet
from worldmodel.errors import DataError

INFO = "meta/info.json"
ACCEPTED = "a LeRobotDataset of version 2.0, 2.1 or 3.0"
FIELD = re.compile(r"\{(\w+)(?::0?(\d{1,2})d)?\}")
PATHS = {  # (version, kind) -> template, if the metadata have none
    (2, "data"): "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    (2, "video"): "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    (3, "data"): "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    (3, "video"): "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
MAX_JSON = 2**28  # bytes of a JSON file


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a LeRobotDataset."""
    return (folder / INFO).is_file()


def dataset_root(file: Path) -> Path | None:
    """The folder of the LeRobotDataset that has a file of rows or a video, or None."""
    return next((folder for folder in file.absolute().parents if is_dataset(folder)), None)


@dataclass(frozen=True)
class EpisodeEntry:
    """One episode: its number, its rows, its file of rows, and for each camera the file of its
    video and the second at which it begins there.
    """

    index: int
    length: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]


@dataclass(frozen=True)
class Metadata:
    """The metadata of the dataset in the folder `root`."""

    root: Path
    info: Mapping[str, Any]
    version: int

    @classmethod
    def of(cls, root: Path) -> Metadata:
        """Reads `meta/info.json`. Raises DataError if it is missing, or of another version."""
        with reading(ACCEPTED, root / INFO):
            info = _json(root / INFO)
            version = str(info["codebase_version"])
            if not re.fullmatch(r"v?[23]\.\d+", version):
                raise DataError(
                    f"is of version {version}; accepted: 2.0, 2.1 and 3.0, to which LeRobot's own "
                    "scripts convert"
                )
            if not all(isinstance(f, dict) and "dtype" in f for f in info["features"].values()):
                raise DataError(f"holds features without dtype; accepted: {ACCEPTED}")
            if not 0 < float(info["fps"]) < 1e6:
                raise DataError(f"has fps={info['fps']}; accepted: more than 0")
        return cls(root, info, int(version.lstrip("v")[0]))

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        return self.info["features"]

    @property
    def fps(self) -> float:
        return float(self.info["fps"])

    def of_type(self, *dtypes: str) -> list[str]:
        """The features of these types."""
        return [name for name, feature in self.features.items() if feature["dtype"] in dtypes]

    @cached_property
    def metadata_files(self) -> list[Path]:
        """The files of metadata that determine what is read."""
        patterns = ("info.json", "tasks.*", "episodes.jsonl", "episodes/*/*.parquet")
        return sorted(f for p in patterns for f in (self.root / "meta").glob(p) if f.is_file())

    def episodes(self, cameras: list[str]) -> list[EpisodeEntry]:
        """All episodes in order. Raises DataError for metadata that are incomplete."""
        with reading(ACCEPTED, self.root / "meta"):
            rows = _parquet_rows(self, cameras) if self.version == 3 else _json_rows(self)
            return sorted((self._entry(row, cameras) for row in rows), key=lambda e: e.index)

    def _entry(self, row: Mapping[str, Any], cameras: list[str]) -> EpisodeEntry:
        index, length = int(row["episode_index"]), int(row["length"])
        if self.version == 2:
            chunk = index // int(self.info.get("chunks_size") or 1000)
            values = {"episode_chunk": chunk, "episode_index": index}
            videos = {key: (self._path("video", values, key), 0.0) for key in cameras}
            return EpisodeEntry(index, length, self._path("data", values), videos)

        def place(prefix: str) -> dict[str, Any]:
            return {key: row[f"{prefix}/{key}"] for key in ("chunk_index", "file_index")}

        videos = {}
        for key in cameras:
            file = self._path("video", place(f"videos/{key}"), key)
            videos[key] = (file, float(row[f"videos/{key}/from_timestamp"]))
        return EpisodeEntry(index, length, self._path("data", place("data")), videos)

    def _path(self, kind: str, values: dict[str, Any], camera: str = "") -> Path:
        template = self.info.get(f"{kind}_path") or PATHS[self.version, kind]

        def filled(field: re.Match[str]) -> str:
            value = camera if field[1] == "video_key" else int(values[field[1]])
            return str(value).zfill(int(field[2] or 0))

        path = FIELD.sub(filled, str(template))
        parts = PurePosixPath(path).parts
        if path.startswith("/") or ".." in parts or not parts or "{" in path:
            raise DataError(f"names the file {path}; accepted: files of the dataset")
        return self.root.joinpath(*parts)

    def tasks(self) -> dict[int, str]:
        """Task index -> its text; empty if there are none."""
        parquet, lines = self.root / "meta/tasks.parquet", self.root / "meta/tasks.jsonl"
        with reading(ACCEPTED, parquet if parquet.is_file() else lines):
            if lines.is_file() and not parquet.is_file():
                return {int(row["task_index"]): str(row["task"]) for row in _json_lines(lines)}
            if not parquet.is_file():
                return {}
            rows = _table(parquet)
            texts = [name for name in rows if name != "task_index"]
            return {int(i): str(t) for i, t in zip(rows["task_index"], rows[texts[0]], strict=True)}


def _json(file: Path) -> Any:
    if file.stat().st_size > MAX_JSON:
        raise DataError(f"has {file.stat().st_size:,} bytes; accepted: up to {MAX_JSON:,}")
    return json.loads(file.read_text())


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.stat().st_size > MAX_JSON:
        raise DataError(f"has {file.stat().st_size:,} bytes; accepted: up to {MAX_JSON:,}")
    with file.open() as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def _json_rows(metadata: Metadata) -> Iterator[dict[str, Any]]:
    return _json_lines(metadata.root / "meta/episodes.jsonl")


def _parquet_rows(metadata: Metadata, cameras: list[str]) -> Iterator[dict[str, Any]]:
    videos = ("chunk_index", "file_index", "from_timestamp")
    names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    names += [f"videos/{key}/{field}" for key in cameras for field in videos]
    files = sorted(metadata.root.glob("meta/episodes/*/*.parquet"))
    if not files:
        raise DataError(f"holds no episodes/*/*.parquet; accepted: {ACCEPTED}")
    for file in files:
        columns = _table(file, names)
        if missing := [name for name in names if name not in columns]:
            raise DataError(f"{file.name} has no column {missing[0]}; accepted: {ACCEPTED}")
        for values in zip(*(columns[name] for name in names), strict=True):
            yield dict(zip(names, values, strict=True))


def _table(file: Path, names: list[str] | None = None) -> dict[str, list[Any]]:
    from pyarrow import parquet

    check_parquet(file, names or ())
    with parquet.ParquetFile(file) as opened:
        return opened.read(columns=names).to_pydict()
