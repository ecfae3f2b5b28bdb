"""CSV and Parquet tables: what is invalid is reported with its place, and can be skipped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tables import error, options, rows, text, written

from worldmodel.data import load
from worldmodel.data.readers.table import read
from worldmodel.errors import ConfigError, DataError


def csv_of(content: str | bytes):
    return lambda folder: text(folder / "log.csv", content)


def parquet_of(**columns: Any):
    return lambda folder: written(folder / "log.parquet", rows(3, **columns))


def broken_parquet(change: Any):
    def make(folder: Path) -> Path:
        whole = written(folder / "whole.parquet", rows(1000)).read_bytes()
        (folder / "whole.parquet").unlink()
        return text(folder / "log.parquet", change(whole))

    return make


DONE = {"terminal": "done"}
BROKEN = {
    "empty": (csv_of(""), {}, ["is empty", "a header and rows"]),
    "blank": (csv_of("\n \n"), {}, ["is empty"]),
    "header alone": (csv_of("x,y,u\n"), {}, ["has a single line", "a header and rows"]),
    "header alone, no newline": (csv_of("x,y,u"), {}, ["has a single line"]),
    "no header": (csv_of("1,2,3\n4,5,6\n"), {}, ["no column 'x', 'y', 'u'", "'1', '2', '3'"]),
    "misspelt": (
        csv_of("x_pos,y,u\n1,2,3\n4,5,6\n"), {"observations": ["x_pso", "y"]},
        ["no column 'x_pso' (did you mean 'x_pos'?)", "present: 'x_pos', 'y', 'u'"],
    ),
    "a column twice": (csv_of("x,y,u,x\n1,2,3,4\n4,5,6,7\n"), {}, ["two columns are named 'x'"]),
    "one row": (csv_of("x,y,u\n1,2,3\n"), {}, ["1 step(s); accepted: at least 2"]),
    "ragged": (csv_of("x,y,u\n1,2,3\n4,5\n6,7,8\n"), {}, ["Row #3", "Expected 3 columns, got 2"]),
    "open quote": (csv_of('x,y,u\n1,2,"3\n4,5,6\n'), {}, ["column 'u' is '3\\n4,5,6' at row 0"]),
    "text": (
        csv_of("x,y,u\n1,2,3\n4, 5,6\n7,none,9\n"), {},
        ["column 'y' is 'none' at row 2", "accepted: numbers"],
    ),
    "units": (csv_of("x,y,u\nm,m,V\n1,2,3\n"), {}, ["column 'x' is 'm' at row 0"]),
    "decimal comma": (csv_of("x;y;u\n1,5;2;3\n2;3;4\n"), {}, ["column 'x' is '1,5' at row 0"]),
    "empty cell": (csv_of("x,y,u\n1,2,3\n4,,6\n7,8,9\n"), {}, ["is not finite", "log.csv, step 1"]),
    "NaN": (csv_of("x,y,u\n1,2,3\n4,nan,6\n7,8,9\n"), {}, ["is not finite", "log.csv, step 1"]),
    "too large": (csv_of("x,y,u\n1,2,3\n4,1e300,6\n7,8,9\n"), {}, ["is not finite", "step 1"]),
    "empty action": (csv_of("x,y,u\n1,2,3\n4,5,\n7,8,9\n"), {}, ["action is not finite", "step 1"]),
    "UTF-16": (csv_of("x,y,u\n1,2,3\n".encode("utf-16")), {}, ["neither text in UTF-8"]),
    "bytes": (csv_of(bytes(range(256)) * 9), {}, ["neither text in UTF-8 nor Parquet"]),
    "truth": (
        csv_of("x,y,u,done\n1,2,3,false\n4,5,6,maybe\n"), DONE,
        ["column 'done' is 'maybe' at row 1", "true or false, 1 or 0"],
    ),
    "truth of 2": (
        csv_of("x,y,u,done\n1,2,3,0\n4,5,6,2\n"), DONE, ["column 'done' is 2 at row 1"],
    ),
    "time": (
        csv_of("x,y,u,t\n1,2,3,2024-05-01 10:00\n1,2,3,2024-05-01 10:01\n1,2,3,noon\n"),
        {"time": "t"}, ["column 't' is 'noon' at row 2", "dates and times such as"],
    ),
    "no time": (csv_of("x,y,u,t\n1,2,3,0\n4,5,6,\n7,8,9,1\n"), {"time": "t"}, ["time is nan"]),
    "no episode": (
        csv_of("x,y,u,ep\n1,2,3,1\n4,5,6,\n"), {"episode": "ep"},
        ["column 'ep' is empty at row 1", "a value in every row"],
    ),
    "half a class": (
        csv_of("x,y,u\n1,2,0\n4,5,1.5\n7,8,0\n"), {"discrete": True},
        ["column 'u' is 1.5 at row 1", "classes 0, 1, ..."],
    ),
    "negative class": (
        csv_of("x,y,u\n1,2,-1\n4,5,1\n"), {"discrete": True}, ["column 'u' is -1 at row 0"],
    ),
    "no class": (
        csv_of("x,y,u\n1,2,\n4,5,1\n"), {"discrete": True}, ["column 'u' is empty at row 0"],
    ),
    "no rows": (lambda f: written(f / "log.parquet", rows(0)), {}, ["has no rows"]),
    "dates": (
        parquet_of(y=pa.array([1, 2, 3]).cast(pa.timestamp("ms"))), {},
        ["column 'y' holds timestamp[ms]", "accepted: numbers"],
    ),
    "lists of text": (parquet_of(y=[["a"]] * 3), {}, ["column 'y' holds list<", "numbers"]),
    "uneven lists": (
        parquet_of(y=[[1.0], [1.0, 2.0], [3.0]]), {}, ["column 'y' has 2 numbers at row 1"],
    ),
    "lists of rewards": (
        parquet_of(r=[[1.0, 2.0]] * 3), {"reward": "r"}, ["reward", "one number per step"],
    ),
    "cut off Parquet": (broken_parquet(lambda b: b[: len(b) // 2]), {}, ["cannot be", "footer"]),
    "empty Parquet": (broken_parquet(lambda b: b""), {}, ["cannot be read", "0 bytes"]),
    "overwritten Parquet": (
        broken_parquet(lambda b: b[:40] + b"\xff" * 200 + b[240:]), {}, ["cannot be read"],
    ),
    "CSV as Parquet": (broken_parquet(lambda b: b"x,y,u\n1,2,3\n"), {}, ["cannot be read"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_an_invalid_file_is_reported(tmp_path: Path, kind: str):
    make, changes, words = BROKEN[kind]
    file = make(tmp_path)
    message = error(file, **changes)
    for word in [str(file), *words]:
        assert word in message


@pytest.mark.parametrize("kind", BROKEN)
def test_an_invalid_file_among_others_can_be_skipped(tmp_path: Path, kind: str):
    make, changes, _ = BROKEN[kind]
    columns = {"x_pos": [1.0, 2.0], "x_pso": [1.0, 2.0], "ep": ["1", "1"], "t": [0.0, 1.0]}
    good = rows(2, **columns, u=[0, 1], r=[0.0, 1.0], done=[0, 1])
    first, last = (written(tmp_path / f"{name}.parquet", good) for name in "az")
    make(tmp_path)
    logs = load(options(tmp_path, on_invalid_episode="skip", **changes))
    assert [name.split()[0] for name in logs.names] == [str(first), str(last)]


def test_columns_that_no_file_has_are_one_error(tmp_path: Path):
    for name in "abc":
        written(tmp_path / f"{name}.csv", rows(3))
    message = error(tmp_path, actions=["v"], on_invalid_episode="skip")
    assert f"{tmp_path / 'a.csv'} (and 2 more): no column 'v'" in message
    assert len(message.splitlines()) == 1


def test_misspelt_columns_are_reported_before_anything_is_read(tmp_path: Path):
    file = written(tmp_path / "log.csv", rows(3))
    with pytest.raises(DataError, match="no column 'velocity'"):
        read(options(file, reward="velocity"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"observations": []}, "data.observations=[]: accepts list"),
        ({"observations": "???"}, "data.observations needs a value: list"),
        ({"observations": ["x", "x"]}, "data.observations: 'x' is listed twice"),
        ({"actions": ["u", "x"], "discrete": True}, "accepts one column in data.actions, not 2"),
    ],
)
def test_invalid_options_are_refused(tmp_path: Path, changes: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        load(options(written(tmp_path / "log.csv", rows(3)), **changes))


def test_missing_files_are_refused(tmp_path: Path):
    assert "does not exist" in error(tmp_path / "log.csv")
    assert "CSV or Parquet" in error(tmp_path)
    text(tmp_path / "log.docx", "x")
    assert ".csv" in error(tmp_path)


def test_long_lists_of_columns_are_shortened(tmp_path: Path):
    header = ",".join(f"{number}{'long' * 50}" for number in range(500))
    message = error(text(tmp_path / "log.csv", f"{header}\n1\n"))
    assert "and 440 more" in message and len(message) < 10_000
