"""The episodes of the named arrays of a file, read in slices."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from worldmodel.config import DataOptions, option
from worldmodel.data.episodes import Episode
from worldmodel.data.observations import ObservationChoice
from worldmodel.data.readers.arrays.axes import AXES, laid_end_to_end
from worldmodel.data.readers.arrays.episode_counts import check_counts
from worldmodel.data.readers.arrays.fields import Arrays, Fields, fields_of, unread
from worldmodel.data.readers.arrays.joined_actions import JoinedActions
from worldmodel.data.readers.arrays.layouts import Layout, layout_of
from worldmodel.data.readers.marks import FieldNames
from worldmodel.data.readers.sizes import check_memory

logger = logging.getLogger(__name__)

MAX_SMALL_CLASS = 255  # larger integers (N, 1) are counts
SIMULATOR = {"qpos", "qvel"}  # what files of OGBench hold besides
MAX_EXACT = 2**24  # of float32 integers


@dataclass
class ArrayOptions(DataOptions):
    """Options of the formats of named arrays."""

    axes: str | None = option(
        None,
        "axes of the arrays before those of a step (null: recognized, or asked)",
        choices=AXES,
    )


def episodes(
    arrays: Arrays,
    roles: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
    prefix: str,
    options: ArrayOptions,
    told: FieldNames,
    opened: Callable[[str], Any],
) -> Iterator[Episode]:
    """Yields the episodes of a file; warns about what is not read.

    Args:
        arrays: name -> array, of the names in `roles`
        roles: name -> role, see `field_roles`
        shapes: of all arrays of the file
        source: the file, for warnings
        prefix: of the names of episodes
        options: those of the data set
        told: the fields that were named already
        opened: loads an array of the file by its name

    Raises:
        DataError: arrays that do not fit together
    """
    fields = fields_of(arrays, roles, options.roles)
    if isinstance(fields.actions, JoinedActions):
        fields.actions.check_declared(options.classes)
    rows = {len(fields.actions), *map(len, fields.observations.values())}
    told.warn(unread(shapes, [*roles, *options.roles], rows), len(fields.actions))
    fields = _chosen(fields, options)
    batch = laid_end_to_end(fields, options.axes)
    fields = batch.fields if batch else fields
    layout = layout_of(fields, batch, source, ogbench=not SIMULATOR.isdisjoint(shapes))
    check_counts(shapes, {*roles, *options.roles}, opened, layout.last)
    numbers = are_counts(fields.actions, source)
    names = _names(fields, prefix, len(layout.last))
    begins = np.concatenate([[0], layout.last[:-1] + 1]).tolist()
    row_bytes = sum(map(_row_bytes, layout.observations.values()))
    lost: list[float] = []
    for index, (begin, last) in enumerate(zip(begins, layout.last.tolist(), strict=True)):
        part, shift = slice(begin, last + 1), layout.extra_rows * index
        continues = bool(layout.continues[index])
        check_memory(row_bytes * (last - begin), names[index])
        rewards = None if fields.rewards is None else np.asarray(fields.rewards[part])
        final = {} if continues else _final(layout, index, last)
        rows = slice(begin + shift, last + 1 + shift + layout.extra_rows + continues)
        observations = {key: np.asarray(value[rows]) for key, value in layout.observations.items()}
        if final:
            observations = {k: np.concatenate([v, final[k]]) for k, v in observations.items()}
        padded = layout.complete and not layout.extra_rows and not continues
        if padded and rewards is not None:
            lost += rewards[-1:].reshape(-1).tolist()
        if padded and last == begin:  # the final observation alone
            continue
        yield Episode(
            observations,
            actions=step_actions(np.asarray(fields.actions[part]), numbers),
            rewards=rewards,
            terminated=bool(layout.terminated[index]),
            name=names[index],
            final_logged=bool(final) or layout.complete or continues,
        )
    if np.count_nonzero(lost):
        logger.warning(
            "%s: %d rows hold a final observation alone; their rewards are left out, %d of them "
            "not 0 (sum %g)",
            source, len(lost), np.count_nonzero(lost), np.sum(lost),
        )  # fmt: skip


def _chosen(fields: Fields, options: ArrayOptions) -> Fields:
    """The same with the observations that the options choose; the others are not read."""
    kept = ObservationChoice.of(options).among(fields.observations)
    out = fields.observations.keys() - {*kept}
    every = (fields.observations, fields.next_observations, fields.final_observations)
    now, after, final = ({k: v for k, v in given.items() if k not in out} for given in every)
    return replace(fields, observations=now, next_observations=after, final_observations=final)


def _final(layout: Layout, index: int, last: int) -> dict[str, np.ndarray]:
    """The observation after the last row of an episode, (1, ...) each; empty if not logged."""
    if not layout.known[index]:
        return {}
    given, row = layout.next_observations, last
    if not given:
        given, row = layout.final_observations, index
    return {key: np.asarray(value[row : row + 1]) for key, value in given.items()}


def _row_bytes(array: Any) -> int:
    return math.prod(array.shape[1:]) * array.dtype.itemsize


def _names(fields: Fields, prefix: str, count: int) -> list[str]:
    if fields.names is None or fields.names.shape != (count,):
        return [f"{prefix}episode {index}" for index in range(count)]
    names = [n.decode(errors="replace") if isinstance(n, bytes) else n for n in fields.names]
    return [f"{prefix}{name}" for name in names]


def are_counts(actions: Any, source: str) -> bool:
    """Whether integers (N, 1) are numbers and not classes: some are negative, or beyond 255."""
    if actions.dtype.kind not in "iu" or actions.shape[1:] != (1,):
        return False
    values = np.asarray(actions[:])
    low, high = int(values.min()), int(values.max())
    counts = (low < 0 or high > MAX_SMALL_CLASS) and max(-low, high) <= MAX_EXACT
    if counts:
        logger.warning(
            "%s: actions are integers from %d to %d, of %d values: read as numbers, unless "
            "data.classes says that they are classes",
            source, low, high, len(np.unique(values)),
        )  # fmt: skip
    return counts


def step_actions(actions: np.ndarray, numbers: bool) -> np.ndarray:
    """Turns (T, 1) integers into classes (T,), or into `numbers`; all else is unchanged."""
    if numbers:
        return actions.astype(np.float64)
    return actions[:, 0] if actions.dtype.kind in "iu" and actions.shape[1:] == (1,) else actions
