"""Decoded datasets on disk: written whole or not at all, and verified whenever they are opened."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from worldmodel.data import Episode, Trajectories, load, stack_episodes
from worldmodel.data.commands import run
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.readers.hdf5 import HDF5Data
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.rlds_writer import write_rlds
from worldmodel.errors import StorageError
from worldmodel.system.storage import atomic_folder

LENGTHS = [30, 7, 3]


def logs() -> Trajectories:
    rng = np.random.default_rng(0)
    episodes = (
        Episode({"x": rng.normal(size=(n, 3))}, rng.normal(size=(n - 1, 2)), np.ones(n - 1), n == 7)
        for n in LENGTHS
    )
    return stack_episodes(episodes, "logs")


def entry_of(folder: Path) -> Path:
    (found,) = (folder / "decoded").iterdir()
    return found


def test_a_dataset_is_decoded_once_and_other_files_are_decoded_again(tmp_path: Path) -> None:
    write_rlds(logs(), tmp_path / "set", "set")
    options = TFDSData(path=str(tmp_path / "set"), cache="always", cache_dir=str(tmp_path))
    first = load(options)
    written = (entry_of(tmp_path) / "meta.json").stat().st_mtime_ns
    again = load(options)
    assert (entry_of(tmp_path) / "meta.json").stat().st_mtime_ns == written
    assert (
        first.fingerprint()
        == again.fingerprint()
        == load(TFDSData(path=str(tmp_path / "set"), cache="never")).fingerprint()
    )

    other = tmp_path / "other"
    write_rlds(logs().select(np.array([1, 0])), other, "set")
    for path in (tmp_path / "set").iterdir():
        path.unlink()
    for path in other.iterdir():
        path.rename(tmp_path / "set" / path.name)
    assert load(options).lengths.tolist() == [7, 30]
    assert len(list((tmp_path / "decoded").iterdir())) == 2


def test_what_a_killed_process_left_is_removed_and_never_read(tmp_path: Path) -> None:
    write_rlds(logs(), tmp_path / "set", "set")
    options = TFDSData(path=str(tmp_path / "set"), cache="always", cache_dir=str(tmp_path))
    load(options)
    whole = entry_of(tmp_path)
    gone = max(int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()) + 10_000
    left = whole.rename(whole.with_name(f".{whole.name}.{platform.node()}.{gone}-abc"))
    (left / "meta.json").unlink()
    assert load(options).lengths.tolist() == LENGTHS
    assert not left.exists() and (entry_of(tmp_path) / "meta.json").exists()


def test_concurrent_writers_leave_one_entry(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    with atomic_folder(target) as mine:
        with atomic_folder(target) as theirs:
            (theirs / "meta.json").write_text("theirs")
        (mine / "meta.json").write_text("mine")
    assert (target / "meta.json").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["kept"]


# ------------------------------------------------------------------------------------------ damage


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> NPZData:
    """Options of an archive whose decoded form is stored."""
    folder = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(60, 3)), rng.normal(size=(57, 2))
    lengths = np.array([19, 19, 19])
    np.savez(folder / "a.npz", observations=steps[0], actions=steps[1], lengths=lengths,
             rewards=np.ones(57), terminated=np.array([True, False, False]))  # fmt: skip
    return NPZData(path=str(folder / "a.npz"), cache="always", cache_dir=str(folder))


def overwrite(file: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray(file.read_bytes())
    change(content)
    file.write_bytes(content)


def flip(content: bytearray, at: int = -3) -> None:
    content[at] ^= 1


def replace(old: bytes, new: bytes) -> Callable[[Path], None]:
    """Edits meta.json."""

    def edit(entry: Path) -> None:
        text = (entry / "meta.json").read_bytes()
        assert old in text
        (entry / "meta.json").write_bytes(text.replace(old, new, 1))

    return edit


def swap(entry: Path) -> None:
    (entry / "0.bin").rename(entry / "x")
    (entry / "1.bin").rename(entry / "0.bin")
    (entry / "x").rename(entry / "1.bin")


DAMAGES = {
    "a zeroed column": lambda e: (e / "1.bin").write_bytes(bytes((e / "1.bin").stat().st_size)),
    "a flipped bit": lambda e: overwrite(e / "0.bin", flip),
    "a shorter column": lambda e: overwrite(e / "0.bin", lambda c: c.__delitem__(slice(-8, None))),
    "a longer column": lambda e: overwrite(e / "0.bin", lambda c: c.extend(bytes(8))),
    "an empty column": lambda e: (e / "0.bin").write_bytes(b""),
    "a missing column": lambda e: (e / "0.bin").unlink(),
    "a folder for a column": lambda e: ((e / "0.bin").unlink(), (e / "0.bin").mkdir()),
    "two columns swapped": swap,
    "edited lengths": replace(b"[20, 20, 20]", b"[20, 30, 10]"),
    "an edited type": replace(b"float32", b"float16"),
    "an edited file name": replace(b"0.bin", b"../0.bin"),
    "no meta.json": lambda e: (e / "meta.json").unlink(),
    "half of meta.json": lambda e: overwrite(e / "meta.json", lambda c: c.__delitem__(slice(200))),
    "bytes for meta.json": lambda e: (e / "meta.json").write_bytes(b"\xff\xfe\x00"),
    "another JSON": lambda e: (e / "meta.json").write_text("[]"),
    "an empty entry": lambda e: [file.unlink() for file in e.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_decoded_again(
    archive: NPZData, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    expected = load(archive)
    digest, names = expected.fingerprint(), sorted(os.listdir(archive.cache_dir))
    DAMAGES[damage](entry_of(Path(archive.cache_dir)))
    caplog.clear()
    again = load(archive)
    assert len(caplog.records) == 1 and "the data are decoded again" in caplog.text
    assert again.digest == digest
    assert again.select(np.arange(3)).fingerprint() == digest  # computed from the steps
    assert sorted(os.listdir(archive.cache_dir)) == names
    entry_of(Path(archive.cache_dir))  # nothing else is left
    load(archive)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("parts", [1, 2])
def test_sources_of_a_virtual_dataset_are_part_of_the_key(tmp_path: Path, parts: int) -> None:
    layout = h5py.VirtualLayout((20, 1), "f4")
    with h5py.File(tmp_path / "source.raw", "w") as file:
        file["x"] = np.zeros((20, 1), "f4")
    for part in [slice(20)] if parts == 1 else [slice(10), slice(10, 20)]:
        whole = h5py.VirtualSource("source.raw", "x", (20, 1))
        layout[part] = whole if parts == 1 else whole[part]
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_virtual_dataset("observations", layout)
        file["actions"], file["terminals"] = np.ones((20, 1)), np.arange(20) == 19
    options = HDF5Data(path=str(tmp_path / "a.hdf5"), cache="always", cache_dir=str(tmp_path))
    assert load(options).observations["observation"].max() == 0
    with h5py.File(tmp_path / "source.raw", "a") as file:
        file["x"][5] = 9
    assert load(options).observations["observation"].max() == 9


# ------------------------------------------------------------------------------------- full disks


def test_a_full_disk_leaves_no_part_of_a_dataset(
    small_disk: Path, remount: Callable[[str], None], archive: NPZData
) -> None:
    remount("size=64k")
    collected = GymnasiumData(environment="CartPole-v1", episodes=90, cache_dir=str(small_disk))
    with pytest.raises(StorageError, match="cannot be written: No space left on device"):
        load(collected)
    big = small_disk.parent / "big.npz"
    rng = np.random.default_rng(0)
    np.savez(big, observations=rng.normal(size=(9001, 3)), actions=np.ones((9000, 1)))
    with pytest.raises(StorageError, match="cannot be written: No space left on device"):
        run(["convert", str(big), str(small_disk / "native")])
    with pytest.raises(StorageError, match="cannot be written: No space left on device"):
        load(NPZData(path=str(big), cache="always", cache_dir=str(small_disk)))
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []


def test_a_cached_dataset_repeats_what_its_reader_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, rows = str(tmp_path / "log.npz"), np.arange(20.0)
    last = np.arange(20) % 10 == 9
    np.savez(path, observations=rows, actions=rows[:, None], timeouts=last, battery=rows)
    options = NPZData(path=path, cache="always", cache_dir=str(tmp_path))
    said = []
    for _ in range(2):
        caplog.clear()
        load(options)
        said.append(caplog.messages)
    assert sum("battery" in message for message in said[0]) == 1
    assert sorted(said[0]) == sorted(said[1])
