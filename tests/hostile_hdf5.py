"""Hostile HDF5 files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hostile_sources import ROWS, TEN_TB, add, good, source

from worldmodel.data.readers.hdf5 import HDF5Data


def hdf5(folder: Path, change: Callable[[h5py.File], None] = lambda file: None, **arrays: Any):
    with h5py.File(folder / "a.h5", "w") as file:
        for key, value in good(**arrays).items():
            file[key] = value
        change(file)
    return HDF5Data(path=str(folder / "a.h5"))


def _replaced(key: str, change: Callable[[h5py.File], Any]) -> Callable[[Path], HDF5Data]:
    """A file in which something else is in place of one array."""

    def write(folder: Path) -> HDF5Data:
        secret = folder / "elsewhere" / "secret.h5"
        secret.parent.mkdir()
        with h5py.File(secret, "w") as other:
            other["x"] = np.ones((ROWS, 2), np.float32)
        (secret.parent / "secret.bin").write_bytes(bytes(8 * ROWS))
        (folder / "in").mkdir()
        return hdf5(folder / "in", change, **{key: None})

    return write


def _virtual(file_name: str, rows: int = ROWS, name: str = "x") -> Callable[[h5py.File], Any]:
    def change(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((ROWS, 2), np.float32)
        layout[:rows] = h5py.VirtualSource(file_name, name, (ROWS, 2))[:rows]
        file.create_virtual_dataset("observations", layout)

    return change


def _stored(key: str, **options: Any) -> Callable[[h5py.File], Any]:
    return lambda file: file.create_dataset(key, **options)


def _circle(file: h5py.File) -> None:
    group = file.create_group("observations")
    group["again"], group["once"] = group, np.ones((ROWS, 2))


def _partly(file: h5py.File) -> None:
    file.create_dataset("observations", (ROWS, 2), "f4", chunks=(5, 2))[:5] = 1


def _zeros(file: h5py.File) -> None:
    """Chunks of zeros that are compressed 1,000 times, each written as it is stored."""
    shape, chunk = (2**21, 1000), (2**13, 1000)
    data = file.create_dataset("observations", shape, "f4", chunks=chunk, compression=9)
    content = zlib.compress(bytes(2**13 * 4000), 9)
    for row in range(0, shape[0], chunk[0]):
        data.id.write_direct_chunk((row, 0), content)


def _external(file: h5py.File) -> None:
    place = Path(file.filename).parents[1] / "elsewhere" / "secret.bin"
    file.create_dataset("observations", (ROWS, 2), "f4", external=[(str(place), 0, 8 * ROWS)])


def _huge_chunk(file: h5py.File) -> None:
    """Two rows in one chunk of 3 GB, which is read as a whole."""
    data = file.create_dataset(
        "observations", (ROWS, 2), "f4", chunks=(2**28, 3), maxshape=(None, None), compression=9
    )
    data.id.write_direct_chunk((0, 0), zlib.compress(bytes(2**20)))


ITEMS: dict[str, tuple[str, Callable[[h5py.File], Any], str]] = {
    "a group of rewards": ("rewards", lambda f: f.create_group("rewards/x"), "is an HDF5 Group"),
    "an empty group of actions": ("actions", lambda f: f.create_group("actions"), "empty group"),
    "an empty group": ("observations", lambda f: f.create_group("observations"), "empty group"),
    "a named type": (
        "actions",
        lambda f: f.__setitem__("actions", np.dtype("f8")),
        "HDF5 Datatype",
    ),
    "a scalar": ("actions", lambda f: f.__setitem__("actions", 1.0), "is a single number"),
    "no data space": ("actions", lambda f: f.__setitem__("actions", h5py.Empty("f4")), "actions"),
    "text of any length": (
        "rewards",
        lambda f: f.create_dataset("rewards", data=["a"] * ROWS, dtype=h5py.string_dtype()),
        "rewards is object",
    ),
    "lists of any length": (
        "rewards",
        lambda f: f.create_dataset("rewards", (ROWS,), h5py.vlen_dtype(np.float32)),
        "rewards",
    ),
    "references": (
        "rewards",
        lambda f: f.create_dataset("rewards", data=[f.ref] * ROWS, dtype=h5py.ref_dtype),
        "rewards is object",
    ),
    "a compound type": (
        "actions",
        lambda f: f.__setitem__("actions", np.zeros(ROWS, [("x", "f4")])),
        "actions is [(",
    ),
    "opaque bytes": ("actions", lambda f: f.__setitem__("actions", np.zeros(ROWS, "V4")), "is |V4"),
    "2-D marks": (
        "terminals",
        lambda f: f.__setitem__("terminals", np.zeros((ROWS, 2), bool)),
        "terminals has shape",
    ),
    "marks of text of any length": (
        "timeouts",
        lambda f: f.create_dataset("timeouts", data=["no"] * ROWS, dtype=h5py.string_dtype()),
        "timeouts is b'no' in row 0",
    ),
    "observations of 3e38": (
        "observations",
        lambda f: f.__setitem__("observations", np.full((ROWS, 2), 3e38)),
        "accepted: ",
    ),
    "nothing written": (
        "rewards",
        _stored("rewards", shape=(ROWS,), dtype="f4"),
        "0 of the 80 bytes of rewards",
    ),
    "chunks never written": ("observations", _partly, "1 of the 4 chunks of observations"),
    "10 TB claimed": (
        "observations",
        _stored("observations", shape=(ROWS, TEN_TB), dtype="f4", chunks=(1, 1000)),
        "chunks of observations were",
    ),
    "a huge chunk": ("observations", _huge_chunk, "accepted: up to"),
    "8 GB of compressed zeros": ("observations", _zeros, "accepted: up to"),
    "external storage": ("observations", _external, "is stored in another file"),
    "an external link": (
        "observations",
        lambda f: f.__setitem__("observations", h5py.ExternalLink("../elsewhere/secret.h5", "x")),
        "a link to another file",
    ),
    "an external link in a group": (
        "observations",
        lambda f: f.__setitem__("observations/x", h5py.ExternalLink("../elsewhere/secret.h5", "x")),
        "to another file",
    ),
    "a soft link": (
        "actions",
        lambda f: (
            f.__setitem__("u", np.ones((ROWS, 1))),
            f.__setitem__("actions", h5py.SoftLink("/u")),
        ),
        "",
    ),
    "a soft link to nothing": (
        "rewards",
        lambda f: f.__setitem__("rewards", h5py.SoftLink("/none")),
        "missing",
    ),
    "a circle of links": (
        "rewards",
        lambda f: f.__setitem__("rewards", h5py.SoftLink("/rewards")),
        "a circle of links",
    ),
    "a circle of groups": ("observations", _circle, ""),
    "a missing virtual source": ("observations", _virtual("none.h5"), "is assembled of none.h5"),
    "a virtual source elsewhere": (
        "observations",
        _virtual("../elsewhere/secret.h5"),
        "accepted: files in",
    ),
    "half a virtual dataset": ("observations", _virtual(".", 10, "actions"), "20 of its 40"),
    "a virtual source of another shape": (
        "observations",
        _virtual(".", name="actions"),
        "no dataset",
    ),
    "a virtual source of itself": (
        "observations",
        _virtual(".", name="observations"),
        "observations",
    ),
}

add("hdf5", {name: (_replaced(key, change), words) for name, (key, change, words) in ITEMS.items()})


@source("hdf5: an unknown filter", "cannot be read")
def _(folder: Path) -> HDF5Data:
    options = hdf5(folder, _stored("rewards", data=np.ones(ROWS, "f4"), chunks=(5,), shuffle=True),
                   rewards=None)  # fmt: skip
    path = Path(str(options.path))
    content = path.read_bytes()
    place = content.index(b"\x02\x00\x08\x00\x01\x00\x01\x00shuffle")  # filter 2 becomes 31,000
    path.write_bytes(content[:place] + struct.pack("<H", 31_000) + content[place + 2 :])
    return options


@source("hdf5: cut in half", "cannot be read")
def _(folder: Path) -> HDF5Data:
    options = hdf5(folder)
    content = (folder / "a.h5").read_bytes()
    (folder / "a.h5").write_bytes(content[: len(content) // 2])
    return options
