"""A full disk ends a run in a few lines, with an exit status of its own, and the same command
resumes it once there is space. The disks are real ones, of a few MiB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from worldmodel.errors import StorageError
from worldmodel.runs.directory import RunDirectory, read_metrics
from worldmodel.system.exit_status import run_cli
from worldmodel.system.storage import atomic_folder, free_space, write_text_atomic
from worldmodel.training.metrics import MetricsFile

ROOT = Path(__file__).parents[2]

Remount = Callable[[str], None]


@pytest.fixture
def disk(small_disk: Path, remount: Remount) -> Path:
    remount("size=64k")
    return small_disk


def fill(disk: Path) -> None:
    try:
        with (disk / "others").open("ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass
    assert free_space(disk) == "0 B"


def test_a_file_that_does_not_fit_is_reported_and_the_old_one_stays(
    disk: Path, remount: Remount
) -> None:
    (disk / "a").mkdir()
    write_text_atomic(disk / "a" / "old.json", "old")
    fill(disk)
    with pytest.raises(
        StorageError, match=r"old.json cannot be written: No space left.*\(0 B free"
    ):
        write_text_atomic(disk / "a" / "old.json", "new" * 9999)
    assert [(p.name, p.read_text()) for p in (disk / "a").iterdir()] == [("old.json", "old")]
    remount("ro")
    with pytest.raises(StorageError, match="Read-only file system"):
        RunDirectory(disk).write_summary("policy", {"last_step": 1})
    assert StorageError.status == 74


def test_a_full_disk_neither_loses_nor_repeats_metrics(disk: Path, remount: Remount) -> None:
    file = MetricsFile(disk / "metrics.jsonl")
    with pytest.raises(StorageError, match=r"metrics.jsonl cannot be written: No space left"):
        for step in range(1, 9999):
            file.write({"stage": "policy", "step": step, "loss": 1 / 3})
    remount("size=999k")
    written = [row.step for row in read_metrics(file.path)]
    assert written == list(range(1, step)) and step > 100  # and at most an incomplete row
    file.rewind("policy", step - 1)
    file.write({"stage": "policy", "step": step})
    assert [row.step for row in read_metrics(file.path)] == list(range(1, step + 1))


def test_no_error_of_a_disk_is_a_traceback(
    disk: Path, remount: Remount, capsys: pytest.CaptureFixture[str]
) -> None:
    remount("ro")
    assert run_cli(lambda: (disk / "cache").mkdir()) == 74
    assert run_cli(lambda: Path("/dev/full").write_text("x")) == 74
    assert capsys.readouterr().err.splitlines() == [
        f"error: {disk / 'cache'}: Read-only file system",
        "error: the output: No space left on device",
    ]
    for folder in (disk / "cache", Path("/proc/nowhere")):
        with (
            pytest.raises(StorageError, match=f"{folder} cannot be written"),
            atomic_folder(folder / "x"),
        ):
            pass
    with pytest.raises(FileNotFoundError):  # an error of the program is not hidden
        run_cli(lambda: int((disk / "nothing").read_text()))


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_cleanly_and_resumes_to_the_same_bits(
    smoke_run: Path, disk: Path, remount: Remount, launch: Callable[..., list[str]]
) -> None:
    size = sum(p.stat().st_size for p in (smoke_run / "checkpoints").rglob("*")) // 1024
    run = disk / "smoke-0"
    # So that there is space for the first checkpoints, but not for those of the second stage.
    remount(f"size={size // 2}k")
    done = subprocess.run(launch(f"runs_dir={disk}"), capture_output=True, text=True)
    assert done.returncode == 74, done.stderr[-2000:]
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr + done.stdout
    assert "No space left on device" in done.stderr and str(run) in done.stderr

    remount(f"size={size * 4}k")
    done = subprocess.run(launch(f"runs_dir={disk}"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    ends = [json.loads((r / "summary.json").read_text())["stages"] for r in (run, smoke_run)]
    mine, theirs = ({n: s["state_sha256"] for n, s in stages.items()} for stages in ends)
    assert mine == theirs
    assert "resuming from step" in done.stdout

    fill(disk)
    words = [f"run={run}", "evaluation.episodes=1", "evaluation.horizons=[1]"]
    command = [sys.executable, str(ROOT / "eval.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 74 and "results.json cannot be written" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
