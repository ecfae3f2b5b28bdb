"""Hostile sources are refused in words, soon, with little memory, and run none of their code."""

from __future__ import annotations

import importlib
import time
import warnings
from pathlib import Path

import pytest
from hostile_sources import PROOF, SOURCES, Source

from worldmodel.data import load
from worldmodel.data.readers.tfds import prepared_datasets
from worldmodel.errors import UserError

for _format in ("npz", "hdf5", "paths", "tables", "tfds", "minari", "foreign", "lerobot"):
    importlib.import_module(f"hostile_{_format}")


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imports what readers import when they are first used, which takes seconds."""
    importlib.import_module("tensorflow_datasets")
    importlib.import_module("pyarrow.csv")


MAX_SECONDS, MAX_BYTES = 2.0, 300 * 2**20
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, from which modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def peak_bytes() -> int:
    line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def outcome(source: Source, folder: Path) -> str:
    """What loading the source says; '' if it is accepted."""
    if source.write.__module__ == "hostile_minari":
        pytest.importorskip("minari", reason="the extra `minari` is not installed")
    options = source.write(folder)
    options.cache_dir = str(folder / "cache")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(options)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", SOURCES)
def test_a_hostile_source_is_refused_in_words(folder: Path, name: str) -> None:
    RESET.write_text("5")  # the peak becomes the memory in use
    before, began = peak_bytes(), time.process_time()
    said = outcome(SOURCES[name], folder)
    seconds, taken = time.process_time() - began, peak_bytes() - before
    assert SOURCES[name].refusal in said and bool(said) == bool(SOURCES[name].refusal), said
    assert not (folder / PROOF).exists()
    assert taken < MAX_BYTES and seconds < MAX_SECONDS


def test_listing_datasets_runs_none_of_their_code(folder: Path) -> None:
    for name, source in SOURCES.items():
        if name.startswith("tfds: a class"):
            (folder / name).mkdir()
            source.write(folder / name)
    text = "\n".join(prepared_datasets(folder))
    assert text.count("tfds: a class") >= 4 and not (folder / PROOF).exists()
