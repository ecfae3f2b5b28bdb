"""Pickles that hold NumPy arrays, dicts, lists and numbers, and nothing else.

A pickle is a program that may call anything. Here it calls only functions of this file, which make
arrays, and what it needs of memory is counted before it runs.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from worldmodel.data.readers.sizes import check_memory
from worldmodel.errors import DataError

ACCEPTED = "NumPy arrays of numbers, dicts, lists, text and numbers"
BYTES_PER_STEP = 72  # of memory that a step of the program takes at most, besides its content
STEPS = {
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE", "REDUCE", "BUILD"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("NONE", "NEWTRUE", "NEWFALSE", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
    *("BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "BINBYTES", "BINBYTES8", "SHORT_BINBYTES"),
    *("BYTEARRAY8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM"),
    *("SETITEMS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "STACK_GLOBAL"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT"),
}
PLACES = ("PUT", "BINPUT", "LONG_BINPUT")  # a table grows to the place that is named
CODES = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"b1", "f2", "f4", "f8"}
MAX_AXES = 32
NUMPY = ("numpy", "numpy.core", "numpy._core")


def load_pickle(path: Path) -> Any:
    """Returns the content of a pickle: arrays, dicts, lists, text and numbers.

    Raises DataError that names what else it holds, and for more than there is memory for.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        _check_program(_Bounded(file, size), size)
        file.seek(0)
        return _plain(_Unpickler(_Bounded(file, size)).load())


class _Bounded:
    """A file that refuses to read more than it has, before memory for that is taken."""

    def __init__(self, file: IO[bytes], size: int):
        self.file, self.size = file, size

    def read(self, count: int = -1) -> bytes:
        left = self.size - self.file.tell()
        if count > left:
            raise DataError(f"ends {left:,} bytes on, where it claims {count:,}; accepted: all")
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline()

    def tell(self) -> int:
        return self.file.tell()


def _check_program(file: Any, size: int) -> None:
    """Reads the steps of the program without running them."""
    count = 0
    for count, (step, argument, _) in enumerate(pickletools.genops(file), 1):
        if step.name not in STEPS:
            raise DataError(f"holds an object that {step.name} makes; accepted: {ACCEPTED}")
        if step.name in PLACES and isinstance(argument, int) and argument > count:
            raise DataError(f"keeps its value {count:,} in place {argument:,}; accepted: in order")
        if count % 1_000_000 == 0:
            check_memory(size + BYTES_PER_STEP * count, "it")
    check_memory(size + BYTES_PER_STEP * count, "it")


class _Unpickler(pickle.Unpickler):
    """Calls nothing but `_CALLS`, and keeps no types."""

    def find_class(self, module: str, name: str, /) -> Any:
        base = module.removesuffix(".multiarray").removesuffix(".numeric")
        if base in NUMPY and name in _CALLS:
            return _Call(f"{module}.{name}", _CALLS[name])
        if call := _BYTES.get((module, name)):
            return _Call(f"{module}.{name}", call)
        raise DataError(f"holds {module}.{name}; accepted: {ACCEPTED}")

    def persistent_load(self, pid: Any, /) -> Any:
        raise DataError(f"refers to {pid!r}, which is elsewhere; accepted: {ACCEPTED}")


class _Call:
    """What stands for a function or type of NumPy. A pickle cannot change it."""

    __slots__ = ("name", "function")

    def __init__(self, name: str, function: Callable[..., Any]):
        self.name, self.function = name, function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise DataError(f"changes {self.name}; accepted: {ACCEPTED}")


class _Type:
    """The type of an array, in the order of bytes that `__setstate__` gives it."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any):
        if code not in CODES:
            raise DataError(f"holds values of type {code!r}; accepted: {ACCEPTED}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array, which `__setstate__` fills."""

    __slots__ = ("values",)

    def __init__(self, *_: Any):
        self.values = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        shape, kind, fortran, content = state[-4:]
        self.values = _filled(content, kind, shape, "F" if fortran else "C")


def _filled(content: Any, kind: Any, shape: Any, order: str) -> np.ndarray:
    """The array that bytes hold. Raises DataError unless there are as many as its shape needs."""
    if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray):
        raise DataError(f"holds an array of {type(content).__name__}; accepted: {ACCEPTED}")
    axes = isinstance(shape, tuple) and len(shape) <= MAX_AXES
    if not axes or any(type(n) is not int or n < 0 for n in shape):
        raise DataError(f"holds an array of shape {shape!r}; accepted: a few sizes")
    needed = math.prod(shape) * kind.dtype.itemsize
    if needed != len(content):
        raise DataError(f"holds {len(content):,} bytes of an array of {needed:,}; accepted: all")
    return np.frombuffer(content, kind.dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(kind: Any, content: Any) -> Any:
    return _filled(content, kind, (), "C")[()]


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise DataError(f"encodes text as {encoding!r}; accepted: {ACCEPTED}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _refused(*_: Any) -> Any:
    raise DataError(f"calls numpy.ndarray; accepted: {ACCEPTED}")


_CALLS: dict[str, Callable[..., Any]] = {
    "_reconstruct": _Array,
    "ndarray": _refused,  # is only named as what `_reconstruct` makes
    "dtype": _Type,
    "scalar": _scalar,
    "_frombuffer": _filled,
}
# How the oldest protocols write bytes.
_BYTES: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
}


def _plain(value: Any, depth: int = 0) -> Any:
    """Arrays in place of what stands for them, in nested dicts and lists."""
    if depth > MAX_AXES:
        raise DataError(f"is nested {depth} deep; accepted: up to {MAX_AXES}")
    if isinstance(value, dict):
        return {str(key): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in value]
    return value.values if isinstance(value, _Array) else value
