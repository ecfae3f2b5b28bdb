"""One option: a typed dataclass field, its line of help and the values it accepts."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import MISSING

from worldmodel.errors import did_you_mean

HUGE = 1e300  # integers that are too large for a float, and slow to print
MAX_INTEGER = 2**31 - 1  # counters on the device have 32 bits
TYPE_NAMES = {
    int: "integer",
    float: "number",
    bool: "true or false",
    str: "text",
    dict: "options {KEY: VALUE, ...}",
}


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    sampling: bool = False,
) -> Any:
    """A dataclass field with one line of help and what it accepts (`low`, `high`: inclusive).

    On a list, limits and choices hold for every element. `sampling` marks options of a model that
    change how it imagines and not what it learns: a trained model may be used with other values.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "sampling": sampling}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def allow_code_option() -> Any:
    """Returns the option `allow_code`, of commands that load runs."""
    help = "trust the run: import its environment from no installed package, read the data it names"
    return option(False, help)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: its dotted key, and what its dataclass field says of it."""

    key: str
    type: type
    is_list: bool = False
    optional: bool = False
    help: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    sampling: bool = False

    @classmethod
    def of(cls, key: str, annotation: Any, metadata: typing.Mapping[str, Any]) -> Option:
        """Reads an annotation of the forms `int`, `int | None`, `list[int]`, `dict[str, Any]`."""
        optional = isinstance(annotation, types.UnionType)
        if optional:
            annotation = next(t for t in typing.get_args(annotation) if t is not types.NoneType)
        is_list = typing.get_origin(annotation) is list
        element = typing.get_args(annotation)[0] if is_list else annotation
        element = typing.get_origin(element) or element  # options by name are a dict, of any values
        return cls(key, element, is_list, optional, **metadata)

    @property
    def accepts(self) -> str:
        """The accepted values in words, such as 'integer, 1 or more, or null'."""
        words = TYPE_NAMES[self.type]
        limits = self._limits()
        if self.is_list:
            words = f"list [a,b,...] of {words}s" + (f", each {limits}" if limits else "")
        elif self.choices:
            words = limits
        elif limits:
            words += f", {limits}"
        return words + (", or null" if self.optional else "")

    def _limits(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.low is not None and self.high is not None:
            return f"{self.low:.10g} to {self.high:.10g}"
        if self.low is not None:
            return f"{self.low:.10g} or more"
        return "" if self.high is None else f"at most {self.high:.10g}"

    def convert(self, value: Any) -> Any:
        """Returns `value` in the option's type where nothing is lost, else unchanged."""
        if hasattr(value, "tolist"):  # a number or an array of NumPy
            value = value.tolist()
        if isinstance(value, int) and abs(value) >= HUGE:
            return value
        if isinstance(value, list | tuple):
            return [dataclasses.replace(self, is_list=False).convert(v) for v in value]
        if isinstance(value, bool):
            return str(value).lower() if self.type is str else value
        if self.type is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if self.type is float and isinstance(value, int):
            return float(value)
        if self.type is str and isinstance(value, int | float):
            return str(value)
        return value

    def error_in(self, value: Any) -> str | None:
        """Returns what is wrong with `value` as one line, or None."""
        if isinstance(value, str) and value == MISSING:
            return f"{self.key} needs a value: {self.accepts}"
        if value is None and self.optional:
            return None
        if isinstance(value, list) == self.is_list:
            elements = value if self.is_list else [value]
            if elements and all(self._takes(element) for element in elements):
                return None
        return f"{self.key}={format_value(value)}: accepts {self.accepts}{self._hint(value)}"

    def _hint(self, value: Any) -> str:
        """What the accepted values do not state, where it is what is wrong."""
        if self.choices:
            return did_you_mean(str(value), self.choices)
        elements = value if isinstance(value, list) else [value]
        if self.type is int and any(type(e) is int and abs(e) > MAX_INTEGER for e in elements):
            return f"; integers are at most {MAX_INTEGER}"
        if self.type is str and any(type(e) is str and not _is_text(e) for e in elements):
            return "; text is not empty, and is UTF-8 without null characters"
        if self.type is dict and type(value) is dict:
            return "; each VALUE is a number, text, or a list or {KEY: VALUE} of those"
        return ""

    def _takes(self, value: Any) -> bool:
        if type(value) is not self.type:
            return False
        if self.choices and value not in self.choices:
            return False
        if self.type is str:
            return _is_text(value)
        if self.type is dict:
            return _is_plain(value)
        if self.type is int and abs(value) > MAX_INTEGER:
            return False
        if self.type in (int, float):
            low = -math.inf if self.low is None else self.low
            high = math.inf if self.high is None else self.high
            return math.isfinite(value) and low <= value <= high
        return True


def _is_plain(value: Any) -> bool:
    """Whether a value is made of numbers and text alone, as YAML and JSON write them."""
    if isinstance(value, dict):
        return all(type(k) is str and _is_plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _is_text(value: str) -> bool:
    """Whether a file can have this name and contents: bytes that are no UTF-8 are surrogates."""
    try:
        return 0 not in value.encode() and value != ""
    except UnicodeEncodeError:
        return False


def choice_error(key: str, value: Any, choices: Iterable[str]) -> str:
    """The message for a value that is none of the choices."""
    hint = did_you_mean(str(value), choices)
    return f"{key}={format_value(value)}: accepts one of {', '.join(choices)}{hint}"


def format_value(value: Any) -> str:
    """A value as a user would write it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and abs(value) >= HUGE:
        return "(hundreds of digits)"
    if isinstance(value, list):
        return "[" + ",".join(format_value(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}: {format_value(v)}" for key, v in value.items()) + "}"
    return str(value)


def iter_options(options: Any, prefix: str = "") -> Iterator[tuple[Option, Any]]:
    """Yields every option below a dataclass instance, with its value."""
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        key, value = prefix + field.name, getattr(options, field.name)
        if not dataclasses.is_dataclass(hints[field.name]):
            yield Option.of(key, hints[field.name], field.metadata), value
        elif dataclasses.is_dataclass(value):
            yield from iter_options(value, key + ".")
        else:  # a group that was not chosen
            yield Option(key, str), value


def options_by_key(options: Any, prefix: str = "") -> dict[str, Option]:
    """Returns every option below a dataclass instance."""
    return {option.key: option for option, _ in iter_options(options, prefix)}


def option_errors(options: Any, prefix: str = "") -> Iterator[str]:
    """Yields what is wrong with each option below a dataclass instance, by itself."""
    errors = (option.error_in(value) for option, value in iter_options(options, prefix))
    yield from filter(None, errors)
