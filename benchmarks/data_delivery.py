"""How fast datasets are read and batches loaded, compared with the learner of the 1m preset.

    python benchmarks/data_delivery.py [--folder FOLDER] [--rounds 5] [--only load vectors ...]

load      1,000,000 transitions (17 floats, 6 actions): seconds and memory of the first load from
          ArrayRecord and of a second one from the decoded cache, each in a process of its own
vectors   host batches of 256 x 32 per second, compared with those that the learner consumes
images    host batches of 16 x 64 images of 64 x 64 x 3: bytes read from disk by bytes used
device    seconds of an update that gathers its batch, compared with one that is given it
waiting   fraction of training time spent waiting for host batches
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

PARTS = ("load", "vectors", "images", "device", "waiting")
MIB = 2**20


# ------------------------------------------------------------------------------------------- logs


def write_logs(folder: Path, episodes: int, steps: int, image: bool = False) -> Path:
    """Writes a random dataset: 17 floats or one image, 6 actions, reward."""
    from worldmodel.data import ActionSpec, Trajectories
    from worldmodel.data.rlds_writer import write_rlds

    target = folder / ("images" if image else "vectors")
    if target.exists():
        return target
    rng, rows = np.random.default_rng(0), episodes * (steps + 1)
    last = np.arange(1, episodes + 1) * (steps + 1) - 1
    actions = rng.uniform(-1, 1, (rows, 6)).astype(np.float32)
    rewards = rng.normal(size=rows).astype(np.float32)
    actions[last], rewards[last] = 0, 0
    if image:
        observations = {"image": rng.integers(0, 256, (rows, 64, 64, 3), np.uint8)}
    else:
        observations = {"observation": rng.normal(size=(rows, 17)).astype(np.float32)}
    logs = Trajectories(
        observations,
        actions,
        rewards,
        np.full(episodes, steps + 1),
        np.zeros(episodes, bool),
        ActionSpec(False, 6, (-1.0,) * 6, (1.0,) * 6),
        "random logs",
    )
    write_rlds(logs, target, target.name)
    return target


def read(path: Path, folder: Path) -> Any:
    from worldmodel.data import load
    from worldmodel.data.readers.tfds import TFDSData

    return load(TFDSData(path=str(path), cache="always", cache_dir=str(folder)))


# ------------------------------------------------------------------------ measured in own processes


def measure_load(folder: Path, rounds: int) -> dict[str, float]:
    """Seconds of one load, and its peak memory beyond the imports per byte of the arrays."""
    import tensorflow_datasets  # noqa: F401  imports are not measured

    import worldmodel.data.readers.tfds  # noqa: F401  imports are not measured

    before = status("VmRSS")
    began = time.perf_counter()
    logs = read(folder / "vectors", folder)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "memory_ratio": (status("VmHWM") - before) / logs.num_bytes,
        "transitions": logs.num_transitions,
    }


def measure_vectors(folder: Path, rounds: int) -> dict[str, float]:
    """Batches per second that Grain loads, and that the learner of the 1m preset consumes."""
    import jax

    from worldmodel.data.host_loader import HostLoader
    from worldmodel.data.loader import DeviceLoader

    logs = read(folder / "vectors", folder)
    streamed = HostLoader.build(logs, 256, 32, seed=0)
    updates = min(8, streamed.max_updates_per_call)
    streamed.feed(0, updates)
    delivered = []
    for call in range(1, rounds + 1):
        began = time.perf_counter()
        for k in range(4):
            streamed.feed((4 * call + k - 3) * updates, updates)
        delivered.append(4 * updates / (time.perf_counter() - began))
    streamed.close()
    few = logs.select(np.arange(20))
    learner, state = world_model_learner(few.spec())
    batches = DeviceLoader.build(few, 256, 32, 0)
    batch = jax.jit(batches.batch)(jax.device_put(batches.arrays()), batches.feed(0, 1), 0)
    update = jax.jit(learner.update, donate_argnums=0)
    taken = []
    for k in range(4):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(update(state, batch, jax.random.key(k)))
        taken.append(1 / (time.perf_counter() - began))
    return {"delivered_per_second": median(delivered), "taken_per_second": median(taken[1:])}


def measure_images(folder: Path, rounds: int) -> dict[str, float]:
    """Bytes that the kernel reads from disk for windows of an uncached file."""
    from worldmodel.data.host_loader import Shard, WindowSource

    logs = read(folder / "images", folder)
    sent = pickle.dumps(WindowSource(logs, 16, 64, 0, Shard()))
    files = [Path(value.filename) for value in logs.fields().values()]
    used, was_read, seconds = 0, 0, []
    for k in range(rounds):
        source = pickle.loads(sent)  # opens the files again: mapped pages stay in the cache
        for file in files:
            drop_cache(file)
        before, began = disk_bytes(), time.perf_counter()
        window = source.batches(100 + k, 1)
        seconds.append(time.perf_counter() - began)
        was_read += disk_bytes() - before
        used += sum(x.nbytes for x in window.observation.values())
        del source
    return {
        "bytes_read_by_used": was_read / used,
        "cold_batches_per_second": 1 / median(seconds),
        "set_mib": logs.num_bytes / MIB,
    }


def measure_resident(folder: Path, rounds: int) -> dict[str, float]:
    """Seconds of an update of the 1m learner that gathers its batch or is given it, in turn."""
    import jax

    from worldmodel.data.loader import DeviceLoader

    logs = read(folder / "vectors", folder)
    learner, state = world_model_learner(logs.spec())
    batches = DeviceLoader.build(logs, 16, 64, 0)
    arrays = jax.device_put(batches.arrays())
    at = batches.feed(0, 1)
    given = jax.jit(batches.batch)(arrays, at, 0)
    key = jax.random.key(0)
    gathered = jax.jit(
        lambda state, arrays, at: learner.update(state, batches.batch(arrays, at, 0), key)
    )
    at_hand = jax.jit(lambda state, batch: learner.update(state, batch, key))
    seconds: dict[str, list[float]] = {"gathered": [], "at_hand": []}
    for _ in range(4 * rounds):
        for name, call in (
            ("gathered", lambda: gathered(state, arrays, at)),
            ("at_hand", lambda: at_hand(state, given)),
        ):
            began = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - began)
    with_it, without = (median(seconds[name][1:]) for name in ("gathered", "at_hand"))
    return {"gathered": with_it, "at_hand": without, "cost": with_it / without - 1}


def measure_waiting(folder: Path, rounds: int) -> dict[str, float]:
    """Trains the tiny model on host batches and reads its own measure of waiting."""
    runs = folder / "runs"
    command = [sys.executable, str(Path(__file__).parent.parent / "train.py")]
    command += ["data=tfds", f"data.path={folder / 'vectors'}", f"data.cache_dir={folder}"]
    command += ["data.loader=host", "policy=none", "logging.wandb=disabled", "name=waiting"]
    command += [f"runs_dir={runs}", "fresh=true", "training.world_model.steps=400"]
    command += ["evaluation.starts_per_episode=1", "data.holdout=0.02"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in (runs / "waiting" / "metrics.jsonl").open()]
    return {
        "waiting": median(row["data_wait_fraction"] for row in rows),
        "updates_per_second": median(row["updates_per_second"] for row in rows),
    }


def world_model_learner(spec: Any) -> tuple[Any, Any]:
    """The first stage's learner with the 1m preset, and its initial state."""
    from functools import partial

    import jax

    from worldmodel import models
    from worldmodel.config import StageOptions
    from worldmodel.models.rssm import RSSMOptions
    from worldmodel.nn import optimizer
    from worldmodel.training.world_model import WorldModelLearner

    build = partial(models.build, RSSMOptions(preset="1m"), spec)
    learner = WorldModelLearner(build, optimizer.build(StageOptions(steps=1)))
    return learner, learner.init(jax.random.key(0))


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def disk_bytes() -> int:
    """Bytes this process caused to be read from storage."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def drop_cache(file: Path) -> None:
    """Drops a file's pages from the system's cache."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


# --------------------------------------------------------------------------------------------- all


def measured(part: str, folder: Path, rounds: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", part, "--folder", str(folder)]
    done = subprocess.run([*command, "--rounds", str(rounds)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{part} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run(part: str, folder: Path, rounds: int) -> dict[str, float]:
    """Prepares a part, measures it and prints a line."""
    write_logs(folder, 1000, 1000)
    if part == "load":
        first, later = [], []
        for _ in range(rounds):
            subprocess.run(["rm", "-rf", str(folder / "decoded")], check=True)
            first.append(measured("load", folder, 1))
            later.append(measured("load", folder, 1))
        result = {
            "first_seconds": median(r["seconds"] for r in first),
            "first_memory_ratio": median(r["memory_ratio"] for r in first),
            "second_seconds": median(r["seconds"] for r in later),
            "second_memory_ratio": median(r["memory_ratio"] for r in later),
        }
    else:
        if part == "images":
            write_logs(folder, 20, 1000, image=True)
        result = measured(part, folder, rounds)
    if part == "vectors":
        result["ratio"] = result["delivered_per_second"] / result["taken_per_second"]
    print(f"{part:9s}" + "  ".join(f"{k} {v:.4g}" for k, v in result.items()), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="folder of the files (none: a temporary one)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--measure", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure = globals()[f"measure_{arguments.measure}"]
        print(json.dumps(measure(arguments.folder, arguments.rounds)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        results = {part: run(part, folder, arguments.rounds) for part in arguments.only}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
