"""What kind the actions of a dataset are: as declared by options or by their source, or else as the
data and the environment tell.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from worldmodel.config import DataOptions
from worldmodel.data.action_spec import LARGEST, ActionSpec
from worldmodel.errors import DataError

if TYPE_CHECKING:
    from worldmodel.data.trajectories import Trajectories

logger = logging.getLogger(__name__)

STEPS_AT_ONCE = 2**16
MAX_CLASSES = 2**16  # of a choice; larger integers are counts or time stamps
MAX_ASSUMED_CLASSES = 256  # of integers that no one declares; more may be numbers
MAX_SHOWN = 8  # columns in a message
ONE_CLASS = (
    "action: always class 0. If there are others, set data.classes or data.environment; else "
    "actions do nothing here"
)

Environment = Callable[[], ActionSpec | None]  # the actions of `data.environment`


def declared_actions(options: DataOptions, own: ActionSpec | None) -> ActionSpec | None:
    """The actions as `classes`, `action_low` and `action_high` declare them, or else as their
    source does, `own`; None where neither says.

    Raises DataError for bounds of another number of columns than the source has.
    """
    classes, low, high = options.classes, options.action_low, options.action_high
    if classes is None and (low is None or high is None):
        return own
    if classes is not None and len(classes) == 1 and classes[0]:
        return ActionSpec(True, classes[0])
    if classes is None and own is not None and own.kind == "mixed":
        if len(low or ()) != own.size:
            raise DataError(
                f"data.action_low has {len(low or ())} numbers; accepted: {own.size}, one per "
                f"column of {own.describe()} (those of classes are not used)"
            )
        return with_bounds(own, np.asarray(low), np.asarray(high))
    count = len(classes or low or ())
    low, high = low or [-math.inf] * count, high or [math.inf] * count  # open: from the data
    if classes is not None and any(classes):
        return ActionSpec.of_columns(classes, low, high)
    return ActionSpec(False, count, tuple(low), tuple(high))


def with_bounds(spec: ActionSpec, low: np.ndarray, high: np.ndarray) -> ActionSpec:
    """The spec with other bounds (K,) of its numbers."""
    if spec.discrete:
        return spec
    if not spec.parts:
        return replace(spec, low=tuple(low.tolist()), high=tuple(high.tolist()))
    parts, first = {}, 0
    for name, part in spec.parts:
        own = slice(first, first + part.num_columns)
        parts[name], first = with_bounds(part, low[own], high[own]), own.stop
    return ActionSpec.of_parts(parts)


def resolve_actions(
    declared: ActionSpec | None,
    source: str,
    kind: str,
    environment: Environment | None,
    actions: np.ndarray,
    lengths: np.ndarray,
) -> ActionSpec:
    """The spec of the actions of a dataset, (N, ...), as declared or else inferred; the rest is as
    in `infer_action_spec`.

    Raises DataError for actions of another shape than declared.
    """
    if declared is None:
        return infer_action_spec(actions, lengths, source, kind, environment)
    if actions.shape[1:] != declared.shape:
        raise DataError(
            f"{source}: actions have shape {actions.shape[1:]}; accepted: {declared.shape}, as "
            "declared (data.classes, data.action_low, data.action_high)"
        )
    return close_bounds(declared, actions, lengths)


def close_bounds(spec: ActionSpec, actions: np.ndarray, lengths: np.ndarray) -> ActionSpec:
    """The spec with its infinite bounds replaced by the extremes of the data."""
    if not spec.is_open:
        return spec
    least, most = extremes(actions, lengths)
    low_open, high_open = (~np.isfinite(side) for side in (spec.low, spec.high))
    low, high = np.where(low_open, least, spec.low), np.where(high_open, most, spec.high)
    empty = low >= high  # a constant, or all beyond the bound that is declared
    high = np.where(empty & high_open, low + _width(low), high)
    return with_bounds(spec, np.where(empty & ~high_open, high - _width(high), low), high)


def infer_action_spec(
    actions: np.ndarray,
    lengths: np.ndarray,
    source: str,
    kind: str = "f",
    environment: Environment | None = None,
) -> ActionSpec:
    """Infers the number of classes (N,), or the minimum and maximum of vectors (N, K).

    Integers (N,) below `MAX_ASSUMED_CLASSES` are classes, and columns of truth values choices among
    two. Other integers may be classes or numbers: the environment says, or else it is asked; in
    columns, those that cannot be classes are numbers, which a warning says. A constant dimension
    gets bounds of width 1 or more, since no width cannot be normalized.

    Args:
        actions: those of a dataset
        lengths: (episodes,) their steps
        source: for messages
        kind: of the columns as they were logged: `b`, `i` or `f`
        environment: returns the actions of the environment, or None

    Raises:
        DataError: integers that may be numbers or classes, with the options that say which
    """
    columns = actions if actions.ndim > 1 else actions[:, None]
    low, high = extremes(columns, lengths)
    numbers = partial(_numbers, low, high)
    if actions.ndim > 1 and kind == "f":
        return numbers()
    given = environment() if environment else None
    if given is not None and given.shape == actions.shape[1:]:
        fits = [
            n == 0 or a >= 0 and b < n for n, a, b in zip(given.classes, low, high, strict=True)
        ]
        if all(fits):
            return given if given.kind != "continuous" else numbers()
    counts = [int(n) for n in high + 1]
    if actions.ndim == 1:
        if low[0] < 0 or counts[0] > MAX_ASSUMED_CLASSES:
            raise DataError(f"{source}: {_question(low, high)}")
        return ActionSpec(discrete=True, size=counts[0])
    if kind == "b":
        return ActionSpec.of_columns([2] * len(counts), low, high)
    if (low >= 0).all() and (high < MAX_ASSUMED_CLASSES).all():
        raise DataError(f"{source}: {_question(low, high)}")
    logger.warning(
        "%s: actions are integers from %d to %d in %d columns, read as numbers; if each is one of "
        "several classes, set data.classes",
        source, low.min(), high.max(), len(counts),
    )  # fmt: skip
    return numbers()


def action_note(trajectories: Trajectories) -> str | None:
    """What to set if numbers that are all small integers are classes, or if one class of several
    was logged; None for other actions.
    """
    spec = trajectories.action_spec
    if spec.discrete and spec.size == 1:
        return ONE_CLASS
    if spec.kind != "continuous":
        return None
    high, one_hot, count = np.zeros(spec.size), spec.size > 1, 0
    for part in trajectories.chunks(trajectories.actions, padding=False):
        small = (part >= 0) & (part < MAX_ASSUMED_CLASSES) & (part == np.round(part))
        if not small.all():
            return None
        high, count = np.maximum(high, part.max(0, initial=0)), count + len(part)
        one_hot = one_hot and bool(((part.sum(1) == 1) & (part.max(1) == 1)).all())
    zeros = ",".join(["0"] * spec.size)
    if one_hot and (high == 1).sum() > 1:
        return (
            f"actions are one-hot in all steps, and read as {spec.size} numbers. "
            f"data.classes=[{spec.size}] reads them as {spec.size} classes, data.classes=[{zeros}] "
            "says that they are numbers"
        )
    if not high.max() or count < 2 * (high.max() + 1):  # hardly any is repeated
        return None
    classes = ",".join(f"{n + 1:.0f}" for n in high)
    return (
        f"actions are integers from 0 to {high.max():.0f} in all steps, and read as numbers. If "
        f"they are classes, set data.classes=[{classes}]; data.classes=[{zeros}] says that they "
        "are numbers"
    )


def extremes(actions: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K,) the least and the largest of the actions (N, K) of each column, without padding; 0
    where there is none.
    """
    low, high = np.full(actions.shape[1], np.inf), np.full(actions.shape[1], -np.inf)
    counted = np.ones(len(actions), bool)
    counted[np.cumsum(lengths) - 1] = False  # padding
    for begin in range(0, len(actions), STEPS_AT_ONCE):
        part = slice(begin, begin + STEPS_AT_ONCE)
        # Validation reports numbers that are not finite or too large.
        valid = counted[part, None] & (np.abs(actions[part]) <= LARGEST)
        values = np.asarray(actions[part], np.float64)
        low = np.minimum(low, values.min(0, initial=np.inf, where=valid))
        high = np.maximum(high, values.max(0, initial=-np.inf, where=valid))
    return np.where(low > high, 0.0, low), np.where(low > high, 0.0, high)


def _numbers(low: np.ndarray, high: np.ndarray) -> ActionSpec:
    high = np.where(low == high, low + _width(low), high)
    return ActionSpec(False, len(low), tuple(low.tolist()), tuple(high.tolist()))


def _width(bound: np.ndarray) -> np.ndarray:
    """Of the range of a constant."""
    return np.maximum(1, 1e-6 * np.abs(bound))


def _question(low: np.ndarray, high: np.ndarray) -> str:
    """What to set for integers between these extremes (K,)."""
    ranges = [f"{a:,.0f} to {b:,.0f}" for a, b in zip(low, high, strict=True)]
    zeros, counts = (f"[{','.join(map(str, x))}]" for x in ([0] * len(low), (high + 1).astype(int)))
    more = ", ..." if len(ranges) > MAX_SHOWN else ""
    where = f" in {len(low)} columns" if len(low) > 1 else ""
    found = f"{', '.join(ranges[:MAX_SHOWN])}{more}"
    accepted = f"data.classes={zeros} for numbers"
    if (low >= 0).all() and (high < MAX_CLASSES).all():
        accepted = f"data.classes={counts} for classes, {accepted}"
    return (
        f"actions are integers{where} ({found}), which may be classes or numbers; accepted: "
        f"{accepted} (at most {MAX_CLASSES:,} classes)"
    )
