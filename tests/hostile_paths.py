"""Hostile records and paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from hostile_npz import described, headed, npy, npz
from hostile_sources import TEN_TB, Kinds, add, good

from worldmodel.data.readers.hdf5 import HDF5Data
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.readers.records import RecordsData


def records(folder: Path, u: bytes | None = None, **options: Any) -> RecordsData:
    (folder / "in").mkdir()
    for path in (folder / "in" / "u_a.npy", folder / "u_b.npy"):
        path.write_bytes(u if u is not None else npy(np.ones(9)))
    (folder / "in" / "y_a.npy").write_bytes(npy(np.ones(9)))
    return RecordsData(path=str(folder / "in"), **options)


def _sparse(folder: Path) -> RecordsData:
    options = records(folder, headed(described(f"({TEN_TB // 4},)")))
    for name in ("u_a.npy", "y_a.npy"):
        path = folder / "in" / name
        path.write_bytes(headed(described(f"({TEN_TB // 4},)")))
        os.truncate(path, path.stat().st_size + TEN_TB)
    return options


RECORDS: Kinds = {
    "an absolute pattern": (lambda f: records(f, inputs="/etc/*.npy"), "inside the folder"),
    "an empty pattern": (lambda f: records(f, inputs=""), "is not empty"),
    "a pattern that climbs": (lambda f: records(f, inputs="../u_*.npy"), "inside the folder"),
    "a pattern with a null": (lambda f: records(f, inputs="u\0*"), "null characters"),
    "an invalid pattern": (lambda f: records(f, inputs="**u"), "data.inputs=**u"),
    "10 TB claimed": (
        lambda f: records(f, headed(described(f"({TEN_TB},)"))),
        "u_a.npy: cannot be read",
    ),
    "10 TB of holes": (_sparse, "accepted: up to"),
    "objects": (lambda f: records(f, headed(described("(1,)", "'|O'"), b"cos\n.")), "u_a.npy"),
    "deeply nested header": (lambda f: records(f, headed("(" * 9000)), "u_a.npy: cannot be read"),
    "empty file": (lambda f: records(f, b""), "u_a.npy: cannot be read"),
    "complex numbers": (lambda f: records(f, npy(np.ones(9, complex))), "not an array of numbers"),
    "no samples": (lambda f: records(f, npy(np.ones((0, 3)))), "u_a.npy"),
}

add("records", RECORDS)


def _pipe(folder: Path) -> NPZData:
    os.mkfifo(folder / "a.npz")
    return NPZData(path=str(folder / "a.npz"))


PATHS: Kinds = {
    "too long": (lambda f: NPZData(path=str(f / ("x" * 5000))), "does not exist"),
    "with a null": (lambda f: HDF5Data(path=f"{f}/a\0b"), "null characters"),
    "a pipe": (_pipe, "neither a file nor a folder"),
    "a device": (lambda f: NPZData(path="/dev/zero"), "neither a file nor a folder"),
    "of nobody": (lambda f: NPZData(path="~nobody-of-that-name/x.npz"), "has no home folder"),
    "a pattern too long": (lambda f: NPZData(path=f"{f}/{'x*' * 3000}"), "no file ends in"),
    "an open bracket": (lambda f: NPZData(path=f"{f}/[a.npz"), "no file ends in"),
    "records: too long": (lambda f: RecordsData(path="x" * 5000), "does not exist"),
    "below a file": (lambda f: NPZData(path=str(npz(f, good()).path) + "/x"), "does not exist"),
}

add("path", PATHS)
