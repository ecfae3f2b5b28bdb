"""Asking a run to stop: SIGTERM, SLURM's warnings SIGUSR1 and SIGUSR2, and Ctrl-C.

Until a run has opened its folder, the process just ends. While a stage trains, the wish is only
noted: the loop saves its state and leaves. Elsewhere nothing would be lost, and `Preempted` is
raised wherever the program is. Where that is a library that does not come back for seconds, such
as a compiler, a thread ends the process.

Nothing here imports JAX: a run can be stopped from its first moment on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

PREEMPTED = 75  # EX_TEMPFAIL: schedulers take it as a request to run the job again
INTERRUPTED = 130  # what shells show after Ctrl-C
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
GRACE_SECONDS = 5.0  # in which the main thread may leave by itself
REPEAT_SIGNAL_SECONDS = 1.0  # a terminal and a launcher may both pass on a single Ctrl-C


class Preempted(BaseException):
    """The run was asked to stop, and what it has done is on disk.

    No `Exception`: nothing on the way may take it for a failure of its own.
    """


class StopRequest:
    """Notes the first signal of this process; later ones are ignored, but for a second Ctrl-C,
    which leaves at once.

    stop_requested: whether to stop; deferring: whether there is a state to be saved first
    needs_cleanup: whether there is anything to be closed or noted on the way out
    on_exit: called before the process is ended from outside its main thread
    """

    def __init__(self) -> None:
        self.stop_requested, self.number = False, int(signal.SIGTERM)
        self.deferring = self.forward_to_jax = self.again = self.needs_cleanup = False
        self.on_exit: Callable[[], None] = lambda: None
        self.since = 0.0
        self.ended = threading.Event()
        self.earlier: dict[int, object] = {}
        if threading.current_thread() is not threading.main_thread():
            return  # Python gives signals to the main thread alone
        self.listen()
        self.earlier_hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
        self.reading, self.writing = socket.socketpair()
        self.writing.setblocking(False)
        self.earlier_fd = signal.set_wakeup_fd(self.writing.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def listen(self) -> None:
        """Takes the signals, also from a library that has taken them since."""
        for number in SIGNALS:
            self.earlier.setdefault(number, signal.getsignal(number))
            signal.signal(number, self._note)

    def close(self) -> None:
        """From here on the signals do what they did before."""
        self.ended.set()
        for number, handler in self.earlier.items():
            signal.signal(number, handler)
        if self.earlier:
            signal.set_wakeup_fd(self.earlier_fd)
            sys.unraisablehook = self.earlier_hook
            self.writing.close()
            self.earlier = {}

    @property
    def status(self) -> int:
        """The exit status of a process that was stopped."""
        return INTERRUPTED if self.number == signal.SIGINT else PREEMPTED

    @contextlib.contextmanager
    def deferred(self, forward_to_jax: bool = False) -> Iterator[None]:
        """Inside, signals are only noted; whoever holds them has to look at `stop_requested`.

        With `forward_to_jax`, of several processes that train together, every signal is passed on as
        SIGTERM: JAX has taken that one, to tell all of them.
        """
        self.deferring, self.forward_to_jax = True, forward_to_jax
        try:
            yield
        finally:
            self.deferring = self.forward_to_jax = False
        if self.stop_requested:
            raise Preempted(f"stopped by {signal.Signals(self.number).name}")

    def _note(self, number: int, frame: FrameType | None) -> None:
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
        if number == signal.SIGINT:  # print() could be interrupted by itself
            os.write(sys.__stderr__.fileno(), b"\nsaving; Ctrl-C again leaves at once\n")

    def _swallowed(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Nothing can be raised where Python calls back, as from its garbage collector: once more,
        a moment later.
        """
        if unraisable.exc_type is not Preempted:
            self.earlier_hook(unraisable)
            return
        self.again = True
        main = (threading.main_thread().ident, self.number)
        threading.Timer(0.05, signal.pthread_kill, main).start()

    def _watch(self) -> None:
        """Ends the process where the main thread does not come to `_note`, or to an end."""
        while received := self.reading.recv(1):
            if received[0] in SIGNALS and not self.forward_to_jax:
                if self.ended.wait(GRACE_SECONDS):
                    break
                if not self.deferring:
                    self.number = self.number if self.stop_requested else received[0]
                    self._end()
        self.reading.close()

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            self.on_exit()
            name = signal.Signals(self.number).name
            os.write(sys.__stdout__.fileno(), f"stopped by {name}; {RESUME_HINT}\n".encode())
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(self.status)


RESUME_HINT = "the same command goes on from there"
_current: list[StopRequest] = []


@contextlib.contextmanager
def handle_stop_signals() -> Iterator[StopRequest]:
    """The stop request of this process, made by the outermost such block."""
    if _current:
        yield _current[0]
        return
    _current.append(StopRequest())
    try:
        yield _current[0]
    finally:
        _current.pop().close()


def run_stoppable(action: Callable[[], int]) -> int:
    """Returns the exit status of `action`: 75 where it was stopped, 130 by Ctrl-C."""
    with handle_stop_signals() as stop:
        try:
            return action()
        except Preempted as stopped:
            print(f"{stopped}; {RESUME_HINT}", flush=True)
            return stop.status
        except KeyboardInterrupt:
            return INTERRUPTED


def ignore() -> None:
    """For worker processes: a signal to the whole group is for the one that trains."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
