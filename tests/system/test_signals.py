"""A process that is requested to stop saves its state if it has one, and ends at once otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAD = """
import multiprocessing, os, signal, sys, time
from worldmodel.system import signals
def ready(): print("ready", flush=True)
"""
FREE = """
def action():
    with signals.handle_stop_signals() as stop:
        stop.needs_cleanup = "needs_cleanup" in sys.argv
    ready()
    time.sleep(60)
sys.exit(signals.run_stoppable(action))
"""
HELD = """
def action():
    with signals.handle_stop_signals() as stop, stop.deferred():
        ready()
        while not stop.stop_requested:
            time.sleep(0.01)
        time.sleep(0.5)  # saves; more signals come
        print("saved", flush=True)
sys.exit(signals.run_stoppable(action))
"""
BUSY = """
import hashlib
signals.GRACE_SECONDS = 0.3
def action():
    with signals.handle_stop_signals() as stop:
        stop.needs_cleanup, stop.on_exit = True, lambda: print("last words", flush=True)
        ready()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # as a compiler: away from Python for long
sys.exit(signals.run_stoppable(action))
"""
CALLED_BACK = """
class Garbage:
    def __del__(self):
        ready()
        time.sleep(60)
def action():
    with signals.handle_stop_signals() as stop:
        stop.needs_cleanup = True
    Garbage()
    time.sleep(60)
sys.exit(signals.run_stoppable(action))
"""
WORKER = """
def work(pipe):
    signals.ignore()
    ready()
    time.sleep(0.6)
    pipe.send("worked")
def action():
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.get_context("fork").Process(target=work, args=(theirs,)).start()
    with signals.handle_stop_signals() as stop, stop.deferred():
        print(ours.recv(), flush=True)
sys.exit(signals.run_stoppable(action))
"""


def stopped(script: str, *numbers: signal.Signals, word: str = "") -> tuple[int, str, float]:
    """Sends the signals to the script's whole group; returns status, output and seconds."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + script, word], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)  # for it to wait, or work
    began = time.monotonic()
    for number in numbers:
        os.killpg(process.pid, number)
        time.sleep(0.05)
    output, _ = process.communicate(timeout=30)
    return process.returncode, output, time.monotonic() - began


@pytest.mark.parametrize(
    ("name", "word"),
    [("SIGTERM", "needs_cleanup"), ("SIGUSR1", ""), ("SIGUSR2", "needs_cleanup"), ("SIGHUP", "")],
)
def test_a_signal_ends_a_run_that_has_nothing_to_save(name: str, word: str) -> None:
    status, output, seconds = stopped(FREE, signal.Signals[name], word=word)
    assert (status, output) == (75, f"stopped by {name}; run the same command to resume\n")
    assert seconds < 3


def test_ctrl_c_has_the_status_that_shells_expect() -> None:
    assert stopped(FREE, signal.SIGINT)[0] == 130


def test_more_signals_do_not_interrupt_saving() -> None:
    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
    status, output, _ = stopped(HELD, *numbers)
    assert status == 75 and output.startswith("saved\nstopped by SIGUSR1;")


PRINTING = """
def action():
    with signals.handle_stop_signals() as stop, stop.deferred():
        for _ in range(100):
            print("progress", flush=True)
            if stop.stop_requested:
                break
            time.sleep(0.01)
        os.write(2, b"saved")
sys.exit(signals.run_stoppable(action))
"""


@pytest.mark.parametrize(("command", "status"), [([], 75), (["nohup"], 0)])
def test_output_that_nobody_reads_any_longer_stops_a_run(command: list[str], status: int) -> None:
    """As `python train.py | head` does; under nohup the run continues."""
    process = subprocess.Popen(
        [*command, sys.executable, "-c", HEAD + PRINTING],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "progress\n"
    process.stdout.close()
    assert process.wait(30) == status and process.stderr.read() == "saved"


@pytest.mark.parametrize("call", ["run_cli(action)", "run_stoppable(lambda: run_cli(action))"])
def test_a_run_without_any_output_does_not_write_into_its_own_files(
    call: str, tmp_path: Path
) -> None:
    script = """
import os, sys
from worldmodel.system.exit_status import run_cli
from worldmodel.system.signals import run_stoppable
def action():
    with open(sys.argv[1], "w") as file:
        print("to the output")
        os.write(1, b"a library's output")
        print("to the errors", file=sys.stderr)
        file.write("to the file")
"""
    script += f"sys.exit({call})"
    file = tmp_path / "file"
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", script, str(file)]
    assert subprocess.run(closed).returncode == 0
    assert file.read_text() == "to the file"


def test_characters_that_the_output_cannot_encode_are_replaced() -> None:
    script = "from worldmodel.system.exit_status import run_cli\nrun_cli(lambda: print('\u2500 a'))"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("? a\n", "")


def test_the_process_ends_inside_a_library_that_does_not_return() -> None:
    status, output, seconds = stopped(BUSY, signal.SIGTERM)
    assert (status, output) == (
        75,
        "last words\nstopped by SIGTERM; run the same command to resume\n",
    )
    assert seconds < 3


def test_a_signal_in_a_finalizer_is_not_lost() -> None:
    status, output, seconds = stopped(CALLED_BACK, signal.SIGTERM)
    assert (status, output) == (75, "stopped by SIGTERM; run the same command to resume\n")
    assert seconds < 3


def test_a_worker_ignores_signals_to_the_whole_group() -> None:
    status, output, _ = stopped(WORKER, signal.SIGTERM, signal.SIGINT)
    assert status == 75 and output.startswith("worked\nstopped by SIGTERM;")
