"""Sizes that files claim, compared with what is on disk and with the memory at hand, before any
memory is taken.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from worldmodel.errors import DataError
from worldmodel.system.storage import format_bytes

SMALL = 2**28  # bytes that need no comparison
PLAIN = 8  # times that data are usually compressed: accepted even beyond the memory
DENSE = 200  # times that data are compressed at most; a file of zeros shrinks 1,000 times
BYTES_PER_VALUE = 8
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_size(claimed: int, on_disk: int, what: str = "it") -> None:
    """Raises DataError if `what` claims more bytes than `on_disk` bytes can hold, or many times
    more and half of the memory.
    """
    if claimed <= max(SMALL, PLAIN * on_disk):
        return
    memory = memory_at_hand()
    most = max(PLAIN * on_disk, min(DENSE * on_disk + SMALL, memory // 2))
    if claimed > most:
        raise DataError(
            f"{what} claims {format_bytes(claimed)}, with {format_bytes(on_disk)} on disk and "
            f"{format_bytes(memory)} of memory at hand; accepted: up to {format_bytes(most)}"
        )


def check_memory(needed: int, what: str) -> None:
    """Raises DataError if `what` needs more bytes than there is memory at hand."""
    if needed > SMALL and needed > (memory := memory_at_hand()):
        raise DataError(
            f"{what} needs {format_bytes(needed)}; accepted: up to the {format_bytes(memory)} of "
            "memory at hand"
        )


def check_parquet(file: Path, columns: Sequence[str] = ()) -> None:
    """Raises DataError for a Parquet file that claims more than it can hold, in some columns or
    all.
    """
    from pyarrow import parquet

    with parquet.ParquetFile(file) as opened:
        leaves = [opened.schema.column(index) for index in range(len(opened.schema.names))]
        chosen = [
            i
            for i, leaf in enumerate(leaves)
            if leaf.path.partition(".")[0] in columns or not columns
        ]
        values = opened.metadata.num_rows * len(chosen)
        if lists := [i for i in chosen if leaves[i].max_repetition_level]:
            # Reports damage that would abort the process when the counts are accessed.
            opened.scan_contents(columns)
            groups = map(opened.metadata.row_group, range(opened.num_row_groups))
            values += sum(group.column(i).num_values for group in groups for i in lists)
    check_size(BYTES_PER_VALUE * values, file.stat().st_size)


def check_holes(file: Path) -> None:
    """Raises DataError for a file that is larger than the memory and consists of holes, almost."""
    status = file.stat()
    if status.st_size > memory_at_hand():
        check_size(status.st_size, 512 * status.st_blocks, str(file))


def memory_at_hand() -> int:
    """Bytes of memory that this process can take."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        memory = 1024 * next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in LIMITS:
        try:
            memory = min(memory, int(Path(file).read_text()))
        except (OSError, ValueError):  # no such file, or `max`
            continue
    return memory
