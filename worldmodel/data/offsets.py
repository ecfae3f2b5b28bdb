"""Columns whose steps float32 cannot hold at their size: positions of 5e6 m with steps of 2 cm,
unix times, counts of encoders. An offset is taken off such a column in float64, before it becomes
float32, and added again where values leave the package.

The rule. A column needs an offset if converting it would change its steps by more than LOSS of
their root mean square. That is decided per column on the first episodes, up to PENDING_EPISODES or
PENDING_BYTES of them, which are held until then; of later ones every EVERY-th is compared, and what
still loses digits is told. Values that are float32 already, or small integers, lose none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from worldmodel.data.columns import ColumnWriter
from worldmodel.data.episode_lengths import OBSERVATION

LOSS = 0.01  # of the typical step
FAR = 2.0**62  # differences below it are exact in 64 bits
EXACT = 2**24  # integers below it are exact in float32
PENDING_EPISODES, PENDING_BYTES = 64, 2**26
EVERY = 16  # episodes, after those that were pending
ROWS = 2**16  # of an episode that are compared

Offsets = dict[str, tuple[float, ...]]  # vector -> (D,); only those that have an offset


def subtract_offset(values: Any, offset: ArrayLike) -> np.ndarray:
    """Vectors (..., D) less their offset, computed without loss, as float32."""
    values, taken = np.asarray(values), np.asarray(offset, np.float64)
    near = values.astype(np.float64) - taken
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        return np.where(np.abs(near) < FAR, _wrapped(values, taken), near).astype(np.float32)
    return near.astype(np.float32)


def _wrapped(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Integers of 64 bits less whole numbers, exact where the difference is less than `FAR`."""
    sizes = np.abs(taken).astype(np.uint64)
    return (values.astype(np.uint64) - np.where(taken < 0, ~sizes + np.uint64(1), sizes)).view(
        np.int64
    )


def _steps(rows: np.ndarray) -> np.ndarray:
    """Differences of consecutive rows, without overflow of unsigned integers."""
    if rows.dtype == np.uint64:
        return np.diff(rows, axis=0).view(np.int64)
    return np.diff(rows.astype(np.int64) if rows.dtype.kind == "u" else rows, axis=0)


def add_offset(values: Any, offset: Sequence[float]) -> np.ndarray:
    """Vectors (..., D) with their offset again, as float64; without one they are unchanged."""
    if not len(offset):
        return values
    return np.asarray(values, np.float64) + np.asarray(offset, np.float64)


class Loss:
    """What the conversion of a field (n, D) to float32 changes, added up over episodes."""

    def __init__(self, offset: Sequence[float] = ()):
        self.offset, self.count = offset, 0
        self.steps: Any = 0.0  # (D,) sums of squares of steps, and of their errors
        self.errors: Any = 0.0
        self.low: Any = np.inf
        self.high: Any = -np.inf

    def add(self, values: np.ndarray) -> None:
        rows = values[:ROWS]
        with np.errstate(all="ignore"):  # numbers that are not finite are reported elsewhere
            step = _steps(rows).astype(np.float64)
            offset = self.offset if len(self.offset) else np.zeros(rows.shape[1])
            error = np.diff(subtract_offset(rows, offset).astype(np.float64), axis=0) - step
            self.count += len(step)
            self.steps = self.steps + np.square(step).sum(0)
            self.errors = self.errors + np.square(error).sum(0)
            self.low = np.minimum(self.low, rows.min(0))
            self.high = np.maximum(self.high, rows.max(0))

    @property
    def lossy(self) -> np.ndarray:
        """(D,) bool: columns of which more than LOSS of the typical step is lost."""
        if not self.count:
            return np.zeros(1, bool)
        return (self.steps > 0) & (self.errors > LOSS**2 * self.steps)

    def best_offset(self) -> tuple[float, ...]:
        """(D,) the middle of the lossy columns, to a power of two of their extent, so that adding
        and subtracting it is exact; 0 for the others.
        """
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        with np.errstate(all="ignore"):
            unit = np.exp2(np.floor(np.log2(high - low)))
            unit = np.maximum(unit, np.spacing(np.maximum(np.abs(low), np.abs(high))))
            middle = np.round((low + high) / 2 / unit) * unit
        return tuple(np.where(self.lossy, middle, 0.0).tolist())

    def text(self) -> str:
        """The column of which most is lost, with numbers."""
        share = np.sqrt(np.where(self.lossy, self.errors / self.steps, 0.0))
        column = int(share.argmax())
        size = max(abs(float(self.low[column])), abs(float(self.high[column])))
        step = float(np.sqrt(self.steps[column] / self.count))
        place = f"column {column}, " if len(share) > 1 else ""
        return (
            f"{place}values up to {size:.6g} with typical steps of {step:.3g}: float32 holds such "
            f"values to {np.spacing(np.float32(size)):.2g}, so {min(share[column], 1):.0%} of a "
            "step is lost"
        )


class _Pending(NamedTuple):
    fields: dict[str, np.ndarray]
    raw: dict[str, np.ndarray]


class OffsetWriter:
    """Writes the fields of episodes into columns, with offsets taken off where the rule says so.

    fields of vectors: names of fields that may get an offset; of the others a loss is only told
    """

    def __init__(self, columns: ColumnWriter, given: Mapping[str, Sequence[float]] | None = None):
        self.columns, self.offsets = columns, {k: tuple(v) for k, v in (given or {}).items()}
        self.losses: dict[str, Loss] = {}
        self.pending: list[_Pending] = []
        self.pending_bytes = self.episodes = 0
        self.decided = False

    def append(
        self, fields: dict[str, np.ndarray], raw: Callable[[], Mapping[str, np.ndarray]]
    ) -> None:
        """Adds an episode: its final fields (T+1, ...), and what gives those before conversion."""
        compare = not self.decided or self.episodes % EVERY == 0
        if not (compare or self.offsets):
            self.episodes += 1
            self.columns.append(fields)
            return
        wide = {k: x for k, x in raw().items() if k in self.offsets or compare and _wide(x)}
        wide = {name: x.reshape(len(x), -1) for name, x in wide.items()}
        self.episodes += 1
        for name, values in wide.items() if compare else ():
            self.losses.setdefault(name, Loss(self.offsets.get(name, ()))).add(values)
        if self.decided:
            self._write(_Pending(fields, wide))
            return
        self.pending.append(_Pending(fields, wide))
        self.pending_bytes += sum(x.nbytes for x in (*fields.values(), *wide.values()))
        if len(self.pending) >= PENDING_EPISODES or self.pending_bytes >= PENDING_BYTES:
            self._decide()

    def finish(self) -> dict[str, np.ndarray]:
        """Returns the columns."""
        self._decide()
        return self.columns.finish()

    def lost_digits(self) -> dict[str, str]:
        """field -> what of its digits was lost all the same, for those of which it matters."""
        return {name: loss.text() for name, loss in self.losses.items() if loss.lossy.any()}

    def _decide(self) -> None:
        if self.decided:
            return
        self.decided = True
        for name, loss in self.losses.items():
            if name.startswith(OBSERVATION) and name not in self.offsets and loss.lossy.any():
                self.offsets[name] = loss.best_offset()
                self.losses[name] = Loss(self.offsets[name])
                for episode in self.pending:
                    if name in episode.raw:
                        self.losses[name].add(episode.raw[name])
        for episode in self.pending:
            self._write(episode)
        self.pending.clear()

    def _write(self, episode: _Pending) -> None:
        fields = episode.fields
        for name, offset in self.offsets.items():
            values = episode.raw.get(name)
            if values is None:  # float32 already
                fields[name] = subtract_offset(fields[name], offset)
                continue
            values = subtract_offset(values, offset)
            missing = len(fields[name]) - len(values)  # the placeholder of a final observation
            fields[name] = np.concatenate([values, values[-1:]]) if missing else values
        self.columns.append(fields)


def _wide(values: Any) -> bool:
    """Whether values may lose digits in float32."""
    if not isinstance(values, np.ndarray) or values.size == 0:
        return False
    if values.dtype.kind == "f":
        return values.dtype.itemsize > 4
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 4:
        return False
    return bool(values.max() >= EXACT or values.min() <= -EXACT)
