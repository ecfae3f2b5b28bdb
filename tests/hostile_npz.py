"""Hostile NumPy archives."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hostile_sources import ROWS, TEN_TB, add, good, source

from worldmodel.data.readers.npz import NPZData


def npz(folder: Path, arrays: dict[str, Any], **kind: Any) -> NPZData:
    with zipfile.ZipFile(folder / "a.npz", "w", **kind) as archive:
        for name, value in arrays.items():
            archive.writestr(f"{name}.npy", value if isinstance(value, bytes) else npy(value))
    return NPZData(path=str(folder / "a.npz"))


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def headed(header: str, content: bytes = b"", version: int = 1) -> bytes:
    """An array file with a header of our own."""
    text = header.encode() + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + content


def described(shape: str, dtype: str = "'<f4'", order: bool = False) -> str:
    return f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}"


def pngs(width: int, content: bytes = b"") -> dict[str, Any]:
    """`ROWS` PNG images that claim to be so wide, and as high."""
    start = struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, value in ((b"IHDR", start), (b"IDAT", zlib.compress(content)), (b"IEND", b"")):
        data += struct.pack(">I", len(value)) + kind + value
        data += struct.pack(">I", zlib.crc32(kind + value))
    images = {
        "png": np.frombuffer(data * ROWS, np.uint8),
        "offsets": np.arange(ROWS + 1) * len(data),
    }
    return good(observations=None) | images


ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "2-D marks": (good(terminals=np.zeros((ROWS, 2), bool)), "terminals has shape (20, 2)"),
    "marks of 1e300": (good(terminals=np.full(ROWS, 1e300)), "terminals is 1e+300 in row 0"),
    "objects as marks": (good(terminals=np.array([{}] * ROWS, object)), "holds objects"),
    "actions of several names": (
        good(actions=None) | {"actions/a": np.ones((ROWS, 1)), "actions/b": np.ones((ROWS - 1, 1))},
        "actions/a has 20, actions/b has 19 rows",
    ),
    "episodes that return": (
        good(episode_id=np.arange(ROWS) % 2),
        "episode_id is 0 again in row 2",
    ),
    "episodes of another length": (good(episode_id=np.arange(3)), "episode_id has shape (3,)"),
    "environments without marks": (
        good(
            terminals=None,
            timeouts=None,
            rewards=None,
            observations=np.ones((4, 5, 2)),
            actions=np.ones((4, 5, 1)),
        ),
        "data.axes=time_environments",
    ),
    "structured marks": (
        good(terminals=np.zeros(ROWS, [("a", bool), ("b", bool)])),
        "terminals is [(",
    ),
    "text marks": (good(timeouts=np.full(ROWS, "no")), "timeouts is 'no' in row 0; accepted: true"),
    "structured actions": (good(actions=np.zeros(ROWS, [("a", "f4")])), "actions is [("),
    "complex actions": (good(actions=np.zeros((ROWS, 1), complex)), "actions is complex128"),
    "images of 81,000,000 pixels": (pngs(9_000), "image 0 has 9000 x 9000 pixels"),
    "images of no content": (pngs(64), "image 0 cannot be decoded"),
    "offsets of images beyond their bytes": (
        pngs(64) | {"offsets": np.arange(ROWS + 1) * 2**60},
        "rise from 0 to",
    ),
    "dates as observations": (good(observations=np.zeros((ROWS, 2), "M8[s]")), "is datetime64"),
    "observations of 3e38": (good(observations=np.full((ROWS, 2), 3e38)), "accepted: "),
    "observations of 1e300": (good(observations=np.full((ROWS, 2), 1e300)), "is not finite"),
    "rewards of 3e38": (good(rewards=np.full(ROWS, 3e38)), "accepted: "),
    "actions of 3e38": (good(actions=np.full((ROWS, 1), 3e38)), "accepted: "),
    "time stamps as actions": (
        good(actions=np.arange(ROWS) + 1_732_000_000),
        "integers (1,732,000,000 to 1,732,000,019)",
    ),
    "nanoseconds as actions": (good(actions=np.arange(ROWS) + 1_732 * 10**15), "accepted: classes"),
    "counts as actions": (
        good(actions=np.arange(ROWS)[:, None] * 10**8),
        "integers (0 to 1,900,000,000)",
    ),
    "unsigned actions": (good(actions=np.full(ROWS, 2**63, np.uint64)), "accepted: classes"),
    "lengths beyond the rows": (
        good(terminals=None, timeouts=None, lengths=np.array([2**62] * 4)),
        "accepted: integers",
    ),
    "unsigned lengths": (
        good(terminals=None, timeouts=None, lengths=np.array([2**63 + 10, 2**63 + 10], np.uint64)),
        "accepted: integers",
    ),
    "structured lengths": (
        good(terminals=None, timeouts=None, lengths=np.zeros(2, [("a", int)])),
        "lengths is [(",
    ),
    "2-D lengths": (
        good(terminals=None, timeouts=None, lengths=np.full((2, 2), 5)),
        "lengths is int64 of shape (2, 2)",
    ),
    "no lengths": (
        good(terminals=None, timeouts=None, lengths=np.zeros(0, int)),
        "lengths sum to 0",
    ),
    "2-D starts": (
        good(terminals=None, timeouts=None, episode_starts=np.ones((ROWS, 3), bool)),
        "episode_starts has shape",
    ),
    "observations without columns": (good(observations=np.zeros((ROWS, 0))), "observation"),
    "actions without columns": (good(actions=np.zeros((ROWS, 0))), "action"),
    "a name that is empty": (good(observations=None) | {"observations/": np.ones((ROWS, 2))}, ""),
    "a name that climbs": (
        good(observations=None) | {"observations/../../x": np.ones((ROWS, 2))},
        "",
    ),
    "a name with control characters": (
        good(observations=None) | {"observations/\x1b[31m": np.ones((ROWS, 2))},
        "",
    ),
    "observations of many axes": (good(observations=np.ones((ROWS,) + (1,) * 30)), ""),
    "big-endian and Fortran": (good(observations=np.asfortranarray(np.ones((ROWS, 3), ">f8"))), ""),
    "long double": (good(rewards=np.ones(ROWS, np.longdouble)), ""),
    "empty archive": ({}, "has no observations and no actions"),
    "no array": (good() | {"rewards": b"hello"}, "rewards.npy"),
    "empty member": (good() | {"actions": b""}, "actions.npy"),
    "half a header": (good() | {"actions": npy(np.ones(9))[:30]}, "actions.npy"),
    "fewer bytes than claimed": (good() | {"rewards": npy(np.ones(ROWS))[:-8]}, "rewards.npy"),
    "more bytes than claimed": (good() | {"rewards": npy(np.ones(ROWS)) + b"more"}, "rewards.npy"),
    "deeply nested header": (
        good() | {"actions": headed("(" * 9000 + ")" * 900)},
        "actions.npy: cannot be read",
    ),
    "nested list as header": (good() | {"actions": headed("[" * 4000 + "]" * 4000)}, "actions.npy"),
    "header of 60 kB": (good() | {"actions": headed("1," * 30_000)}, "actions.npy"),
    "header of 4 GB": (
        good() | {"actions": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 99},
        "actions.npy",
    ),
    "header that is code": (
        good() | {"actions": headed("__import__('os').system('true')")},
        "actions.npy",
    ),
    "unknown version": (good() | {"actions": headed("{}", version=9)}, "actions.npy"),
    "10 TB claimed": (
        good() | {"actions": headed(described(f"({TEN_TB},)"))},
        "actions.npy: holds",
    ),
    "10 TB of one type": (
        good() | {"actions": headed(described("(1,)", f"'({TEN_TB // 4},)f4'"))},
        "actions.npy",
    ),
    "sizes that overflow": (
        good() | {"actions": headed(described("(4294967296, 4294967296, 2)"))},
        "actions.npy",
    ),
    "negative shape": (good() | {"actions": headed(described("(-3, 2)"))}, "actions.npy"),
    "shape of a truth": (good() | {"actions": headed(described("(True, 2)"))}, "actions.npy"),
    "shape of a fraction": (good() | {"actions": headed(described("(2.5,)"))}, "actions.npy"),
    "objects": (good() | {"actions": headed(described("(1,)", "'|O'"), b"cos\n.")}, "objects"),
    "an unknown type": (good() | {"actions": headed(described("(1,)", "'<q9'"))}, "actions.npy"),
}

add("npz", {name: (partial(npz, arrays=arrays), words) for name, (arrays, words) in ARRAYS.items()})


def patched(folder: Path, change: Callable[[bytearray, zipfile.ZipInfo], None], **kind) -> NPZData:
    """An archive whose bytes are changed at the member `actions`."""
    options = npz(folder, good(), **kind)
    path = Path(str(options.path))
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("actions.npy")
    content = bytearray(path.read_bytes())
    change(content, member)
    path.write_bytes(content)
    return options


def both_headers(content: bytearray, member: zipfile.ZipInfo, local: int, value: bytes) -> None:
    """Sets a field of the local header, and the same of the central directory."""
    central = content.index(b"actions.npy", member.header_offset + 40) - 46
    for place in (member.header_offset + local, central + local + 2):
        content[place : place + len(value)] = value


@source("npz: encrypted member", "actions.npy: cannot be read")
def _(folder: Path) -> NPZData:
    return patched(folder, lambda content, m: both_headers(content, m, 6, b"\x01\x00"))


@source("npz: unknown compression", "actions.npy: cannot be read")
def _(folder: Path) -> NPZData:
    return patched(folder, lambda content, m: both_headers(content, m, 8, b"\x63\x00"))


def _scramble(content: bytearray, member: zipfile.ZipInfo) -> None:
    start = member.header_offset + 30 + len("actions.npy")
    content[start + 9 : start + member.compress_size] = b"\xa5" * (member.compress_size - 9)


for _kind in ("DEFLATED", "BZIP2", "LZMA", "STORED"):
    source(f"npz: damaged {_kind.lower()} member", "actions.npy")(
        lambda folder, kind=_kind: patched(
            folder, _scramble, compression=getattr(zipfile, f"ZIP_{kind}")
        )
    )


def zeros_archive(path: Path, size: int) -> None:
    """Compressed zeros of so many MiB, in a few bytes per MiB, without compressing them all."""
    header = headed(described(f"({size * 2**18}, 1)"))
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = deflate.compress(header) + deflate.flush(zlib.Z_FULL_FLUSH)
    block = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in good(observations=None, actions=None).items():
            archive.writestr(f"{name}.npy", npy(array))
        for name in ("observations", "actions"):
            content = first + block * size + b"\x03\x00"
            archive.writestr(f"{name}.npy", content)
            member = archive.getinfo(f"{name}.npy")  # of the central directory, which is read
            member.compress_type = zipfile.ZIP_DEFLATED
            member.file_size, member.CRC = len(header) + size * 2**20, 0
    with zipfile.ZipFile(path) as archive:
        members = [archive.getinfo(f"{name}.npy") for name in ("observations", "actions")]
    content = bytearray(path.read_bytes())
    for member in members:
        content[member.header_offset + 8 : member.header_offset + 10] = b"\x08\x00"
    path.write_bytes(content)


@source("npz: 6 GB of compressed zeros", "accepted: up to")
def _(folder: Path) -> NPZData:
    zeros_archive(folder / "a.npz", 3000)
    return NPZData(path=str(folder / "a.npz"))


@source("npz: a truncated directory", "cannot be read")
def _(folder: Path) -> NPZData:
    return patched(folder, lambda content, _: content.__delitem__(slice(-30, None)))
