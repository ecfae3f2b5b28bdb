"""From what a command does to its exit status: a user's mistake is shown as a few lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from worldmodel.errors import StorageError, UserError
from worldmodel.system.storage import disk_error

USER_ERROR = 2


def run_cli(action: Callable[[], int | None]) -> int:
    """Returns the exit status of `action`; a user's mistake is shown as a few lines."""
    try:
        return action() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # whoever read the output has gone, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a disk that is full or read-only, wherever that comes to light
        if (reason := disk_error(error)) is None:
            raise
        print(f"error: {error.filename or 'the output'}: {reason}", file=sys.stderr)
        return StorageError.status
