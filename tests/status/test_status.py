"""`python -m worldmodel.status` reports what runs are doing, whatever is in their folders."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worldmodel.runs.directory import RunDirectory
from worldmodel.status.heartbeat import Heartbeat
from worldmodel.status.report import row_of

BEAT = {
    "state": "running", "phase": "training", "stage": "policy", "step": 40, "total": 60,
    "rate": 12.34, "pid": os.getpid(), "host": socket.gethostname(), "every_seconds": 5.0,
    "time": 1000.0, "last_progress": 990.0,
    "checkpoint": {"stage": "policy", "step": 30, "time": 900.0},
}  # fmt: skip


def state(folder: Path, now: float = 1001.0, **changes: object) -> tuple[str, ...]:
    (folder / "heartbeat.json").write_text(json.dumps(BEAT | changes))
    return row_of(folder, now)[1:]


def test_a_run_is_alive_while_its_process_exists_and_writes_heartbeats(
    tmp_path: Path,
) -> None:
    cells = ("policy", "40/60", "12.3/s", "policy/30", "11 s")
    assert state(tmp_path) == ("alive", *cells, f"training; pid {os.getpid()} on {BEAT['host']}")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert state(tmp_path, pid=gone.pid)[0] == "dead"  # at once, on the machine it ran on
    assert state(tmp_path, pid=gone.pid, host="elsewhere")[0] == "alive"
    assert state(tmp_path, now=1025.0, host="elsewhere")[0] == "alive"
    assert state(tmp_path, now=1035.0, host="elsewhere")[0] == "dead"
    assert state(tmp_path, now=1035.0)[0] == "dead"  # another process may have its number by now


def test_an_ended_run_shows_how_it_ended(tmp_path: Path) -> None:
    for how in ("finished", "stopped"):
        assert state(tmp_path, now=9e6, state=how)[::6] == (how, "")
    failed = state(tmp_path, state="failed", error="policy: loss/total is nan at step 41")
    assert failed[0] == "failed" and failed[-1] == "policy: loss/total is nan at step 41"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "1", "null", '{"state": 3}', "\x00" * 9, '{"state": "running", "time": "x"}'],
)
def test_a_damaged_heartbeat_gives_a_row_too(tmp_path: Path, content: str) -> None:
    (tmp_path / "heartbeat.json").write_text(content)
    assert row_of(tmp_path, 0.0)[1] == "unknown"


@pytest.mark.parametrize(
    "change",
    [{"pid": -1}, {"pid": "x"}, {"pid": 1e300}, {"host": None}, {"checkpoint": [3]}, {"step": {}},
     {"rate": True}, {"total": 0}, {"every_seconds": None}, {"last_progress": "now"}],
)  # fmt: skip
def test_a_damaged_entry_is_left_out(tmp_path: Path, change: dict) -> None:
    assert state(tmp_path, **change)[0] == "alive"


def test_the_command_shows_every_run_of_a_folder_and_needs_no_jax(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("")
    state(tmp_path / "a", state="finished")
    command = [sys.executable, "-X", "importtime", "-m", "worldmodel.status", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    head, first, second = done.stdout.splitlines()
    assert head.split()[:2] == ["run", "state"]
    assert first.split()[:3] == [str(tmp_path / "a"), "finished", "policy"]
    assert second.split()[:2] == [str(tmp_path / "b"), "unknown"]
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"jax", "numpy", "hydra", "rich"}


HOSTILE = "a\x1b]0;owned\x07\x1b[2J\u202eb\nc\udcff"


def test_names_and_messages_show_no_control_characters(tmp_path: Path) -> None:
    """A command of a terminal, a text from right to left, a line, and a byte that is no UTF-8."""
    run = tmp_path / HOSTILE
    run.mkdir()
    checkpoint = BEAT["checkpoint"] | {"stage": HOSTILE}
    shown = state(run, state="failed", error=HOSTILE, stage=HOSTILE, checkpoint=checkpoint)
    shown += row_of(run, 0.0)[:1] + state(run, phase=HOSTILE, host=HOSTILE)
    assert all(cell.isprintable() for cell in shown)
    assert sum(cell.count(r"a\x1b]0;owned\x07\x1b[2J\u202eb\nc\udcff") for cell in shown) == 6


def test_what_is_no_file_is_no_heartbeat(tmp_path: Path) -> None:
    """A pipe that nobody writes to, a folder, a device and a file too long for one."""
    heartbeat = tmp_path / "heartbeat.json"
    os.mkfifo(heartbeat)
    assert row_of(tmp_path, 0.0)[1] == "unknown"
    heartbeat.unlink()
    heartbeat.symlink_to("/dev/zero")
    assert row_of(tmp_path, 0.0)[1] == "unknown"
    heartbeat.unlink()
    heartbeat.mkdir()
    assert row_of(tmp_path, 0.0)[1] == "unknown"
    heartbeat.rmdir()
    heartbeat.write_text(json.dumps(BEAT) + " " * 2**20)
    assert row_of(tmp_path, 0.0)[1] == "unknown"


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        ("| head -1", 1, ""),
        ("| true", 1, ""),
        (">&-", 0, ""),
        ("> /dev/full", 74, "error: the output: No space left on device\n"),
    ],
)
def test_any_output_is_written_to_or_given_up_in_words(
    tmp_path: Path, redirection: str, status: int, said: str
) -> None:
    for number in range(1 if redirection == "| true" else 1000):  # more than a pipe holds
        run = tmp_path / f"{number:03}{'-' * 100}"
        run.mkdir()
        (run / "config.yaml").write_text("")
    command = f"sleep 0.1; {sys.executable} -m worldmodel.status {tmp_path} {redirection}"
    script = f"{command}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, said)


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worldmodel.status", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_heartbeat_repeats_by_itself_and_reports_the_end(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "policy" / "30").mkdir(parents=True)
    (tmp_path / "checkpoints" / "policy" / "40.tmp").mkdir()  # not committed
    heartbeat = Heartbeat(RunDirectory(tmp_path), every_seconds=0.02)
    heartbeat.enter("training", stage="policy", step=30, total=60)

    def beat() -> dict:
        return json.loads((tmp_path / "heartbeat.json").read_text())

    deadline = time.monotonic() + 10
    while not (tmp_path / "heartbeat.json").exists() or beat()["phase"] != "training":
        assert time.monotonic() < deadline
        time.sleep(0.005)
    first = beat()["time"]
    while beat()["time"] == first:  # nobody calls it
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert beat()["checkpoint"] | {"time": 0} == {"stage": "policy", "step": 30, "time": 0}
    assert row_of(tmp_path, time.time())[1:4] == ("alive", "policy", "30/60")
    heartbeat.end("failed", "the disk is full")
    heartbeat.end("finished")
    assert row_of(tmp_path, time.time())[1::6] == ("failed", "the disk is full")
