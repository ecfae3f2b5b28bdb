"""Free runs: a whole record simulated from its actions alone, as systems are evaluated in system
identification (Schoukens and Ljung, IEEE Control Systems 39(6), 2019; nonlinearbenchmark.org).

The model observes the first `context` steps of a record, which are not evaluated, then only the
actions to the record's end. Errors are in raw units. An episode is one record.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.config.registry import register
from worldmodel.data.horizons import check_free_run, evaluated_episodes
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import StepArrays, Window, gather_windows, step_arrays
from worldmodel.evaluation.figures import MOST_DIMENSIONS, Panel, extent, figure
from worldmodel.evaluation.result_table import Cell, ResultTable
from worldmodel.evaluation.section import Context, Section
from worldmodel.evaluation.statistics import Bootstrap, Estimate
from worldmodel.models.interface import State, WorldModel

CHUNK = 1024  # steps of a record in one call: memory on the device does not grow with the record
MOST_LANES = 128  # records times samples at once
SHOWN_ROWS = 400  # of the first record, in the figure
MOST_RECORDS = 24  # in a table; results.json has all


@dataclass(frozen=True)
class FreeRunErrors:
    """Means over records. rmse: in raw units; nrmse: RMSE / standard deviation of the evaluated
    part of the record; fit: 100 (1 - |y - y'| / |y - mean y|), in %.
    """

    rmse: Estimate
    nrmse: Estimate
    fit: Estimate


@dataclass(frozen=True)
class FreeRun:
    """Free runs over R records of an observation of D channels.

    context: observed steps before the free run
    names, rows: (R,) the records, and how many steps of each are evaluated
    rmse: (R, D) in raw units
    channels: by channel; mean: over channels
    real, simulated: (n, D) the first evaluated steps of the first record
    """

    context: int
    names: list[str]
    rows: list[int]
    rmse: np.ndarray
    channels: list[FreeRunErrors]
    mean: FreeRunErrors
    real: np.ndarray
    simulated: np.ndarray

    def numbers(self) -> dict[str, Any]:
        records = zip(self.names, self.rows, self.rmse.tolist(), strict=True)
        return {
            "context": self.context,
            "mean": self.mean,
            "channels": self.channels,
            "records": [{"name": n, "rows": rows, "rmse": rmse} for n, rows, rmse in records],
        }


@register("section", "free_run", order=50)
@dataclass(frozen=True)
class FreeRuns(Section):
    """Free runs of every observation, by name; images are left out."""

    title = "Free run"
    absent = {"free_run": None}

    observations: dict[str, FreeRun] = field(default_factory=dict)

    @classmethod
    def applies(cls, context: Context) -> bool | str:
        if not (context.options.free_run and context.model.has_dynamics):
            return False
        check_free_run(context.held_out, context.spec, context.options)
        return True

    @classmethod
    def run(cls, context: Context) -> Self:
        """The prediction is the mean of `options.num_samples` samples."""
        observations, options = context.spec.observations, context.options
        records = context.held_out
        records = records.select(np.flatnonzero(records.observed_lengths > options.context))
        evaluated, count = evaluated_episodes(records), records.num_episodes
        few = f"Free runs are evaluated on {len(evaluated)} of {count} records."
        records = records.select(evaluated)
        steps = step_arrays(records)
        simulated = list(_simulated(context, steps, records))
        names = [records.name(i) for i in range(records.num_episodes)]

        def of(key: str) -> FreeRun:
            raw = observations[key].to_raw
            real = [
                raw(steps.observation[key][begin + options.context : begin + length])
                for begin, length in zip(records.offsets, records.observed_lengths, strict=True)
            ]
            channels = [raw(record[key]) for record in simulated]
            return _numbers(options.context, names, real, channels, context.bootstrap)

        runs = {key: of(key) for key, o in observations.items() if not o.is_image}
        return cls(runs, caveats=[few] if len(evaluated) < count else [])

    def numbers(self) -> dict[str, Any]:
        return {"free_run": self.observations}

    def tables(self) -> list[ResultTable]:
        return [table for key, run in self.observations.items() for table in _tables(key, run)]

    def sentences(self) -> list[str]:
        return [
            f"Free run of {key} over {sum(run.rows):,} steps of {len(run.names)} "
            f"{'record' if len(run.names) == 1 else 'records'}: fit {run.mean.fit.brief} %, RMSE "
            f"{run.mean.rmse.brief} in raw units."
            for key, run in self.observations.items()
        ]

    def figures(self) -> list[str]:
        return [_figure(key, run) for key, run in self.observations.items()]


def _tables(key: str, run: FreeRun) -> list[ResultTable]:
    """A table of the channels, and one of the records if there are several."""

    def cells(name: str, numbers: FreeRunErrors) -> list[Cell]:
        return [name, numbers.rmse, numbers.nrmse, numbers.fit]

    rows = [cells(str(d), numbers) for d, numbers in enumerate(run.channels)]
    rows += [cells("mean", run.mean)] if len(rows) > 1 else []
    title = f"Free run of {key} after {run.context} steps, in raw units"
    tables = [ResultTable(title, ["channel", "RMSE", "RMSE / std", "fit (%)"], rows)]
    if 1 < len(run.names) <= MOST_RECORDS:
        each = zip(run.names, run.rows, run.rmse.mean(1), strict=True)
        rows = [[name, _of_record(rmse, n)] for name, n, rmse in each]
        header = ["record", "RMSE, mean over channels"]
        tables.append(ResultTable(f"Free run of {key}, record by record", header, rows))
    return tables


def _of_record(rmse: float, steps: int) -> Estimate:
    method = f"RMSE over {steps} steps of one record, which has no interval"
    return Estimate(float(rmse), math.nan, math.nan, steps, method, "steps")


def _figure(key: str, run: FreeRun) -> str:
    """The first evaluated steps of the first record."""
    count, size = run.real.shape
    rows = run.context + np.arange(count)
    panels = []
    for d in range(min(size, MOST_DIMENSIONS)):
        real, simulated = run.real[:, d], run.simulated[:, d]
        lines = {"real": real, "model dashed": simulated}
        error = {"baseline": simulated - real}
        for kind, what, drawn in (("", "and", lines), (" \u00b7 error", "minus", error)):
            panel = Panel(
                (rows[0], rows[-1]),
                extent(*drawn.values()),
                label=f"{key}[{d}]: simulated {what} real",
                x_title="step of the record",
                height=180,
            )
            for color, values in drawn.items():
                panel.line(rows, values, color)
            panels.append((f"{key}[{d}]{kind}", panel.svg()))
    some = f"The first {MOST_DIMENSIONS} of {size} channels. " if size > MOST_DIMENSIONS else ""
    return figure(
        f"Free run of {key}, the first {count} evaluated steps of {run.names[0]}, in raw units. "
        f"{some}"
        f"The model observed {run.context} steps before them, then only the actions.",
        panels,
        [("real", "real"), ("model", "simulated"), ("baseline", "simulated minus real")],
    )


def _numbers(
    context: int,
    names: list[str],
    real: list[np.ndarray],
    simulated: list[np.ndarray],
    bootstrap: Bootstrap,
) -> FreeRun:
    """From real and simulated observations (rows, D) of the records."""
    rmse = np.array([_rmse(y, x) for y, x in zip(real, simulated, strict=True)])
    spread = np.array([y.astype(np.float64).std(0) for y in real])
    with np.errstate(divide="ignore", invalid="ignore"):
        nrmse = np.where(rmse == 0, 0.0, rmse / spread)

    def over_records(rmse: np.ndarray, nrmse: np.ndarray) -> FreeRunErrors:
        error, relative = (bootstrap.mean(values, "records") for values in (rmse, nrmse))
        # The fit is 100 % less the relative error: the ends of its interval change places.
        value, low, high = (100 * (1 - x) for x in (relative.value, relative.high, relative.low))
        return FreeRunErrors(
            error,
            relative,
            Estimate(value, low, high, relative.n, relative.method, relative.sample_unit),
        )

    return FreeRun(
        context=context,
        names=names,
        rows=[len(y) for y in real],
        rmse=rmse,
        channels=[over_records(*pair) for pair in zip(rmse.T, nrmse.T, strict=True)],
        mean=over_records(rmse.mean(1), nrmse.mean(1)),
        real=np.asarray(real[0][:SHOWN_ROWS]),
        simulated=simulated[0][:SHOWN_ROWS],
    )


def _rmse(real: np.ndarray, simulated: np.ndarray) -> np.ndarray:
    """(D,) from (rows, D). NaN counts as an infinite error, not as missing."""
    error = np.sqrt(np.square(simulated.astype(np.float64) - real).mean(0))
    return np.where(np.isnan(error), np.inf, error)


# -------------------------------------------------------------------------------------- simulation


def _simulated(
    context: Context, rows: StepArrays, records: Trajectories
) -> Iterator[dict[str, np.ndarray]]:
    """Simulates every record after its context, name -> (rows, D), a group at a time."""
    group = max(1, MOST_LANES // context.options.num_samples)
    for first in range(0, records.num_episodes, group):
        offsets = records.offsets[first : first + group]
        lengths = records.observed_lengths[first : first + group]
        key = jax.random.fold_in(context.key, first)
        simulated = _simulated_group(context, rows, offsets, lengths, key)
        for lane, length in enumerate(lengths - context.options.context):
            yield {name: values[lane, :length] for name, values in simulated.items()}


def _simulated_group(
    context: Context, rows: StepArrays, offsets: np.ndarray, lengths: np.ndarray, key: jax.Array
) -> dict[str, np.ndarray]:
    """name -> (B, >= longest, D): records that begin at `offsets` (B,), chunk by chunk. After the
    end of a shorter one its last action is repeated; those steps are not used.
    """
    observed, samples = context.options.context, context.options.num_samples
    longest = int(lengths.max()) - observed
    chunk = min(CHUNK, longest)
    window = gather_windows(rows, offsets, np.full(len(offsets), observed), observed)
    state = _start(context.model, window, samples, jax.random.fold_in(key, 0))
    simulated = []
    for begin in range(0, longest, chunk):
        steps = observed - 1 + begin + np.arange(chunk)
        actions = rows.action[offsets[:, None] + np.minimum(steps, lengths[:, None] - 1)]
        state, means = _advance(context.model, state, actions, jax.random.fold_in(key, begin + 1))
        simulated.append(means)
    return {
        name: np.concatenate([np.asarray(s[name]) for s in simulated], 1) for name in simulated[0]
    }


@nnx.jit(static_argnums=2)
def _start(model: WorldModel, window: Window, samples: int, key: jax.Array) -> State:
    """The state (B x samples, ...) after the last step of the windows, once for every sample."""
    window = jax.tree.map(lambda x: jnp.repeat(x, samples, 0), window)
    return jax.tree.map(lambda x: x[:, -1], model.observe(window, key))


@nnx.jit
def _advance(
    model: WorldModel, state: State, actions: jax.Array, key: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
    """The state (B x samples, ...) after actions (B, H, ...), and the mean over samples of each
    observation on the way, (B, H, D).
    """
    lanes = jax.tree.leaves(state)[0].shape[0]
    records, horizon = actions.shape[:2]
    states = model.rollout(state, jnp.repeat(actions, lanes // records, 0), key)
    simulated = {
        name: expected.mean().reshape(records, -1, horizon, *expected.mean().shape[2:]).mean(1)
        for name, expected in model.observation(states).items()
        if expected.mean().ndim == 3  # images are not decoded
    }
    return jax.tree.map(lambda x: x[:, -1], states), simulated
