"""What free runs found, in words and tables."""

from __future__ import annotations

import math

from worldmodel.evaluation.free_run import FreeRun, FreeRunErrors
from worldmodel.evaluation.result_table import Cell, ResultTable
from worldmodel.evaluation.statistics import Estimate

MOST_RECORDS = 24  # in a table; all are in results.json


def free_run_tables(key: str, run: FreeRun) -> list[ResultTable]:
    """A table of the channels, and one of the records where there are several."""
    count = len(run.names)

    def cells(name: str, numbers: FreeRunErrors) -> list[Cell]:
        return [name, numbers.rmse, numbers.nrmse, numbers.fit]

    rows = [cells(str(d), numbers) for d, numbers in enumerate(run.channels)]
    rows += [cells("mean", run.mean)] if len(rows) > 1 else []
    title = f"Free run of {key} after {run.context} rows, in raw units"
    made = [ResultTable(title, ["channel", "RMSE", "RMSE / std", "fit (%)"], rows)]
    if 1 < count <= MOST_RECORDS:
        each = zip(run.names, run.rows, run.rmse.mean(1), strict=True)
        rows = [[name, _of_record(rmse, n)] for name, n, rmse in each]
        header = ["record", "RMSE, mean over channels"]
        made.append(ResultTable(f"Free run of {key}, record by record", header, rows))
    return made


def _of_record(rmse: float, rows: int) -> Estimate:
    method = f"RMSE over {rows} rows of one record, which has no interval"
    return Estimate(float(rmse), math.nan, math.nan, rows, method, "rows")


def on_free_run(key: str, run: FreeRun) -> str:
    """The verdict in a sentence."""
    count, rows = len(run.names), sum(run.rows)
    return (
        f"Free run of {key} over {rows:,} rows of {count} {'record' if count == 1 else 'records'}: "
        f"fit {run.mean.fit.brief} %, RMSE {run.mean.rmse.brief} in raw units."
    )
