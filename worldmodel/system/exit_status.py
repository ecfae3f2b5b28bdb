"""The exit status of a command. Errors that the user can fix are printed in a few lines."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable

from worldmodel.errors import StorageError, UserError, printable
from worldmodel.system.storage import disk_error

USER_ERROR = 2
MAX_LINE = 1000  # characters of a message that quotes what it was given


def run_cli(action: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status; prints a UserError without a traceback."""
    prepare_streams()
    try:
        status = action() or 0
        sys.stdout.flush()  # here, where a closed pipe is expected
        return status
    except UserError as error:
        _print_error(str(error))
        return error.status
    except BrokenPipeError:  # the reader of the output has ended, as in `--help | head`
        _discard_output()
        return 1
    except OSError as error:  # a disk that is full or read-only, wherever it shows
        if (reason := disk_error(error)) is None:
            raise
        if error.filename is None:
            _discard_output()
        _print_error(f"{str(error.filename or 'the output')[:MAX_LINE]}: {reason}")
        too_long = error.errno == errno.ENAMETOOLONG  # which is no matter of the disk
        return USER_ERROR if too_long else StorageError.status


def _print_error(message: str) -> None:
    lines = printable(message, keep="\n").split("\n")
    lines = [f"{line[:MAX_LINE]}..." if len(line) > MAX_LINE else line for line in lines]
    print("error:", "\n".join(lines), file=sys.stderr)


def _discard_output() -> None:
    """The interpreter writes what is left in the buffer at its end, where nobody expects errors."""
    with contextlib.suppress(io.UnsupportedOperation):  # a stream of a notebook or a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def prepare_streams() -> None:
    """Opens what the caller has closed of the descriptors 0 to 2 on /dev/null: otherwise the next
    file would get the number, and with it what libraries print. Output in any encoding is accepted.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    sys.stdout, sys.stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="replace")  # in a locale that lacks the characters of names and tables
