"""Checks that the fields of an episode have as many steps as its observations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

OBSERVATION = "observation "  # how the names of observations begin in messages


def observation_field(key: str) -> str:
    """The name of an observation in messages."""
    return f"{OBSERVATION}{key!r}"


def length_errors(name: str, columns: dict[str, np.ndarray], final_logged: bool) -> Iterator[str]:
    """Fields whose number of steps does not match that of the first observation."""
    if not any(field.startswith(OBSERVATION) for field in columns):
        yield f"{name}: no observations; accepted: at least one named observation"
        return
    reference = next(iter(columns))
    steps = len(columns[reference])
    if steps < 1 + final_logged:
        yield f"{name}: {steps} step(s); accepted: at least 2, which make a transition"
        return
    acted = (steps - 1, steps) if final_logged else (steps,)
    for field, value in columns.items():
        accepted = (steps,) if field.startswith(OBSERVATION) else acted
        if len(value) not in accepted:
            yield (
                f"{name}: {field} has {len(value)} steps, {reference} has {steps}; "
                f"accepted: {' or '.join(map(str, accepted))}"
            )


def time_errors(name: str, observations: Mapping[str, Any], given: Any) -> Iterator[str]:
    """What is wrong with the time of the steps, None if it was not logged."""
    if given is None:
        return
    try:
        time = np.asarray(given, np.float64)
    except (ValueError, TypeError):
        yield f"{name}: time is not numeric; accepted: seconds"
        return
    steps = len(next(iter(observations.values())))
    if time.shape != (steps,):
        yield f"{name}: time has shape {time.shape}; accepted: ({steps},)"
        return
    backwards = np.flatnonzero(~(np.diff(time) >= 0))
    if len(backwards):
        step = int(backwards[0]) + 1
        yield (
            f"{name}, step {step}: time is {time[step]:.10g} after {time[step - 1]:.10g}; "
            "accepted: time that does not decrease"
        )
