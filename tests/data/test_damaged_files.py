"""Files that are cut off or have wrong bits are read or refused in words, whatever is damaged."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foreign_files
import h5py
import numpy as np
import pytest
from hostile_sources import good
from tables import options as columns
from tables import rows, written

from worldmodel.config import DataOptions
from worldmodel.data import load
from worldmodel.data.readers.hdf5 import HDF5Data
from worldmodel.data.readers.minari import MinariData
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.readers.records import RecordsData
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.rlds_writer import write_rlds
from worldmodel.errors import UserError

SAMPLE = Path(__file__).parent / "samples" / "tfrecord"


def npz(folder: Path) -> DataOptions:
    np.savez(folder / "a.npz", **good())
    return NPZData(path=str(folder / "a.npz"))


def compressed_npz(folder: Path) -> DataOptions:
    np.savez_compressed(folder / "a.npz", **good())
    return NPZData(path=str(folder / "a.npz"))


def hdf5(folder: Path) -> DataOptions:
    with h5py.File(folder / "a.h5", "w") as file:
        for key, value in good().items():
            chunks = {"chunks": True, "compression": "gzip"} if value.ndim > 1 else {}
            file.create_dataset(key, data=value, **chunks)
    return HDF5Data(path=str(folder / "a.h5"))


def records(folder: Path) -> DataOptions:
    for name in ("u_a", "y_a"):
        np.save(folder / f"{name}.npy", np.ones((9, 2)))
    return RecordsData(path=str(folder))


def csv(folder: Path) -> DataOptions:
    table = rows(9, e=list("aaabbbccc"), t=np.arange(9.0))
    return columns(written(folder / "a.csv", table), episode="e", time="t")


def parquet(folder: Path) -> DataOptions:
    table = rows(9, e=list("aaabbbccc"), v=[[1.0, 2.0]] * 9)
    return columns(
        written(folder / "a.parquet", table), episode="e", observations=["x", "v"], reward="y"
    )


def tfrecord(folder: Path) -> DataOptions:
    shutil.copytree(SAMPLE, folder, dirs_exist_ok=True)
    return TFDSData(path=str(folder))


def array_record(folder: Path) -> DataOptions:
    write_rlds(load(npz(folder)), folder / "set", "test", {"environment": "Some-v0"})
    return TFDSData(path=str(folder / "set"))


def minari(format: str) -> Callable[[Path], DataOptions]:
    def write(folder: Path) -> DataOptions:
        module = pytest.importorskip("minari", reason="the extra `minari` is not installed")
        from gymnasium import spaces
        from minari.data_collector import EpisodeBuffer

        episode = EpisodeBuffer(
            id=0, observations=list(np.zeros((6, 2), "f4")), actions=list(np.zeros((5, 1), "f4")),
            rewards=[0.0] * 5, terminations=[False] * 5, truncations=[False] * 4 + [True],
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.setenv("MINARI_DATASETS_PATH", str(folder))
            module.create_dataset_from_buffers(
                "room/test-v0", [episode], observation_space=spaces.Box(-1, 1, (2,)),
                action_space=spaces.Box(-1, 1, (1,)), data_format=format,
            )  # fmt: skip
        return MinariData(dataset="room/test-v0", path=str(folder))

    return write


WRITERS: dict[str, Callable[[Path], DataOptions]] = {
    "npz": npz, "compressed npz": compressed_npz, "hdf5": hdf5, "records": records, "csv": csv,
    "parquet": parquet, "tfrecord": tfrecord, "array_record": array_record,
    **{f"minari {format}": minari(format) for format in ("hdf5", "arrow", "parquet")},
    **foreign_files.WRITERS,
}  # fmt: skip
FILES = {name: 8 if name in ("tfrecord", "array_record") else 40 for name in WRITERS}


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Cuts a file off, flips bits, overwrites or swaps a part, or repeats one."""
    size = len(content)
    begin, length = int(rng.integers(max(size, 1))), int(rng.integers(1, 64))
    changed = bytearray(content)
    match rng.integers(6):
        case 0:
            return content[:begin]
        case 1:
            return content[:begin] + content[begin + length :]
        case 2:
            changed[begin : begin + length] = rng.bytes(len(changed[begin : begin + length]))
        case 3:
            changed[begin : begin + length] = b"\xff" * len(changed[begin : begin + length])
        case _:
            for place in rng.integers(max(size, 1), size=rng.integers(1, 8)):
                changed[place : place + 1] = bytes(
                    b ^ 1 << rng.integers(8) for b in changed[place : place + 1]
                )
    return bytes(changed)


def damaged(options: DataOptions, folder: Path, count: int, seed: int) -> Iterator[Any]:
    """Damages one file at a time, and yields what loading then raises, or None."""
    rng = np.random.default_rng(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    whole = {file: file.read_bytes() for file in files}
    for _ in range(count):
        file = files[rng.integers(len(files))]
        file.write_bytes(damage(whole[file], rng))
        try:
            load(options)
            yield None
        except UserError as error:
            yield error
        file.write_bytes(whole[file])


def check(folder: Path, name: str, count: int, seed: int) -> None:
    options = WRITERS[name](folder)
    options.cache = "never"
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        outcomes = list(damaged(options, folder, count, seed))
    refused = [str(error) for error in outcomes if error is not None]
    assert refused and all(text.strip() for text in refused)


@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_file_is_refused_in_words_or_read(tmp_path: Path, name: str) -> None:
    check(tmp_path, name, FILES[name], seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("name", WRITERS)
def test_many_damaged_files_are_refused_in_words_or_read(
    tmp_path: Path, name: str, seed: int
) -> None:
    check(tmp_path, name, 300, seed)
