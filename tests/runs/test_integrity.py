"""A damaged checkpoint is detected before it is read, reported and moved aside; a disk that fails
stops the run with the last good checkpoint intact.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel.config import StageOptions
from worldmodel.errors import CheckpointError, ConfigError, StorageError
from worldmodel.runs import integrity
from worldmodel.runs.best import BestMetric, check_metric
from worldmodel.runs.checkpoints import Checkpoints, digest


def state(seed: int) -> dict:
    """Noise, so that files are as large as what is in them."""
    kernel = np.random.default_rng(seed).normal(size=(8, 200, 50)).astype(np.float32)
    return {"params": list(map(jnp.asarray, kernel)), "step": jnp.asarray(seed, jnp.int32)}


def saved(folder: Path, *steps: int, **options: object) -> Path:
    checkpoints = Checkpoints(folder, **options)
    for step in steps:
        checkpoints.save(step, state(step), {"pending": {"sums": {"loss": 1 / 3}, "count": step}})
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints 10 and 20."""
    return saved(tmp_path_factory.mktemp("run") / "stage", 10, 20)


@pytest.fixture
def copy(two: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two, tmp_path / "stage"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def largest(checkpoint: Path) -> Path:
    return max((p for p in checkpoint.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path: Path, position: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replaced_by_a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("?")


META, CHECKSUMS = "meta/metadata", "state/sums.json"
DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of an array": lambda c: flip(largest(c)),
    "the last bit of an array": lambda c: flip(largest(c), 0.9999),
    "half an array": lambda c: cut(largest(c)),
    "an empty array": lambda c: largest(c).write_bytes(b""),
    "an array of zeros": lambda c: largest(c).write_bytes(bytes(largest(c).stat().st_size)),
    "an array missing": lambda c: largest(c).unlink(),
    "a manifest missing": lambda c: (c / "state/manifest.ocdbt").unlink(),
    "a manifest flipped": lambda c: flip(c / "state/manifest.ocdbt"),
    "names of arrays cut": lambda c: cut(c / "state/_METADATA"),
    "no arrays": lambda c: shutil.rmtree(c / "state"),
    "arrays emptied": lambda c: (shutil.rmtree(c / "state"), (c / "state").mkdir()),
    "no checksums": lambda c: (c / CHECKSUMS).unlink(),
    "checksums cut": lambda c: cut(c / CHECKSUMS),
    "checksums that are a list": lambda c: (c / CHECKSUMS).write_text("[1, 2]"),
    "checksums of no files": lambda c: (c / CHECKSUMS).write_text('{"files": {}, "crc32": 0}'),
    "no meta": lambda c: shutil.rmtree(c / "meta"),
    "meta empty": lambda c: (c / META).write_text(""),
    "meta cut": lambda c: cut(c / META),
    "meta garbage": lambda c: (c / META).write_bytes(bytes(range(256))),
    "meta that is a list": lambda c: (c / META).write_text("[]"),
    "a digit of meta": lambda c: (c / META).write_text((c / META).read_text().replace("20", "21")),
    "version a word": lambda c: (c / META).write_text('{"version": "two"}'),
    "an older version": lambda c: (c / META).write_text('{"version": 1, "crc32": 0}'),
    "an empty folder": lambda c: (shutil.rmtree(c), c.mkdir()),
    "a file in its place": replaced_by_a_file,
    "a link to nowhere": lambda c: (shutil.rmtree(c), c.symlink_to("nowhere")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_newest_valid_checkpoint_is_used(
    copy: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGE[kind](copy / "20")
    before, good = contents(copy), contents(copy / "10")
    checkpoints = Checkpoints(copy)
    assert checkpoints.steps() == [10]
    restored, meta = checkpoints.restore(10, state(0))
    assert digest(restored) == digest(state(10)) and meta["pending"]["count"] == 10

    aside = copy.with_name("stage.damaged") / "20"
    warning = capsys.readouterr().out
    assert warning.startswith("warning: ")
    assert all(str(path) in warning for path in (copy / "20", copy / "10", aside))
    bad = {n.removeprefix("20/"): b for n, b in before.items() if n.startswith("20/")}
    assert contents(aside) == bad and contents(copy / "10") == good  # nothing is lost

    checkpoints.save(20, state(20), {})  # the step can be written again
    checkpoints.close()
    again = Checkpoints(copy, read_only=True)
    assert again.steps() == [10, 20]
    assert digest(again.restore(20, state(0))[0]) == digest(state(20))
    again.close()


@pytest.mark.parametrize("kind", ["a bit of an array", "meta empty", "an empty folder"])
def test_a_stage_whose_checkpoints_are_all_damaged_is_refused_and_left_alone(
    copy: Path, kind: str
) -> None:
    DAMAGE[kind](copy / "20")
    flip(copy / "10" / META)
    before = contents(copy.parent)
    with pytest.raises(CheckpointError, match=r"all checkpoints are damaged[\s\S]*fresh=true"):
        Checkpoints(copy)
    assert contents(copy.parent) == before


def test_a_flipped_bit_in_a_file_is_detected_or_changes_nothing(two: Path, tmp_path: Path) -> None:
    detected = 0
    for name in contents(two / "20"):
        copy = Path(shutil.copytree(two, tmp_path / "copies" / name / "stage"))
        flip(copy / "20" / name)
        checkpoints = Checkpoints(copy)
        newest = checkpoints.steps()[-1]
        assert digest(checkpoints.restore(newest, state(0))[0]) == digest(state(newest)), name
        checkpoints.close()
        detected += newest == 10
    assert detected >= len(contents(two / "20")) - 4  # metadata of the library


def test_an_unfinished_checkpoint_does_not_count(copy: Path) -> None:
    part = copy / "20.orbax-checkpoint-tmp"
    (copy / "20").rename(part)  # killed just before the end, and before that
    Path(shutil.copytree(part, copy / "30.orbax-checkpoint-tmp") / "commit_success.txt").unlink()
    checkpoints = Checkpoints(copy)
    assert checkpoints.steps() == [10]
    assert not (copy / "30.orbax-checkpoint-tmp").exists()  # its space is needed
    checkpoints.save(20, state(20), {})
    checkpoints.close()
    assert {p.name for p in copy.iterdir()} == {"10", "20"}
    integrity.verify(copy / "20")


def test_a_checkpoint_of_a_newer_version_is_refused_and_left_alone(copy: Path) -> None:
    meta = {"version": integrity.VERSION + 1}
    with_checksum = meta | {"crc32": integrity.with_checksum(meta)["crc32"]}
    (copy / "20" / META).write_text(json.dumps(with_checksum))
    before = contents(copy.parent)
    with pytest.raises(CheckpointError, match=r"newer version of worldmodel \(.* 3; this"):
        Checkpoints(copy)
    assert contents(copy.parent) == before


def test_checkpoints_without_checksums_can_be_resumed_from(copy: Path) -> None:
    (copy / "20" / META).write_text('{"version": 1, "pending": null}')
    (copy / "20" / CHECKSUMS).unlink()
    checkpoints = Checkpoints(copy)
    assert digest(checkpoints.restore(20, state(0))[0]) == digest(state(20))
    checkpoints.close()


def test_a_partial_restore_reads_only_what_it_needs(two: Path) -> None:
    checkpoints = Checkpoints(two, read_only=True)
    wanted = {"params": {2: jnp.zeros((200, 50))}}
    restored, _ = checkpoints.restore(20, wanted, partial=True)
    np.testing.assert_array_equal(restored["params"][2], state(20)["params"][2])
    with pytest.raises(CheckpointError, match="params.2: only in|params.0: only in"):
        checkpoints.restore(20, wanted)
    with pytest.raises(CheckpointError, match="params.9: missing"):
        checkpoints.restore(20, {"params": {9: jnp.zeros(2)}}, partial=True)
    checkpoints.close()


def test_nothing_in_a_checkpoint_is_imported_or_unpickled(copy: Path) -> None:
    for name, data in contents(copy).items():
        assert not data.startswith((b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")), name
        assert b"worldmodel." not in data, name
    notes = copy / "20" / "_CHECKPOINT_METADATA"
    metadata = json.loads(notes.read_text())
    metadata["item_handlers"] = {"state": "os.system", "meta": "no.such.module"}
    notes.write_text(json.dumps(metadata))
    checkpoints = Checkpoints(copy)
    assert digest(checkpoints.restore(20, state(0))[0]) == digest(state(20))
    checkpoints.close()


# --------------------------------------------------------------------------------------- the best


def losses(folder: Path, best: BestMetric, values: dict[int, float]) -> list[int]:
    checkpoints = Checkpoints(folder, max_to_keep=2, best=best)
    for step, value in values.items():
        checkpoints.save(step, {"x": jnp.zeros(2)}, {"metrics": {"loss": value}})
    checkpoints.wait()
    steps = checkpoints.steps()
    checkpoints.close()
    assert integrity.checkpoint_steps(folder) == steps
    return steps


@pytest.mark.parametrize(("mode", "best"), [("min", 20), ("max", 10)])
def test_the_best_checkpoint_outlives_the_newest_and_a_restart(
    tmp_path: Path, mode: str, best: int
) -> None:
    metric = BestMetric("loss", mode)
    folder = tmp_path / "stage"
    first = losses(folder, metric, {10: 9.0, 20: 1.0, 30: 5.0, 40: float("nan")})
    assert first == sorted({best, 30, 40})
    assert losses(folder, metric, {50: 2.0, 60: 3.0, 70: 4.0}) == [best, 60, 70]
    assert metric.best_step(metric.values(folder)) == best
    better = {"min": 0.5, "max": 99.0}[mode]
    assert losses(folder, metric, {80: better, 90: 3.0, 100: 3.0}) == [80, 90, 100]


def test_of_equally_good_checkpoints_the_newest_is_the_best() -> None:
    assert BestMetric("loss").best_step({1: 2.0, 2: 1.0, 3: 1.0, 4: None}) == 3
    assert BestMetric("loss").best_step({1: None}) is None


def test_a_metric_that_a_stage_lacks_is_refused() -> None:
    check_metric(BestMetric("loss/total"), "training.policy", {"loss/total"})
    with pytest.raises(ConfigError, match=r"best_metric=loss/totl: accepts .*mean 'loss/total'"):
        check_metric(BestMetric("loss/totl"), "training.policy", {"loss/total", "loss/other"})
    assert StageOptions(steps=1).best_metric is None


# --------------------------------------------------------------------------------- disks that fail


@pytest.mark.parametrize(
    ("refuse", "allow", "words"),
    [("size=1m", "size=9m", "No space left"), ("ro", "rw", "Read-only file system")],
)
def test_a_disk_that_fails_leaves_the_last_checkpoint_intact(
    small_disk: Path, remount: Callable[[str], None], refuse: str, allow: str, words: str
) -> None:
    folder = small_disk / "checkpoints" / "stage"
    checkpoints = Checkpoints(folder, max_to_keep=1)
    checkpoints.save(1, state(1), {})
    checkpoints.wait()
    if refuse == "size=1m":
        (small_disk / "others").write_bytes(bytes(500_000))
    else:
        remount(refuse)
    before = contents(folder / "1")
    with pytest.raises(StorageError, match=f"{words}.* free there\\)\n.*last checkpoint is 1"):
        checkpoints.save(2, state(2), {})
        checkpoints.save(3, state(3), {})  # an error in the background is raised here
    checkpoints.close()
    assert integrity.checkpoint_steps(folder) == [1] and contents(folder / "1") == before

    remount(allow)
    checkpoints = Checkpoints(folder, max_to_keep=1)
    assert digest(checkpoints.restore(1, state(0))[0]) == digest(state(1))
    checkpoints.save(2, state(2), {})
    checkpoints.wait()
    assert checkpoints.steps() == [2]
    checkpoints.close()


def test_a_failure_in_the_background_is_raised_at_the_end(tmp_path: Path) -> None:
    folder = saved(tmp_path / "stage", 1, max_to_keep=1)
    checkpoints = Checkpoints(folder, max_to_keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            checkpoints.save(2, state(2), {})
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert integrity.checkpoint_steps(folder) == [1]
    integrity.verify(folder / "1")


# ---------------------------------------------------------------------------------- other devices

MANY = """
import sys
from pathlib import Path
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from test_integrity import state
from worldmodel.runs.checkpoints import Checkpoints, digest

def placed(count, spec):
    mesh = Mesh(np.asarray(jax.devices()[:count]), ("data",))
    return jax.device_put(state(7), {"params": [NamedSharding(mesh, spec)] * 8,
                                     "step": NamedSharding(mesh, PartitionSpec())})

assert len(jax.devices()) == 8
checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save(7, placed(8, PartitionSpec("data")), {})
checkpoints.wait()
for count in (1, 2, 8):
    for spec in (PartitionSpec(), PartitionSpec("data")):
        like = placed(count, spec)
        restored, _ = checkpoints.restore(7, like)
        assert digest(restored) == digest(state(7))
        alike = jax.tree.map(lambda a, b: a.sharding == b.sharding, restored, like)
        assert all(jax.tree.leaves(alike))
checkpoints.close()
"""


def test_a_checkpoint_of_eight_devices_is_restored_on_one_and_two(tmp_path: Path) -> None:
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}",
    }
    command = [sys.executable, "-c", MANY, str(tmp_path / "stage")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoints = Checkpoints(tmp_path / "stage")  # and here, where there is one
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state(0)
    )
    assert digest(checkpoints.restore(7, like)[0]) == digest(state(7))
    checkpoints.close()
