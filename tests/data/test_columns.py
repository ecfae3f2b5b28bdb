"""Columns that grow by chunks, and keep a single one as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldmodel.data.columns import FIRST_ROWS, ColumnWriter


def chunk(rows: int, first: int = 0) -> np.ndarray:
    values = np.arange(first, first + rows, dtype=np.float32)[:, None]
    values.flags.writeable = False
    return values


def joined(*chunks: np.ndarray) -> np.ndarray:
    writer = ColumnWriter()
    for values in chunks:
        writer.append({"x": values})
    return writer.finish()["x"]


def test_a_single_read_only_chunk_is_not_copied():
    values = chunk(2 * FIRST_ROWS)
    assert np.shares_memory(joined(values), values)


def test_chunks_that_follow_leave_the_first_unchanged():
    first, second = chunk(2 * FIRST_ROWS), chunk(5, 2 * FIRST_ROWS)
    whole = joined(first, second, chunk(3, 2 * FIRST_ROWS + 5))
    np.testing.assert_array_equal(whole[:, 0], np.arange(2 * FIRST_ROWS + 8))
    assert not np.shares_memory(whole, first) and len(first) == 2 * FIRST_ROWS


def test_what_others_may_write_to_is_copied(tmp_path: Path):
    writable = np.zeros((2 * FIRST_ROWS, 1))
    assert not np.shares_memory(joined(writable), writable)
    np.save(tmp_path / "a.npy", writable)
    mapped = np.asarray(np.load(tmp_path / "a.npy", mmap_mode="r"))[: FIRST_ROWS + 1]
    assert not np.shares_memory(joined(mapped), mapped)
