"""How fast a LeRobotDataset with videos is read: a first load, which decodes it, and a second one.

    python benchmarks/video_decoding.py [--folder FOLDER] [--episodes 100] [--steps 125]

Writes a dataset of version 3.0 with two cameras of 96 x 96 (AV1 with two frames a group, as LeRobot
writes them), and loads it in processes of their own, without the imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

FPS, SIZE, PER_FILE = 10, 96, 25
CAMERAS = ("observation.images.top", "observation.images.wrist")


def write_set(root: Path, episodes: int, steps: int) -> None:
    """Writes random walks, seen by cameras as a square on a gradient."""
    import pyarrow as pa
    from pyarrow import parquet

    rng, rows = np.random.default_rng(0), []
    path = 48 + np.cumsum(rng.normal(size=(episodes, steps, 2)), 1).clip(-40, 40)
    for file, first in enumerate(range(0, episodes, PER_FILE)):
        part = np.arange(first, min(first + PER_FILE, episodes))
        number, step = (x.ravel() for x in np.meshgrid(part, np.arange(steps), indexing="ij"))
        table = pa.table(
            {
                "observation.state": list(path[number, step].astype(np.float32)),
                "action": list(rng.uniform(-1, 1, (len(step), 2)).astype(np.float32)),
                "timestamp": (step / FPS).astype(np.float32),
                "episode_index": number,
                "task_index": np.zeros(len(step), np.int64),
            }
        )
        data = root / f"data/chunk-000/file-{file:03d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, data)
        for camera in CAMERAS:
            write_video(root / f"videos/{camera}/chunk-000/file-{file:03d}.mp4", path[part])
        for position, index in enumerate(part.tolist()):
            row = {"episode_index": index, "length": steps}
            row |= {"data/chunk_index": 0, "data/file_index": file}
            for camera in CAMERAS:
                place = {"chunk_index": 0, "file_index": file}
                place["from_timestamp"] = position * steps / FPS
                row |= {f"videos/{camera}/{key}": value for key, value in place.items()}
            rows.append(row)
    meta = root / "meta/episodes/chunk-000/file-000.parquet"
    meta.parent.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), meta)
    features: dict = {name: {"dtype": "video", "shape": [SIZE, SIZE, 3]} for name in CAMERAS}
    for name in ("observation.state", "action"):
        features[name] = {"dtype": "float32", "shape": [2]}
    info = {"codebase_version": "v3.0", "fps": FPS, "features": features}
    (root / "meta/info.json").write_text(json.dumps(info))


def write_video(file: Path, path: np.ndarray) -> None:
    import av

    file.parent.mkdir(parents=True, exist_ok=True)
    background = np.linspace(60, 200, SIZE).astype(np.uint8)[None, :, None]
    with av.open(str(file), "w") as out:
        options = {"g": "2", "crf": "30", "preset": "12"}
        stream = out.add_stream("libsvtav1", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for x, y in path.reshape(-1, 2).astype(int).tolist():
            image = np.broadcast_to(background, (SIZE, SIZE, 3)).copy()
            image[max(y - 6, 0) : y + 6, max(x - 6, 0) : x + 6] = (220, 40, 40)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        out.mux(stream.encode(None))


def load_once(root: Path, cache: Path) -> dict[str, float]:
    """Seconds of one load, and the frames that it returns."""
    import av  # noqa: F401  imports are not measured
    import pyarrow.parquet  # noqa: F401  imports are not measured

    from worldmodel.data import load
    from worldmodel.data.readers.lerobot import LeRobotData

    options = LeRobotData(path=str(root), cache="always", cache_dir=str(cache))
    begin, cpu = time.perf_counter(), time.process_time()
    dataset = load(options)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    images = [value for value in dataset.observations.values() if value.ndim == 4]
    frames = len(images) * (dataset.num_steps - dataset.num_episodes)
    return {"seconds": seconds, "cpu": cpu, "frames": frames}


def measure(root: Path, cache: Path) -> dict[str, float]:
    words = [sys.executable, __file__, "--load", str(root), "--folder", str(cache)]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=125)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        print(json.dumps(load_once(given.load, given.folder)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        root = Path(name) / "set"
        write_set(root, given.episodes, given.steps)
        first, second = [], []
        for number in range(given.rounds):
            cache = Path(name) / f"cache-{number}"
            first.append(measure(root, cache))
            second.append(measure(root, cache))
    rate = median(r["frames"] / r["seconds"] for r in first)
    print(f"frames                  {first[0]['frames']:,.0f} of {SIZE} x {SIZE}")
    cpu = median(r["cpu"] for r in first)
    print(f"first load              {rate:,.0f} frames/s ({cpu:.1f} CPU s)")
    print(f"second load             {median(r['seconds'] for r in second):.2f} s")


if __name__ == "__main__":
    main()
