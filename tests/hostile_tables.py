"""Hostile tables."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hostile_sources import ROWS, Kinds, add
from pyarrow import parquet

from worldmodel.data.readers.table import TableData


def table(folder: Path, content: bytes | pa.Table | dict, name: str = "", **options: Any):
    """A file of these bytes, or a Parquet file of this table."""
    if isinstance(content, bytes):
        file = folder / (name or "a.csv")
        file.write_bytes(content)
    else:
        file = folder / "a.parquet"
        columns = content if isinstance(content, pa.Table) else pa.table(rows() | content)
        parquet.write_table(columns, file)
    given = {"observations": ["x"], "actions": ["u"], "cache": "never", "cache_dir": str(folder)}
    return TableData(path=str(file), **(given | options))


def rows() -> dict[str, Any]:
    return {"x": np.arange(float(ROWS)), "u": np.ones(ROWS)}


def _gzip_bomb(folder: Path) -> TableData:
    block = gzip.compress(b"0,0\n" * 2**18)  # members may be concatenated
    return table(folder, gzip.compress(b"x,u\n") + block * 3000, "a.csv.gz")


def _long_runs(folder: Path) -> TableData:
    """Runs of one value, of which Parquet stores the value and the count."""
    columns = pa.table({name: pa.nulls(10**6, pa.float64()) for name in ("x", "u")})
    options = table(folder, b"", "a.parquet")
    with parquet.ParquetWriter(options.path, columns.schema, compression="zstd") as writer:
        for _ in range(60):
            writer.write_table(columns, row_group_size=10**6)
    return options


def _footer(folder: Path, change: Callable[[bytes], bytes]) -> TableData:
    options = table(folder, {})
    content = Path(str(options.path)).read_bytes()
    Path(str(options.path)).write_bytes(change(content))
    return options


TABLES: Kinds = {
    "bytes of zero": (lambda f: table(f, bytes(5000)), "neither text in UTF-8"),
    "a cell of 30 MB": (lambda f: table(f, b"x,u\n" + b"9" * 30_000_000 + b",1\n2,3\n"), "cannot"),
    "200,000 columns": (
        lambda f: table(f, b",".join(b"c%d" % i for i in range(200_000)) + b"\n1\n"),
        "a single line",
    ),
    "a header without end": (lambda f: table(f, b"x,u" + b",c" * 2_000_000), "a.csv"),
    "6 GB of compressed rows": (_gzip_bomb, "accepted: up to"),
    "not compressed": (lambda f: table(f, b"x,u\n1,2\n", "a.csv.gz"), "cannot be read"),
    "time stamps as classes": (
        lambda f: table(f, {"u": np.arange(ROWS) + 1_732_000_000}, discrete=True),
        "integers (1,732,000,000 to 1,732,000,018)",
    ),
    "classes beyond 32 bits": (
        lambda f: table(f, {"u": np.arange(ROWS) * 10**15}, discrete=True),
        "classes",
    ),
    "observations of 3e38": (lambda f: table(f, {"x": np.full(ROWS, 3e38)}), "accepted: "),
    "a column of nothing": (lambda f: table(f, {"x": pa.nulls(ROWS)}), "not finite"),
    "a column of decimals": (
        lambda f: table(f, {"x": pa.array([1] * ROWS, pa.decimal128(9, 2))}),
        "",
    ),
    "a column of structs": (
        lambda f: table(f, {"x": [{"a": 1}] * ROWS}),
        "column 'x' holds struct",
    ),
    "a column of maps": (
        lambda f: table(f, {"x": pa.array([[("a", 1)]] * ROWS, pa.map_("string", "int8"))}),
        "column 'x'",
    ),
    "a column of bytes": (lambda f: table(f, {"x": [b"\xff\x00"] * ROWS}), "'x' (object)"),
    "a column of durations": (
        lambda f: table(f, {"x": pa.array([1] * ROWS, pa.duration("s"))}),
        "column 'x'",
    ),
    "lists of lists": (lambda f: table(f, {"x": [[[1.0]]] * ROWS}), "column 'x'"),
    "empty lists": (
        lambda f: table(f, {"x": pa.array([[]] * ROWS, pa.list_(pa.float32()))}),
        "(20, 0)",
    ),
    "missing lists": (
        lambda f: table(f, {"x": pa.array([None] * ROWS, pa.list_(pa.float32()))}),
        "(20, 0)",
    ),
    "lists of many lengths": (
        lambda f: table(f, {"x": [[1.0] * (i + 1) for i in range(ROWS)]}),
        "numbers at row 1",
    ),
    "episodes of bytes": (lambda f: table(f, {"e": [b"\xff"] * ROWS}, episode="e"), "a.parquet"),
    "episodes of lists": (lambda f: table(f, {"e": [[1]] * ROWS}, episode="e"), "a.parquet"),
    "time of lists": (lambda f: table(f, {"t": [[1]] * ROWS}, time="t"), "column 't'"),
    "time beyond all dates": (
        lambda f: table(
            f, {"t": pa.array([2**62, -(2**62)] * (ROWS // 2), pa.timestamp("us"))}, time="t"
        ),
        "time",
    ),
    "a terminal of lists": (lambda f: table(f, {"d": [[1]] * ROWS}, terminal="d"), "column 'd'"),
    "names with control characters": (
        lambda f: table(f, {"\x1b[2J": [1] * ROWS}, reward="r"),
        "no column 'r'",
    ),
    "120 million missing numbers": (_long_runs, "accepted: up to"),
    "a footer of 4 GB": (
        lambda f: _footer(f, lambda b: b[:-8] + b"\xff\xff\xff\xff" + b[-4:]),
        "cannot be read",
    ),
    "a footer of zeros": (
        lambda f: _footer(f, lambda b: b[:-200] + bytes(192) + b[-8:]),
        "cannot be read",
    ),
    "a range beyond all rows": (lambda f: table(f, {}, row_range=[0, 2**30]), "has 20 rows"),
    "an Arrow file": (
        lambda f: table(f, pa.ipc.new_file and b"ARROW1\0\0" + bytes(900)),
        "neither text",
    ),
}
add("table", TABLES)
