"""Requests to stop a run: SIGTERM, SLURM's warnings SIGUSR1 and SIGUSR2, Ctrl-C, and a terminal or
a reader of the output that is gone: SIGHUP.

Until a run has opened its folder, the process just exits. While a stage trains, the request is only
recorded: the loop saves its state and stops. Elsewhere nothing would be lost, and `Preempted` is
raised wherever the program is. If that is a library that does not return for seconds, such as a
compiler, a thread ends the process.

Nothing here imports JAX: a run can be stopped from the start.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO, cast

from worldmodel.system.exit_status import prepare_streams

PREEMPTED = 75  # EX_TEMPFAIL: schedulers restart the job
INTERRUPTED = 130  # the convention of shells for Ctrl-C
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
GRACE_SECONDS = 5.0  # for the main thread to stop by itself
REPEAT_SIGNAL_SECONDS = 1.0  # a terminal and a launcher may both forward a single Ctrl-C


class Preempted(BaseException):
    """The run was requested to stop, and its progress is on disk.

    Not an `Exception`, so that no handler of failures catches it.
    """


class StopRequest:
    """Records the first signal to this process. Later ones are ignored, except for a second Ctrl-C,
    which exits at once.

    stop_requested: whether to stop
    deferring: whether there is a state to save first
    needs_cleanup: whether there is anything to close or write before exiting
    on_exit: called before the process is ended from outside its main thread
    """

    def __init__(self) -> None:
        self.stop_requested, self.number = False, int(signal.SIGTERM)
        self.deferring = self.forward_to_jax = self.again = self.needs_cleanup = False
        self.on_exit: Callable[[], None] = lambda: None
        self.since = 0.0
        self.ended = threading.Event()
        self.previous: dict[int, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread alone
        self.listen()
        self.previous_hook, sys.unraisablehook = sys.unraisablehook, self._retry
        self.receiver, self.sender = socket.socketpair()
        self.sender.setblocking(False)
        self.previous_fd = signal.set_wakeup_fd(self.sender.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def listen(self) -> None:
        """Installs the handlers, also over those that a library has installed since. Under nohup,
        SIGHUP stays ignored.
        """
        for number in SIGNALS:
            previous = self.previous.setdefault(number, signal.getsignal(number))
            if number != signal.SIGHUP or previous != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def close(self) -> None:
        """Restores the previous handlers."""
        self.ended.set()
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        if self.previous:
            signal.set_wakeup_fd(self.previous_fd)
            sys.unraisablehook = self.previous_hook
            self.sender.close()
            self.previous = {}

    @property
    def status(self) -> int:
        """The exit status of a process that was stopped."""
        return INTERRUPTED if self.number == signal.SIGINT else PREEMPTED

    @contextlib.contextmanager
    def deferred(self, forward_to_jax: bool = False) -> Iterator[None]:
        """Inside the block, signals are only recorded: the caller has to check `stop_requested`.

        forward_to_jax: raise every signal as SIGTERM, which JAX handles where several processes
            train together, to stop all of them
        """
        self.deferring, self.forward_to_jax = True, forward_to_jax
        try:
            yield
        finally:
            self.deferring = self.forward_to_jax = False
        if self.stop_requested:
            raise Preempted(f"stopped by {signal.Signals(self.number).name}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.again and not self.deferring:
            self.again = False
            raise Preempted(f"stopped by {signal.Signals(self.number).name}")
        if self.stop_requested:
            if number == signal.SIGINT and time.monotonic() - self.since > REPEAT_SIGNAL_SECONDS:
                raise KeyboardInterrupt
            return
        self.since = time.monotonic()
        if self.forward_to_jax:
            signal.raise_signal(signal.SIGTERM)
            return
        self.stop_requested, self.number = True, number
        if not self.needs_cleanup and not self.deferring:
            self._end()
        if not self.deferring:
            raise Preempted(f"stopped by {signal.Signals(number).name}")
        if number == signal.SIGINT:  # print() is not reentrant
            os.write(2, b"\nsaving; press Ctrl-C again to exit at once\n")

    def _retry(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Python ignores exceptions in callbacks such as finalizers: raises the signal again."""
        if unraisable.exc_type is not Preempted:
            self.previous_hook(unraisable)
            return
        self.again = True
        main = threading.main_thread().ident
        threading.Timer(0.05, signal.pthread_kill, (main, self.number)).start()

    def _watch(self) -> None:
        """Ends the process if the main thread reaches neither `_handle` nor its end."""
        while received := self.receiver.recv(1):
            if received[0] in SIGNALS and not self.forward_to_jax:
                if self.ended.wait(GRACE_SECONDS):
                    break
                if not self.deferring:
                    self.number = self.number if self.stop_requested else received[0]
                    self._end()
        self.receiver.close()

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            self.on_exit()
            name = signal.Signals(self.number).name
            os.write(1, f"stopped by {name}; {RESUME_HINT}\n".encode())
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(self.status)


class _Output:
    """A standard stream. If its reader has ended or its terminal is closed, that is a SIGHUP, and
    what is written from then on is dropped.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        self._attempt(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self.stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            signal.raise_signal(signal.SIGHUP)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


RESUME_HINT = "run the same command to resume"
_current: list[StopRequest] = []


@contextlib.contextmanager
def handle_stop_signals() -> Iterator[StopRequest]:
    """The stop request of this process, created by the outermost such block."""
    if _current:
        yield _current[0]
        return
    _current.append(StopRequest())
    try:
        with (
            contextlib.redirect_stdout(cast(TextIO, _Output(sys.stdout))),
            contextlib.redirect_stderr(cast(TextIO, _Output(sys.stderr))),
        ):
            yield _current[0]
    finally:
        _current.pop().close()


def run_stoppable(action: Callable[[], int]) -> int:
    """Returns the exit status of `action`: 75 if it was stopped, 130 by Ctrl-C."""
    prepare_streams()
    with handle_stop_signals() as stop:
        try:
            return action()
        except Preempted as reason:
            print(f"{reason}; {RESUME_HINT}", flush=True)
            return stop.status
        except KeyboardInterrupt:
            return INTERRUPTED


def ignore() -> None:
    """Ignores the signals, for worker processes: those to the whole group are for the trainer."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
