"""Free runs: a whole record followed from its actions alone, as systems are judged in system
identification (Schoukens and Ljung, IEEE Control Systems 39(6), 2019; nonlinearbenchmark.org).

The model sees the first `context` rows of a record, which are not judged, then only the actions to
the record's end. Errors are in raw units. An episode is one record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.config import EvaluationOptions
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import StepArrays, Window, gather_windows, step_arrays
from worldmodel.errors import DataError
from worldmodel.evaluation.statistics import Bootstrap, Estimate
from worldmodel.models.interface import State, WorldModel

CHUNK = 1024  # steps of a record in one call: what is held on the device does not grow with it
MOST_LANES = 128  # records times futures at once
SHOWN_ROWS = 400  # of the first record, in the figure


@dataclass(frozen=True)
class FreeRunErrors:
    """Means over records. rmse: in raw units; nrmse: RMSE / standard deviation of what is judged of
    the record; fit: 100 (1 - |y - y'| / |y - mean y|), in %.
    """

    rmse: Estimate
    nrmse: Estimate
    fit: Estimate

    def to_json(self) -> dict[str, Any]:
        return {name: number.to_json() for name, number in vars(self).items()}


@dataclass(frozen=True)
class FreeRun:
    """Free runs over R records of an observation of D channels.

    context: rows seen first; names, rows: (R,) the records, and how many rows of each are judged;
    rmse: (R, D) in raw units; channels: by channel; mean: over channels; real, simulated: (n, D)
    the first judged rows of the first record
    """

    context: int
    names: list[str]
    rows: list[int]
    rmse: np.ndarray
    channels: list[FreeRunErrors]
    mean: FreeRunErrors
    real: np.ndarray
    simulated: np.ndarray

    def to_json(self) -> dict[str, Any]:
        records = zip(self.names, self.rows, self.rmse.tolist(), strict=True)
        return {
            "context": self.context,
            "mean": self.mean.to_json(),
            "channels": [channel.to_json() for channel in self.channels],
            "records": [{"name": n, "rows": rows, "rmse": rmse} for n, rows, rmse in records],
        }


def evaluate_free_run(
    model: WorldModel,
    spec: DataSpec,
    records: Trajectories,
    options: EvaluationOptions,
    key: jax.Array,
) -> dict[str, FreeRun]:
    """Judges `model` on whole records, by observation; images are left out. What is said of a row
    is the mean over `options.num_samples` futures.

    Raises DataError where no record is longer than the context, or all observations are images.
    """
    if all(o.is_image for o in spec.observations.values()):
        raise DataError(
            f"evaluation.free_run: {', '.join(spec.observations)} are images; accepted: a run that "
            "observes a vector"
        )
    able = np.flatnonzero(records.lengths > options.context)
    if len(able) == 0:
        raise DataError(
            f"evaluation.free_run: the longest record has {records.lengths.max()} rows; accepted: "
            f"more than evaluation.context={options.context}"
        )
    records = records.select(able)
    rows = step_arrays(records)
    simulated = list(_simulated(model, rows, records, options, key))
    bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
    names = [records.name(i) for i in range(records.num_episodes)]

    def judged(key: str) -> FreeRun:
        real = [
            rows.observation[key][begin + options.context : begin + length]
            for begin, length in zip(records.offsets, records.lengths, strict=True)
        ]
        said = [record[key] for record in simulated]
        return _numbers(options.context, names, real, said, bootstrap)

    return {key: judged(key) for key, o in spec.observations.items() if not o.is_image}


def _numbers(
    context: int,
    names: list[str],
    real: list[np.ndarray],
    said: list[np.ndarray],
    bootstrap: Bootstrap,
) -> FreeRun:
    """From what was and what was said of the records, (rows, D) each."""
    rmse = np.array([_rmse(y, x) for y, x in zip(real, said, strict=True)])
    spread = np.array([y.astype(np.float64).std(0) for y in real])
    with np.errstate(divide="ignore", invalid="ignore"):
        nrmse = np.where(rmse == 0, 0.0, rmse / spread)

    def over_records(rmse: np.ndarray, nrmse: np.ndarray) -> FreeRunErrors:
        error, relative = (bootstrap.mean(values, "records") for values in (rmse, nrmse))
        # A fit is what is left of 100 %: its interval is that of the error, turned round.
        ends = (100 * (1 - end) for end in (relative.value, relative.high, relative.low))
        return FreeRunErrors(
            error, relative, Estimate(*ends, relative.n, relative.method, relative.sample_unit)
        )

    return FreeRun(
        context=context,
        names=names,
        rows=[len(y) for y in real],
        rmse=rmse,
        channels=[over_records(*pair) for pair in zip(rmse.T, nrmse.T, strict=True)],
        mean=over_records(rmse.mean(1), nrmse.mean(1)),
        real=np.asarray(real[0][:SHOWN_ROWS]),
        simulated=said[0][:SHOWN_ROWS],
    )


def _rmse(real: np.ndarray, said: np.ndarray) -> np.ndarray:
    """(D,) from (rows, D). What is not a number is infinitely wrong, not missing."""
    error = np.sqrt(np.square(said.astype(np.float64) - real).mean(0))
    return np.where(np.isnan(error), np.inf, error)


# -------------------------------------------------------------------------------------- simulation


def _simulated(
    model: WorldModel,
    rows: StepArrays,
    records: Trajectories,
    options: EvaluationOptions,
    key: jax.Array,
) -> Iterator[dict[str, np.ndarray]]:
    """What is said of every record after its context, name -> (rows, D), a group at a time."""
    group = max(1, MOST_LANES // options.num_samples)
    for first in range(0, records.num_episodes, group):
        offsets = records.offsets[first : first + group]
        lengths = records.lengths[first : first + group]
        said = _followed(model, rows, offsets, lengths, options, jax.random.fold_in(key, first))
        for lane, length in enumerate(lengths - options.context):
            yield {name: values[lane, :length] for name, values in said.items()}


def _followed(
    model: WorldModel,
    rows: StepArrays,
    offsets: np.ndarray,
    lengths: np.ndarray,
    options: EvaluationOptions,
    key: jax.Array,
) -> dict[str, np.ndarray]:
    """name -> (B, >= longest, D): records that begin at `offsets` (B,), chunk by chunk. After a
    shorter one's end its last action is repeated, and what follows means nothing.
    """
    context, longest = options.context, int(lengths.max()) - options.context
    chunk = min(CHUNK, longest)
    window = gather_windows(rows, offsets, np.full(len(offsets), context), context)
    state = _start(model, window, options.num_samples, jax.random.fold_in(key, 0))
    said = []
    for begin in range(0, longest, chunk):
        steps = context - 1 + begin + np.arange(chunk)
        actions = rows.action[offsets[:, None] + np.minimum(steps, lengths[:, None] - 1)]
        state, means = _advance(model, state, actions, jax.random.fold_in(key, begin + 1))
        said.append(means)
    return {name: np.concatenate([np.asarray(s[name]) for s in said], 1) for name in said[0]}


@nnx.jit(static_argnums=2)
def _start(model: WorldModel, window: Window, samples: int, key: jax.Array) -> State:
    """The state (B x samples, ...) after the last row of the windows, once for every future."""
    window = jax.tree.map(lambda x: jnp.repeat(x, samples, 0), window)
    return jax.tree.map(lambda x: x[:, -1], model.observe(window, key))


@nnx.jit
def _advance(
    model: WorldModel, state: State, actions: jax.Array, key: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
    """The state (B x samples, ...) after actions (B, H, ...), and the mean over futures of each
    observation on the way, (B, H, D).
    """
    lanes = jax.tree.leaves(state)[0].shape[0]
    records, horizon = actions.shape[:2]
    states = model.rollout(state, jnp.repeat(actions, lanes // records, 0), key)
    said = {
        name: expected.mean().reshape(records, -1, horizon, *expected.mean().shape[2:]).mean(1)
        for name, expected in model.observation(states).items()
        if expected.mean().ndim == 3  # images are not decoded
    }
    return jax.tree.map(lambda x: x[:, -1], states), said
