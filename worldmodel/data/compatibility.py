"""Other logs for a model that was trained: they must look as its own did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import DataError, bullet_list, did_you_mean


def conform_to_spec(trajectories: Trajectories, spec: DataSpec) -> Trajectories:
    """The logs as a model of `spec` sees them: with its observations alone, and actions counted in
    its bounds. Raises DataError that names every field that does not fit.
    """
    faults = [*_of_observations(trajectories, spec), *_of_actions(trajectories, spec.action)]
    if faults:
        raise DataError(bullet_list(f"{trajectories.source}: not like the logs of the run", faults))
    kept = {key: trajectories.observations[key] for key in spec.observations}
    return replace(trajectories, observations=kept, action_spec=spec.action, digest=None)


def fraction_outside_bounds(trajectories: Trajectories) -> float:
    """The share of actions that lie outside the bounds, by more than rounding: models see them at
    the bound. 0 for classes.
    """
    spec = trajectories.action_spec
    if spec.discrete:
        return 0.0
    taken = np.ones(len(trajectories.actions), bool)
    taken[trajectories.last_steps] = False  # padding
    rows = trajectories.step_indices()
    actions = spec.normalize(trajectories.actions[rows[taken[rows]]])
    return float((np.abs(actions) > 1 + 1e-5).any(-1).mean())


def out_of_bounds_notes(trajectories: Trajectories) -> list[str]:
    """What one has to know of those that lie outside the bounds."""
    share = fraction_outside_bounds(trajectories)
    if not share:
        return []
    return [
        f"{100 * share:.2g} % of the actions lie outside the bounds that the model was trained in "
        "(data.action_low, data.action_high): it sees them at the bounds."
    ]


def _of_observations(trajectories: Trajectories, spec: DataSpec) -> Iterator[str]:
    there = trajectories.observations
    for key, wanted in spec.observations.items():
        if key not in there:
            yield f"observation {key!r} is missing{did_you_mean(key, there)}; there: {', '.join(there)}"
            continue
        shape, dtype = there[key].shape[1:], str(there[key].dtype)
        if (shape, dtype) != (wanted.shape, wanted.dtype):
            yield (
                f"observation {key!r} is {dtype} of shape {shape}; accepted: {wanted.dtype} of "
                f"shape {wanted.shape}"
            )


def _of_actions(trajectories: Trajectories, wanted: ActionSpec) -> Iterator[str]:
    found = trajectories.action_spec
    kinds = {True: "classes", False: "numbers"}
    if found.discrete != wanted.discrete:
        yield f"actions are {kinds[found.discrete]}; accepted: {kinds[wanted.discrete]}"
    elif wanted.discrete and found.size > wanted.size:
        yield f"actions are {found.size} classes; accepted: {wanted.size}"
    elif not wanted.discrete and found.size != wanted.size:
        yield f"actions are vectors of {found.size} numbers; accepted: {wanted.size}"
