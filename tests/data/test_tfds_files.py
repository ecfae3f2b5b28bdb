"""TFRecord files and damaged ArrayRecord files: what is readable is read, and the rest reported."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rlds_datasets import LENGTHS, logs, refused

from worldmodel.data import load
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.rlds_writer import write_rlds
from worldmodel.errors import DataError

# ------------------------------------------------------------------------------------ TFRecord

# Written by TFDS itself, with TensorFlow: samples/make_tfrecord.py, which says what is in it. Two
# files of two episodes each.
SAMPLE = Path(__file__).parent / "samples" / "tfrecord"
FIRST_FILE, SECOND_FILE = (f"sample-train.tfrecord-0000{i}-of-00002" for i in (0, 1))


def test_tfrecord_is_read(caplog):
    read = load(TFDSData(path=str(SAMPLE)))
    assert read.lengths.tolist() == [4, 3, 5, 2]
    assert read.terminated.tolist() == [False, True, False, False]
    where = [(e, r) for e, rows in enumerate(read.lengths) for r in range(rows)]
    assert read.observations["position"].tolist() == [list(row) for row in where]
    camera = read.observations["camera"]
    assert camera.shape == (14, 4, 6, 3) and camera.dtype == np.uint8
    assert camera[..., 0, 0, 0].tolist() == [10 * e + r for e, r in where]
    assert np.all(camera == camera[:, :1, :1, :1])
    assert "observation 'objects' is not numeric" in caplog.text
    assert read.observations.keys() == {"camera", "position"}
    assert read.rewards.tolist() == [0, 1, 2, 0] + [0, 1, 0] + [0, 1, 2, 3, 0] + [0, 0]
    np.testing.assert_array_equal(read.actions[4:7], np.float32([[0, -1], [0.1, -1], [0, 0]]))


WITHOUT_TENSORFLOW = """
import sys
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data import load
assert load(TFDSData(path=sys.argv[1])).num_episodes == 4
assert "tensorflow" not in sys.modules
"""


def test_tfrecord_needs_no_tensorflow():
    subprocess.run([sys.executable, "-c", WITHOUT_TENSORFLOW, str(SAMPLE)], check=True)


@pytest.mark.parametrize(
    ("split", "lengths"),
    [("train[:50%]", [4, 3]), ("train[1:3]", [3, 5]), ("train[-1:]", [2]), ("all", [4, 3, 5, 2])],
)
def test_a_part_of_a_split_may_begin_and_end_inside_tfrecord_files(split, lengths):
    assert load(TFDSData(path=str(SAMPLE), split=split)).lengths.tolist() == lengths


def test_an_empty_part_of_a_split_is_refused():
    with pytest.raises(DataError, match=r"split 'train\[:0\]' holds no episodes"):
        load(TFDSData(path=str(SAMPLE), split="train[:0]"))


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_tfrecord_file_is_reported_and_the_rest_is_read(share):
    whole = (SAMPLE / FIRST_FILE).read_bytes()
    first_record = 16 + int.from_bytes(whole[:8], "little")  # its length, checksums and bytes
    cut = int(share * len(whole))
    left = [4, 5, 2] if cut >= first_record else [5, 2]
    with tempfile.TemporaryDirectory() as root:
        folder = shutil.copytree(SAMPLE, Path(root) / "set")
        (folder / FIRST_FILE).write_bytes(whole[:cut])
        refused(folder, f"record 1 of {FIRST_FILE} cannot be read .*truncated")
        read = load(TFDSData(path=str(folder), on_invalid_episode="skip"))
    assert read.lengths.tolist() == left
    assert read.name(len(left) - 1) == "episode 3"  # names do not change


def test_a_damaged_tfrecord_file_is_reported_and_the_rest_is_read(tmp_path):
    folder = shutil.copytree(SAMPLE, tmp_path / "set")
    records = bytearray((folder / SECOND_FILE).read_bytes())
    records[12] ^= 0xFF  # the first byte of the first record
    (folder / SECOND_FILE).write_bytes(records)
    refused(folder, f"episode 2: record 0 of {SECOND_FILE} cannot be read")
    read = load(TFDSData(path=str(folder), on_invalid_episode="skip"))
    assert read.lengths.tolist() == [4, 3, 2]
    records[7] = 0xFF  # a length beyond all memory: nothing after it can be found
    (folder / SECOND_FILE).write_bytes(records)
    read = load(TFDSData(path=str(folder), on_invalid_episode="skip"))
    assert read.lengths.tolist() == [4, 3]


def test_a_missing_file_is_reported(tmp_path):
    folder = shutil.copytree(SAMPLE, tmp_path / "set")
    (folder / SECOND_FILE).unlink()
    refused(folder, f"files are missing\n  - {SECOND_FILE}")
    assert load(TFDSData(path=str(folder), split="train[:50%]")).num_episodes == 2


# --------------------------------------------------------------------------- damaged ArrayRecord


@pytest.fixture
def array_record(tmp_path) -> Path:
    """The file of a dataset of 30 episodes."""
    write_rlds(logs().select(np.arange(30) % 3), tmp_path / "set", "name")
    return next((tmp_path / "set").glob("*.array_record*"))


def test_a_damaged_record_is_reported_and_the_others_are_read(array_record):
    records = bytearray(array_record.read_bytes())
    records[10_000] ^= 0xFF
    array_record.write_bytes(records)
    words = rf"1 error in the data\n  - episode 12: record 12 of {array_record.name} cannot be read"
    refused(array_record.parent, words)
    read = load(TFDSData(path=str(array_record.parent), on_invalid_episode="skip"))
    assert read.lengths.tolist() == (LENGTHS * 10)[:12] + (LENGTHS * 10)[13:]


@pytest.mark.parametrize("kept", [0, 100, 0.4, 0.5, 0.9999])
def test_a_truncated_array_record_file_is_reported(array_record, kept):
    records = array_record.read_bytes()
    array_record.write_bytes(records[: kept if kept > 1 else int(kept * len(records))])
    refused(array_record.parent, "episode 0.*(cannot be read|is missing from the record)")


def test_a_file_that_is_not_an_array_record_is_reported(array_record):
    array_record.write_bytes(bytes(255 - byte for byte in array_record.read_bytes()))
    refused(array_record.parent, f"record 0 of {array_record.name} cannot be read")
