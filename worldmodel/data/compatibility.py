"""Whether a dataset fits a model that was trained on another one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from worldmodel.data.offsets import subtract_offset
from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.data.trajectories import NUMBERS_AT_ONCE, Trajectories, check_dataset
from worldmodel.errors import DataError, bullet_list, did_you_mean, require


def conform_to_spec(trajectories: Trajectories, spec: DataSpec) -> Trajectories:
    """Returns the dataset as a model of `spec` sees it: with the model's observations only, and
    with actions normalized by the model's bounds. Raises DataError for fields that do not fit.
    """
    check_dataset(trajectories)
    require(isinstance(spec, DataSpec), "spec", type(spec).__name__, "a DataSpec, as `run.spec`")
    errors = [*_observation_errors(trajectories, spec), *_action_errors(trajectories, spec.action)]
    if errors:
        head = f"{trajectories.source}: does not match the dataset of the run"
        raise DataError(bullet_list(head, errors))
    kept = {
        key: _with_offset(trajectories, key, wanted.offset)
        for key, wanted in spec.observations.items()
    }
    offsets = {key: o.offset for key, o in spec.observations.items() if o.offset}
    return replace(
        trajectories,
        observations=kept,
        action_spec=spec.action,
        digest=None,
        vector_offsets=offsets,
    )


def _with_offset(trajectories: Trajectories, key: str, wanted: tuple[float, ...]) -> np.ndarray:
    """An observation with the offset of the model; a copy if its own is another one."""
    value, own = trajectories.observations[key], tuple(trajectories.vector_offsets.get(key, ()))
    if own == wanted:
        return value
    zeros = (0.0,) * value.shape[1]
    difference = np.subtract(wanted or zeros, own or zeros)
    converted, at_once = np.empty(value.shape, np.float32), max(1, NUMBERS_AT_ONCE // len(zeros))
    for begin in range(0, len(value), at_once):
        part = slice(begin, begin + at_once)
        converted[part] = subtract_offset(value[part], difference)
    return converted


def fraction_outside_bounds(trajectories: Trajectories) -> float:
    """Share of the actions that exceed the bounds by more than rounding; 0 for classes.

    Models see these actions clipped to the bounds.
    """
    spec = trajectories.action_spec
    if spec.discrete:
        return 0.0
    taken = np.ones(len(trajectories.actions), bool)
    taken[trajectories.last_steps] = False  # padding
    steps = trajectories.step_indices()
    actions = spec.normalize(trajectories.actions[steps[taken[steps]]])
    numbers = np.asarray(spec.classes) == 0
    return float((np.abs(actions[:, numbers]) > 1 + 1e-5).any(-1).mean())


def out_of_bounds_notes(trajectories: Trajectories) -> list[str]:
    """A note for the report if actions exceed the bounds of the model."""
    share = fraction_outside_bounds(trajectories)
    if not share:
        return []
    return [
        f"{100 * share:.2g} % of the actions exceed the bounds with which the model was trained "
        "(data.action_low, data.action_high); they are clipped to these bounds."
    ]


def _observation_errors(trajectories: Trajectories, spec: DataSpec) -> Iterator[str]:
    present = trajectories.observations
    for key, wanted in spec.observations.items():
        if key not in present:
            hint = did_you_mean(key, present)
            yield f"observation {key!r} is missing{hint}; present: {', '.join(present)}"
            continue
        shape, dtype = present[key].shape[1:], str(present[key].dtype)
        if (shape, dtype) != (wanted.shape, wanted.dtype):
            yield (
                f"observation {key!r} is {dtype} of shape {shape}; accepted: {wanted.dtype} of "
                f"shape {wanted.shape}"
            )


def _action_errors(trajectories: Trajectories, wanted: ActionSpec) -> Iterator[str]:
    present = trajectories.action_spec
    if present.kind != wanted.kind:
        yield f"actions are {present.kind}; accepted: {wanted.kind}"
    elif wanted.discrete and present.size > wanted.size:
        yield f"actions have {present.size} classes; accepted: {wanted.size}"
    elif not wanted.discrete and present.size != wanted.size:
        yield f"actions have {present.size} dimensions; accepted: {wanted.size}"
    else:
        for name, n, most in zip(
            wanted.column_names(), present.classes, wanted.classes, strict=True
        ):
            if bool(n) != bool(most) or n > most:
                yield f"action {name!r} has {n or 'no'} classes; accepted: {most or 'numbers'}"
