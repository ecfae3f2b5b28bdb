"""Hostile sources in formats of other projects."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from foreign_files import dreamer, hdf5_tree, torchrl, zarr_folder
from hostile_npz import zeros_archive
from hostile_sources import CODE, TEN_TB, Write, add, edited

from worldmodel.data.readers.pickles import PickleData
from worldmodel.data.readers.rosbag import RosbagData


def _tree(change: Callable[[h5py.File], Any]) -> Write:
    def write(folder: Path) -> Any:
        options = hdf5_tree(folder)
        with h5py.File(str(options.path), "a") as file:
            change(file)
        return options

    return write


def _replace(key: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[f"data/demo_1/{key}"]
        file[f"data/demo_1/{key}"] = value

    return change


def _virtual(file: h5py.File) -> None:
    del file["data/demo_1/obs/x"]
    layout = h5py.VirtualLayout((5, 2), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (5, 2))
    file.create_virtual_dataset("data/demo_1/obs/x", layout)


def _huge(file: h5py.File) -> None:
    del file["data/demo_1/obs/x"]
    file.create_dataset("data/demo_1/obs/x", (5, TEN_TB), "f4", chunks=(1, 1000))


add(
    "trees",
    {
        "10 TB claimed": (_tree(_huge), "chunks of obs/x were"),
        "a link to another file": (
            _tree(_replace("obs/x", h5py.ExternalLink("other.h5", "x"))),
            "a link to another file",
        ),
        "an episode in another file": (
            _tree(lambda f: f.__setitem__("data/demo_3", h5py.ExternalLink("other.h5", "x"))),
            "a link to another file",
        ),
        "a circle of links": (
            _tree(_replace("rewards", h5py.SoftLink("/data/demo_1/rewards"))),
            "a circle of links",
        ),
        "a circle of groups": (
            _tree(lambda f: f.__setitem__("data/demo_1/obs/y", f["data"])),
            "is new",
        ),
        "text for observations": (_tree(_replace("obs/x", ["a"] * 5)), "obs"),
        "a number for observations": (_tree(_replace("obs/x", 1.0)), "obs/x has shape ()"),
        "a virtual dataset": (_tree(_virtual), "obs/x is assembled of other datasets"),
        "no data space": (_tree(_replace("actions", h5py.Empty("f4"))), "demo_1: has no actions"),
        "a named type": (_tree(_replace("actions", np.dtype("f8"))), "demo_1: has no actions"),
    },
)


def _chunk(change: Callable[[Path], Any]) -> Write:
    def write(folder: Path) -> Any:
        options = dreamer(folder)
        change(sorted(folder.glob("*.npz"))[1])
        return options

    return write


def _add(name: str, content: bytes) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(name, content)

    return change


def _pickled(file: Path) -> None:
    np.savez(file, action=np.array([Path("x"), open], object), allow_pickle=True)


add(
    "dreamer",
    {
        "pickled objects": (_chunk(_pickled), "holds objects"),
        "compressed zeros": (_chunk(lambda file: zeros_archive(file, 3000)), "accepted: up to"),
        "no archive": (_chunk(lambda file: file.write_bytes(b"x" * 99)), "cannot be read"),
        "an empty file": (_chunk(lambda file: file.write_bytes(b"")), "cannot be read"),
        "a member that is no array": (_chunk(_add("x2.npy", b"x" * 99)), "cannot be read"),
        "a path outside": (_chunk(_add("../../x.npy", b"x" * 99)), "cannot be read"),
        "a folder": (_chunk(lambda file: (file.unlink(), file.mkdir())), ""),
    },
)


def _zarr(name: str, change: Callable[[dict[str, Any]], Any]) -> Write:
    """A store of which the metadata of an array are edited."""

    def write(folder: Path) -> Any:
        options = zarr_folder(folder)
        edited(f"{name}/.zarray", change)(Path(str(options.path)))
        return options

    return write


add(
    "zarr",
    {
        "pickle as a filter": (
            _zarr("data/state", lambda m: m.update(filters=[{"id": "pickle"}])),
            "the codec 'pickle'",
        ),
        "pickled objects": (
            _zarr("data/state", lambda m: m.update(dtype="|O", filters=[{"id": "pickle"}])),
            "the codec 'pickle'",
        ),
        "10 TB claimed": (
            _zarr("data/state", lambda m: m.update(shape=[9, TEN_TB])),
            "accepted: up to",
        ),
        "a huge chunk": (
            _zarr("data/state", lambda m: m.update(chunks=[2**30, 3])),
            "accepted: up to",
        ),
        "ends of 10 TB": (
            _zarr("meta/episode_ends", lambda m: m.update(shape=[TEN_TB])),
            "accepted: up to",
        ),
        "negative sizes": (_zarr("data/state", lambda m: m.update(shape=[-9, 3])), "a.zarr"),
        "metadata that are a list": (_zarr("data/action", lambda m: [m]), "one array `action`"),
        "a chunk of another size": (
            _zarr("data/state", lambda m: m.update(dtype="<f8")),
            "cannot be read",
        ),
        "text": (
            _zarr("data/state", lambda m: m.update(dtype="<U1", fill_value="")),
            "rows of numbers",
        ),
    },
)


def _memmap(name: str, change: Callable[[dict[str, Any]], Any]) -> Write:
    """A folder of TorchRL of which the metadata are edited."""

    def write(folder: Path) -> Any:
        options = torchrl(folder)
        edited(name, change)(folder)
        return options

    return write


add(
    "torchrl",
    {
        "10 TB claimed": (
            _memmap("meta.json", lambda m: m["action"].update(shape=[6, TEN_TB])),
            "action has 48 bytes; accepted: 480,",
        ),
        "a batch of 10 TB": (_memmap("meta.json", lambda m: m.update(shape=[TEN_TB])), "accepted:"),
        "negative sizes": (_memmap("meta.json", lambda m: m.update(shape=[-6])), "has shape [-6]"),
        "a key outside": (
            _memmap("meta.json", lambda m: m.update({"../a": {"dtype": "x"}})),
            "",
        ),
        "a list for metadata": (_memmap("next/meta.json", lambda m: [m]), "cannot be read"),
        "a pickled type": (_memmap("meta.json", lambda m: m.update(_type="os.system")), ""),
    },
)


def _pickle(content: bytes) -> Write:
    def write(folder: Path) -> Any:
        (folder / "a.pkl").write_bytes(content)
        return PickleData(path=str(folder / "a.pkl"))

    return write


def _array(shape: bytes) -> bytes:
    """An array of a shape that is built with one byte."""
    kind = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    return made + b"(I1\n" + shape + kind + b"I0\nC\x01xtb."


add(
    "pickle",
    {
        "a call": (_pickle(b"cbuiltins\nexec\n(S" + repr(CODE).encode() + b"\ntR."), "exec"),
        "a call of ndarray": (
            _pickle(b"cnumpy\nndarray\n((I1000000000000\nttR."),
            "calls numpy.ndarray",
        ),
        "an instance": (_pickle(b"(S'1'\nibuiltins\neval\n."), "that INST makes"),
        "a reference": (_pickle(b"Px\n."), "that PERSID makes"),
        "an extension": (_pickle(b"\x82\x01."), "that EXT1 makes"),
        "a changed function": (
            _pickle(b"cnumpy\ndtype\n(N}S'__defaults__'\nNstb."),
            "changes numpy.dtype",
        ),
        "10 TB claimed": (_pickle(_array(b"(I%d\nt" % TEN_TB)), "holds 1 bytes of an array of"),
        "10 TB of text": (
            _pickle(b"\x8d" + TEN_TB.to_bytes(8, "little") + b"x."),
            "bytes on, where it claims 10,",
        ),
        "negative sizes": (_pickle(_array(b"(I-1\nI-1\nt")), "of shape (-1, -1)"),
        "a far place": (_pickle(b"Nr\xff\xff\xff\x7f."), "keeps its value 2 in place"),
        "deep lists": (_pickle(b"]" * 9_999 + b"a" * 9_998 + b"."), "nested"),
        "a list of itself": (_pickle(b"]q\x00h\x00a."), "nested"),
        "empty lists": (_pickle(b"(" + b"]" * 99 + b"l."), "a list of an empty list"),
        "a missing end": (_pickle(b"]"), "where it claims 1"),
        "nothing": (_pickle(b""), "where it claims 1"),
    },
)


def _bag(definition: str, *messages: bytes, kind: str = "bad_msgs/msg/Bad") -> Write:
    """A bag of one topic, with a definition and messages of our own."""

    def write(folder: Path) -> Any:
        rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="the extra is not installed")
        plugin = rosbag2.StoragePlugin.MCAP
        with rosbag2.Writer(folder / "a", version=9, storage_plugin=plugin) as writer:
            bad = writer.add_connection("/bad", kind, msgdef=definition, rihs01="RIHS01_0")
            for number, message in enumerate(messages):
                writer.write(bad, 10**8 * number, b"\0\1\0\0" + message)
        fields = {"observations": ["/bad/x"], "actions": ["/bad/x"]}
        return RosbagData(path=str(folder / "a"), rate=10.0, **fields)

    return write


def _metadata(old: str, new: str) -> Write:
    """A bag of which the metadata are edited."""

    def write(folder: Path) -> Any:
        options = _bag("float64 x", bytes(8), bytes(8), bytes(8))(folder)
        file = folder / "a" / "metadata.yaml"
        file.write_text(file.read_text().replace(old, new, 1))
        return options

    return write


INJECTED = f"""Bad"]; {CODE} #"""

add(
    "rosbag",
    {
        "a message cut short": (_bag("float64 x", *[b"abc"] * 3), "cannot be read"),
        "4 GB of numbers": (_bag("float64[] x", *[b"\xff" * 9] * 3), "values beyond its end"),
        "4 billion messages": (_bag("Bad[] x", *[b"\xff" * 9] * 3), "values beyond its end"),
        "a type inside itself": (_bag("Bad x", *[bytes(9)] * 3), "inside of itself"),
        "a type that is missing": (_bag("Other x", *[bytes(9)] * 3), "is not defined"),
        "a huge array": (_bag(f"float64[{TEN_TB}] x", *[bytes(9)] * 3), "beyond its end"),
        "code as a type": (
            _bag("float64 x", *[bytes(8)] * 3, kind=f"bad_msgs/msg/{INJECTED}"),
            "a",
        ),
        "code as a field": (_bag(f"float64 x; {CODE}", *[bytes(8)] * 3), "a"),
        "a tag of Python": (
            _metadata("version: 9", f"version: !!python/object/apply:exec [{CODE!r}]"),
            "a",
        ),
        "a file elsewhere": (_metadata("- a.mcap", "- ../../a/a.mcap"), ""),
        "no messages": (_bag("float64 x"), "no message of /bad"),
    },
)
