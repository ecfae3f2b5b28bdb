"""The exit status of a command. Errors that the user can fix are printed in a few lines."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable

from worldmodel.errors import StorageError, UserError, printable
from worldmodel.system.storage import disk_error

USER_ERROR = 2


def run_cli(action: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status; prints a UserError without a traceback."""
    _open_missing_streams()
    try:
        status = action() or 0
        sys.stdout.flush()  # here, where a closed pipe is expected
        return status
    except UserError as error:
        message = printable(error, keep="\n")
        print(f"error: {message}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # the reader of the output has ended, as in `--help | head`
        _discard_output()
        return 1
    except OSError as error:  # a disk that is full or read-only, wherever it shows
        if (reason := disk_error(error)) is None:
            raise
        if error.filename is None:
            _discard_output()
        print(f"error: {printable(error.filename or 'the output')}: {reason}", file=sys.stderr)
        return StorageError.status


def _discard_output() -> None:
    """The interpreter writes what is left in the buffer at its end, where nobody expects errors."""
    with contextlib.suppress(io.UnsupportedOperation):  # a stream of a notebook or a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_missing_streams() -> None:
    """Opens what the caller has closed of the descriptors 0 to 2 on /dev/null: otherwise the next
    file would get the number, and with it what libraries print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    sys.stdout, sys.stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")
