"""The exit status of a command. Errors that the user can fix are printed in a few lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from worldmodel.errors import StorageError, UserError
from worldmodel.system.storage import disk_error

USER_ERROR = 2


def run_cli(action: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status; prints a UserError without a traceback."""
    try:
        return action() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # the reader of the output has ended, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a disk that is full or read-only, wherever it shows
        if (reason := disk_error(error)) is None:
            raise
        print(f"error: {error.filename or 'the output'}: {reason}", file=sys.stderr)
        return StorageError.status
