"""What the held-out episodes are long enough for, known before a model is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from worldmodel.config import Config, EvaluationOptions
from worldmodel.config.registry import entry_of
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import DataError

MOST_EPISODES = 400  # that predictions are evaluated on


def check_evaluable(config: Config, spec: DataSpec, held_out: Trajectories) -> None:
    """Raises DataError for episodes too short for any prediction or free run that the evaluation of
    the run makes.
    """
    if not entry_of("model", config.model).target.has_dynamics:
        return
    options = add_training_horizons(config.evaluation, [config])
    reachable_horizons(held_out.observed_lengths[evaluated_episodes(held_out)], options)
    if options.free_run:
        check_free_run(held_out, spec, options)


def add_training_horizons(
    options: EvaluationOptions, configs: Iterable[Config]
) -> EvaluationOptions:
    """Adds the horizons at which the runs use their models: as far as the policy imagined while it
    learned, and as far as a planner looks ahead.
    """
    own = {h for config in configs if (h := config.policy.imagined_horizon) is not None}
    own |= {options.planner.horizon} if options.planner.kind != "none" else set()
    return replace(options, horizons=sorted({*options.horizons, *own}))


def evaluated_episodes(held_out: Trajectories) -> np.ndarray:
    """The episodes that predictions are evaluated on: at most MOST_EPISODES, evenly spaced."""
    count = held_out.num_episodes
    if count <= MOST_EPISODES:
        return np.arange(count)
    return np.linspace(0, count - 1, MOST_EPISODES).astype(int)


def reachable_horizons(
    lengths: np.ndarray, options: EvaluationOptions
) -> tuple[list[int], list[str]]:
    """The horizons that an episode is long enough for, and a note on the others."""
    room = int(max(np.max(lengths - 1 - earliest(lengths, options)), 0))
    wanted = sorted(set(options.horizons))
    kept = [h for h in wanted if h <= room]
    if not kept:
        first = options.first_start
        start = "" if first is None else f" and evaluation.first_start={first}"
        raise DataError(
            f"evaluation.horizons={wanted}: the longest held-out episode leaves {room} steps "
            f"after evaluation.context={options.context} steps{start}; accepted: a horizon up to "
            "that"
        )
    left_out = ", ".join(str(h) for h in wanted if h > room)
    note = f"Horizons left out, because no held-out episode is long enough: {left_out}."
    return kept, [note] if left_out else []


def earliest(lengths: np.ndarray, options: EvaluationOptions) -> np.ndarray:
    """(episodes,) the first step a prediction starts from: after the context, if there is room for
    it, and not before `options.first_start`.
    """
    return np.maximum(np.minimum(options.context - 1, lengths - 2), options.first_start or 0)


def check_free_run(records: Trajectories, spec: DataSpec, options: EvaluationOptions) -> None:
    """Raises DataError if no record is longer than the context, or all observations are images."""
    if all(o.is_image for o in spec.observations.values()):
        raise DataError(
            f"evaluation.free_run: {', '.join(spec.observations)} are images; accepted: a run that "
            "observes a vector"
        )
    if (records.observed_lengths <= options.context).all():
        raise DataError(
            f"evaluation.free_run: the longest record has {records.observed_lengths.max()} steps; "
            f"accepted: more than evaluation.context={options.context}"
        )
