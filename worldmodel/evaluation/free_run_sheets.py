"""What free runs found, in words and tables."""

from __future__ import annotations

from worldmodel.evaluation.free_run import ErrorNumbers, FreeRun
from worldmodel.evaluation.sheets import Sheet
from worldmodel.evaluation.statistics import shown

MOST_RECORDS = 24  # in a table; all are in results.json


def free_run_sheets(key: str, run: FreeRun) -> list[Sheet]:
    """A table of the channels, and one of the records where there are several."""
    count = len(run.names)
    over = f"{count} {'record' if count == 1 else 'records'}"

    def cells(name: str, numbers: ErrorNumbers) -> list[str]:
        return [name, str(numbers.rmse), str(numbers.nrmse), str(numbers.fit)]

    rows = [cells(str(d), numbers) for d, numbers in enumerate(run.channels)]
    rows += [cells("mean", run.mean)] if len(rows) > 1 else []
    title = f"Free run of {key} over {over}, after {run.context} rows, in raw units"
    made = [Sheet(title, ["channel", "RMSE", "RMSE / std", "fit (%)"], rows)]
    if 1 < count <= MOST_RECORDS:
        each = zip(run.names, run.rows, run.rmse.mean(1), strict=True)
        rows = [[name, f"{n:,}", shown(rmse)] for name, n, rmse in each]
        header = ["record", "rows", "RMSE, mean over channels"]
        made.append(Sheet(f"Free run of {key}, record by record", header, rows))
    return made


def on_free_run(key: str, run: FreeRun) -> str:
    """The verdict in a sentence."""
    count, rows = len(run.names), sum(run.rows)
    return (
        f"Free run of {key} over {rows:,} rows of {count} {'record' if count == 1 else 'records'}: "
        f"fit {run.mean.fit} %, RMSE {run.mean.rmse} in raw units."
    )
