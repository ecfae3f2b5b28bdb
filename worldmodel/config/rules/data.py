"""What options of the data must have in common: rules that `checks.py` applies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from worldmodel.config import (
    NORMALIZATIONS,
    DataOptions,
    GymnasiumData,
    HDF5Data,
    MinariData,
    NPZData,
    RecordsData,
    TableData,
    TFDSData,
)
from worldmodel.errors import nearest


def _data_can_be_found(data: DataOptions) -> Iterator[str]:
    if isinstance(data, GymnasiumData) and not data.environment:
        yield "data.environment needs a Gymnasium id, such as data.environment=Pendulum-v1"
    if isinstance(data, TFDSData) and not data.path and not data.builder:
        yield "data.path needs the folder of a prepared TFDS data set, or data.builder its name"
    if isinstance(data, HDF5Data | NPZData | TableData) and not data.path:
        yield f"data.path needs a file, a folder or a pattern such as logs/*, for data={data.name}"
    if isinstance(data, RecordsData) and not data.path:
        yield "data.path needs a folder of u_*.npy and y_*.npy, for data=records"
    if isinstance(data, MinariData) and not data.dataset:
        yield "data.dataset needs the id of a local Minari data set, such as D4RL/pen/human-v2"


def _classes_are_one_column(data: DataOptions) -> Iterator[str]:
    if isinstance(data, TableData) and data.discrete and len(data.actions) > 1:
        yield f"data.discrete=true: takes one column of classes, not {len(data.actions)}"


def _rows_are_a_range(data: DataOptions) -> Iterator[str]:
    rows = data.rows if isinstance(data, TableData) else None
    if rows is not None and not (len(rows) == 2 and rows[0] < rows[1]):
        given = ",".join(map(str, rows))
        yield f"data.rows=[{given}]: accepts [FIRST,LAST], the first below the last"


def _action_bounds_are_bounds(data: DataOptions) -> Iterator[str]:
    low, high = data.action_low, data.action_high
    if (low is None) != (high is None):
        yield "data.action_low and data.action_high: give both or neither"
    elif low is not None and len(low) != len(high):
        yield f"data.action_low has {len(low)} numbers, data.action_high {len(high)}"
    elif low is not None and not all(a < b for a, b in zip(low, high, strict=True)):
        yield "data.action_low must be below data.action_high in every dimension"


def _normalizations_are_known(data: DataOptions) -> Iterator[str]:
    for entry in data.normalize:
        kind = entry.rpartition(":")[2]
        if kind not in NORMALIZATIONS:
            hint = nearest(kind, NORMALIZATIONS)
            yield (
                f"data.normalize={entry}: accepts {', '.join(NORMALIZATIONS)}, or KEY:KIND "
                f"for one observation{hint}"
            )


DATA_RULES: tuple[Callable[[DataOptions], Iterator[str]], ...] = (
    _data_can_be_found,
    _classes_are_one_column,
    _rows_are_a_range,
    _action_bounds_are_bounds,
    _normalizations_are_known,
)
