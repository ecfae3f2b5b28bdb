"""Whether a column that counts steps says that rows are out of order, or that episodes begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from worldmodel.data.readers.tables.columns import Column, quoted

STEP_NAMES = (
    *("step", "step_index", "step_idx", "step_id", "frame_index", "frame_idx", "timestep"),
    *("time_step", "time_index", "t_idx", "frame", "t"),
)
LEAST_GAP = 0.2  # of the median: values that count are not closer to each other


def step_column(names: Sequence[str]) -> str | None:
    """The column that counts steps by its name, or None."""
    words = {name.lower().replace("/", ".").rpartition(".")[2]: name for name in reversed(names)}
    return next((words[word] for word in STEP_NAMES if word in words), None)


@dataclass
class StepOrder:
    """What a column of steps contradicts, over all files: lines on rows out of order, and on rows
    where it begins again inside an episode.
    """

    column: str = ""
    shuffled: list[str] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)

    def check(self, file: str, name: str, column: Column, parts: Sequence[np.ndarray]) -> None:
        """Adds lines for a file, of which each of `parts` is the rows of an episode."""
        values = _numbers(column)
        if values is None:
            return
        each = [values[part] for part in parts]
        falls = [np.flatnonzero(np.diff(x) < 0) for x in each]
        count, pairs = sum(map(len, falls)), sum(len(x) - 1 for x in each)
        if not count or count == pairs:  # in order, or counted down
            return
        episode = next(i for i, x in enumerate(falls) if len(x))
        at = falls[episode][0]
        fall = f"from {each[episode][at]:g} to {each[episode][at + 1]:g}"
        where = f"first after row {parts[episode][at]} ({fall})"
        if all(map(_counts, each)):
            self.column = name
            self.shuffled.append(f"{file}: decreases in {count} of {pairs} steps, {where}")
        elif all(
            _counts(piece) and (piece[0] == x[0])
            for x, fall in zip(each, falls, strict=True)
            for piece in np.split(x, fall + 1)
        ):
            self.column = name
            self.restarts.append(f"{file}: begins again {count} times, {where}")

    def warnings(self) -> Mapping[str, list[str]]:
        """Head -> lines of each warning."""
        name = quoted(self.column)
        out_of_order = (
            f"column {name} says that rows are out of order, and rows are read in the order of "
            f"the file; sort them by it in the file (data.time={self.column} refuses such files)"
        )
        again = (
            f"column {name} begins again inside episodes, as if others began there; data.episode "
            "names a column that identifies episodes, data.truncated one that is true where one "
            "ends"
        )
        found = {out_of_order: self.shuffled, again: self.restarts}
        return {head: lines for head, lines in found.items() if lines}


def _numbers(column: Column) -> np.ndarray | None:
    """(rows,) a column of numbers without missing values; None for anything else."""
    from pyarrow import types

    if isinstance(column, np.ndarray):
        values = column[:, 0] if column.shape[1] == 1 else None
    elif types.is_integer(column.type) or types.is_floating(column.type):
        values = column.to_numpy()
    else:
        values = None
    return values if values is not None and np.isfinite(values).all() else None


def _counts(values: np.ndarray) -> bool:
    """Whether values differ from each other as those of a counter or a clock do."""
    gaps = np.diff(np.sort(values))
    return not len(gaps) or bool(gaps.min() > 0 and gaps.min() >= LEAST_GAP * np.median(gaps))
