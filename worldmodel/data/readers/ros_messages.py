"""Messages of ROS as nested dicts, by the definitions that come with a bag.

Definitions are read as data: nothing is generated or run. ROS 2 lays messages out as CDR, which
aligns every number to its size; ROS 1 packs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from worldmodel.errors import DataError, did_you_mean

NUMBERS = {
    **{"bool": "u1", "byte": "u1", "char": "u1", "octet": "u1", "float32": "f4", "float64": "f8"},
    **{f"int{bits}": f"i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits // 8}" for bits in (8, 16, 32, 64)},
}
MAX_DEPTH = 32  # of types inside of one another
HEADER = "header"  # is no part of a message's numbers

Definitions = Mapping[str, Any]  # type -> (constants, [(field, description)])


class Decoder:
    """Decodes the messages of one type.

    Args:
        definitions: of all types, as `rosbags` parses them
        kind: the type
        packed: as in ROS 1; else CDR
    """

    def __init__(self, definitions: Definitions, kind: str, packed: bool):
        if kind not in definitions:
            raise DataError(f"its type {kind} is not defined in the bag; accepted: ROS 2's own too")
        self.definitions, self.kind, self.packed = definitions, kind, packed
        self.raw, self.position, self.order = b"", 0, "<"

    def decode(self, raw: bytes) -> dict[str, Any]:
        """The fields of a message; arrays of numbers are NumPy's."""
        self.raw, self.position, self.order = raw, 0, "<"
        if not self.packed:
            if len(raw) < 4 or raw[0] or raw[1] > 1:
                raise DataError(f"a message of {self.kind} is not plain CDR; accepted: that alone")
            self.order, self.position = "<>"[raw[1] == 0], 4
        return self._struct(self.kind, 0)

    def _struct(self, kind: str, depth: int) -> dict[str, Any]:
        if kind not in self.definitions or depth > MAX_DEPTH:
            raise DataError(f"{kind} is not defined, or inside of itself; accepted: plain types")
        return {name: self._value(what, depth) for name, what in self.definitions[kind][1]}

    def _value(self, description: Any, depth: int) -> Any:
        node, what = int(description[0]), description[1]
        if node == 1:
            return self._text() if what[0] == "string" else self._numbers(what[0], 1)[0]
        if node == 2:
            return self._struct(what, depth + 1)
        inner = what[0]
        count = what[1] if node == 3 else int(self._numbers("uint32", 1)[0])
        if count > len(self.raw) - self.position:
            raise DataError(f"a message of {self.kind} claims {count:,} values beyond its end")
        if int(inner[0]) == 1 and inner[1][0] != "string":
            return self._numbers(inner[1][0], count)
        return [self._value(inner, depth + 1) for _ in range(count)]

    def _numbers(self, name: str, count: int) -> np.ndarray:
        if name not in NUMBERS:
            raise DataError(f"{self.kind} holds {name}; accepted: {', '.join(NUMBERS)}")
        dtype = np.dtype(f"{self.order}{NUMBERS[name]}")
        if not self.packed and count:
            self.position += -(self.position - 4) % dtype.itemsize
        values = (
            np.frombuffer(self.raw, dtype, count, self.position) if count else np.zeros(0, dtype)
        )
        self.position += values.nbytes
        return values

    def _text(self) -> str:
        size = int(self._numbers("uint32", 1)[0])
        if size > len(self.raw) - self.position:
            raise DataError(f"a message of {self.kind} claims {size:,} bytes beyond its end")
        text = bytes(self.raw[self.position : self.position + size])
        self.position += size
        return text.rstrip(b"\0").decode(errors="replace")


def check_field(definitions: Definitions, kind: str, field: Sequence[str], topic: str) -> None:
    """Raises DataError, with the fields that there are, if a message has no such field."""
    description: Any = (2, kind)
    for depth, part in enumerate(field):
        where = "/".join([topic, *field[:depth]])
        node, what = int(description[0]), description[1]
        if node == 2:
            fields = dict(definitions[what][1]) if what in definitions else {}
            if part not in fields:
                hint = did_you_mean(part, fields)
                names = ", ".join(fields) or "none"
                raise DataError(f"{where} has no field {part}{hint}; accepted: {names}")
            description = fields[part]
        elif node in (3, 4) and part.isdecimal():
            description = what[0]
        else:
            accepted = "the number of an entry" if node in (3, 4) else "no further name"
            raise DataError(f"{where}/{part}: accepted after {where}: {accepted}")


def numbers_of(value: Any, field: Sequence[str], name: str) -> np.ndarray:
    """(D,) the numbers of a field, end to end, without headers and text."""
    for part in field:
        try:
            value = value[int(part)] if part.isdecimal() else value[part]
        except (IndexError, KeyError, TypeError):
            raise DataError(f"{name}: a message has no entry {part}") from None
    found = list(_leaves(value))
    if not found:
        raise DataError(f"{name} holds no numbers; accepted: a field with numbers")
    return np.concatenate(found)


def _leaves(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != HEADER:
                yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif not isinstance(value, str):
        yield np.asarray(value, np.float64).reshape(-1)


# Encoding of an image -> type of its numbers, channels, and whether blue comes first.
ENCODINGS = {
    **{"rgb8": ("u1", 3, False), "bgr8": ("u1", 3, True), "mono8": ("u1", 1, False)},
    **{"rgba8": ("u1", 4, False), "bgra8": ("u1", 4, True), "mono16": ("u2", 1, False)},
    **{"rgb16": ("u2", 3, False), "bgr16": ("u2", 3, True), "16UC1": ("u2", 1, False)},
    **{"8UC1": ("u1", 1, False), "8UC3": ("u1", 3, False), "32FC1": ("f4", 1, False)},
}


def image_of(message: Mapping[str, Any], name: str) -> np.ndarray:
    """(height, width, channels) of a raw image, red first."""
    encoding = message["encoding"]
    if encoding not in ENCODINGS:
        raise DataError(f"{name} is encoded as {encoding}; accepted: {', '.join(ENCODINGS)}")
    code, channels, blue_first = ENCODINGS[encoding]
    dtype = np.dtype(code).newbyteorder(">" if message["is_bigendian"] else "<")
    height, width, step = (int(message[key]) for key in ("height", "width", "step"))
    row, data = width * channels * dtype.itemsize, message["data"]
    if not 0 < row <= step or height < 1 or len(data) < height * step:
        raise DataError(
            f"{name} has {len(data):,} bytes for {height} rows of {step}; accepted: {row} or more "
            "a row, and all of them"
        )
    rows = np.ascontiguousarray(data[: height * step].reshape(height, step)[:, :row])
    image = rows.view(dtype).reshape(height, width, channels)
    return image[..., [2, 1, 0, 3][:channels]] if blue_first else image


def compressed_image_of(message: Mapping[str, Any], name: str) -> bytes:
    """The bytes of a JPEG or PNG image."""
    content = message["data"].tobytes()
    if not content.startswith((b"\xff\xd8", b"\x89PNG")):
        raise DataError(f"{name} is compressed as {message['format']!r}; accepted: JPEG and PNG")
    return content
