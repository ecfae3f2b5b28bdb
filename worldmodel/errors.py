"""Errors that a user can correct, printed as a few lines instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any


class UserError(Exception):
    """An error that the user can correct. The message says what is wrong, where, and what is
    accepted.
    """

    status = 2  # exit status of the process


class ConfigError(UserError):
    """An option that is unknown, of a wrong type, out of range, or in conflict with other options
    or with a run on disk.
    """


class DataError(UserError):
    """A dataset that is missing, damaged or inconsistent."""


class ArgumentError(UserError, ValueError):
    """An argument of a function that has the wrong type, name or shape."""


class CheckpointError(UserError):
    """A checkpoint or run directory that is missing, damaged or of another model."""


class StorageError(UserError):
    """A disk that is full, read-only or broken. What was saved before is complete."""

    status = 74  # EX_IOERR


class DivergenceError(UserError):
    """A loss that is no longer finite."""

    status = 1


MAX_ERRORS_SHOWN = 10  # lines in one message: a longer list hides the first mistake


def bullet_list(head: str, errors: Sequence[str]) -> str:
    """Returns `head` and the first few of `errors`, a line each."""
    return "\n  - ".join([head, *_first_few(errors)])


def raise_config_errors(errors: Iterable[str]) -> None:
    """Raises ConfigError with the first few of `errors`, a line each; does nothing without any."""
    if errors := list(dict.fromkeys(errors)):
        raise ConfigError("\n".join(_first_few(errors)))


def raise_data_errors(errors: Iterable[str], source: str) -> None:
    """Raises DataError with the first few of `errors`, a line each; does nothing without any."""
    if errors := list(errors):
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        raise DataError(bullet_list(f"{source}: {count} in the data", errors))


def require(condition: bool, name: str, actual: object, accepted: str) -> None:
    """Raises ArgumentError unless `condition` is true."""
    if not condition:
        raise ArgumentError(f"{name}: {actual}; accepted: {accepted}")


def check_count(name: str, value: Any, low: int = 1) -> None:
    """Raises ArgumentError unless `value` is an integer of at least `low`."""
    integer = isinstance(value, Integral) and not isinstance(value, bool)
    require(integer and int(value) >= low, name, repr(value), f"an integer, at least {low}")


def _first_few(errors: Sequence[str]) -> list[str]:
    more = len(errors) - MAX_ERRORS_SHOWN
    return [*errors[:MAX_ERRORS_SHOWN], *([f"... and {more} more"] if more > 0 else [])]


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(word: str, accepted: Iterable[str]) -> str:
    """Returns ' (did you mean X?)' for the accepted word closest to `word`, or an empty string."""
    matches = difflib.get_close_matches(word[:100], list(accepted), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def printable(text: object, keep: str = "") -> str:
    """Returns `text` with control and other unprintable characters escaped, as `repr` shows them.

    Names of columns, files and runs come from others: shown as they are, they could hold commands
    of a terminal, or bytes that no encoding writes. `keep` names characters that stay as they are.
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode()
        for c in str(text)
    )
