"""What is imagined under several choices of actions, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.loading import load
from worldmodel.play import observation_values
from worldmodel.play.counterfactual_rollouts import (
    CounterfactualRollout,
    counterfactual_rollouts,
    load_start,
    logged_rollout,
)
from worldmodel.play.figure import plot_rollouts
from worldmodel.play.observation_values import WIDTH, format_heading, format_number
from worldmodel.play.options import ACTIONS, PlayOptions
from worldmodel.system.compilation import enable_compilation_cache
from worldmodel.system.storage import make_directory, raise_storage_errors

STEP_WIDTH, NAME_WIDTH = 6, 9
MOST_NUMBERS = 5  # of an observation: with three columns more, 89 characters
DPI = 110  # of a picture


def play(options: PlayOptions) -> None:
    """Prints what follows under each choice of actions, and draws it. Raises UserError."""
    run = load(options.run, options.checkpoint)
    enable_compilation_cache(run.config.training.compilation_cache)
    names = options.actions or [
        name
        for name in ACTIONS
        if name != "keyboard" and (name != "policy" or run.policy is not None)
    ]
    context = options.context or run.config.evaluation.context
    start = load_start(run, options.episode, options.start_step, context)
    steps = min(options.steps, start.steps_left) if "logged" in names else options.steps
    imagined = counterfactual_rollouts(run, start, names, steps, options.seed)
    truth = logged_rollout(start, steps) if "logged" in names else None
    print(
        f"{run.config.name}, {run.stage} at step {run.step}: {run.config.model.name} from row "
        f"{start.row} of episode {start.number}\n{min(context, start.row + 1)} rows were seen, "
        f"{steps} steps are imagined under each choice, with the same noise (seed {options.seed})"
    )
    print(*table(imagined, truth, run.spec), sep="\n")
    if options.figure is not None:
        path = Path(options.figure).expanduser()
        make_directory(path.absolute().parent)
        with raise_storage_errors(path):
            plot_rollouts(imagined, truth, run.spec).savefig(path, dpi=DPI)
        print(f"figure       {path}")


def table(
    imagined: Mapping[str, CounterfactualRollout],
    truth: CounterfactualRollout | None,
    spec: DataSpec,
) -> Iterator[str]:
    """Lines at steps 1, 2, 5, 10, 20, 50, ... and the last. Rewards are sums so far, imagined and
    logged ones in columns of their own.
    """
    shown = observation_values.value_names(spec)[:MOST_NUMBERS]
    steps = len(next(iter(imagined.values())).survival)
    heads = [*shown, "imagined", "logged", "goes on"]
    yield " " * (STEP_WIDTH + NAME_WIDTH + 2 + WIDTH * len(shown)) + " reward so far"
    left = "step".rjust(STEP_WIDTH) + "  " + "actions".ljust(NAME_WIDTH)
    yield left + "".join(map(format_heading, heads))
    for step in milestones(steps):
        rows = []
        for name, future in imagined.items():
            sums = [_so_far(future.reward, step), None, future.survival[step - 1]]
            rows.append((name, _numbers(future, spec, step) + sums))
            if name == "logged" and truth is not None:
                sums = [None, _so_far(truth.reward, step), None]
                rows.append(("  truth", _numbers(truth, spec, step) + sums))
        for i, (name, cells) in enumerate(rows):
            left = str(step) if i == 0 else ""
            line = left.rjust(STEP_WIDTH) + "  " + name.ljust(NAME_WIDTH)
            yield line + "".join(map(format_number, cells))
    if truth is not None:
        errors = [
            observation_values.normalized_rmse(
                _at(imagined["logged"], step), _at(truth, step), spec
            )
            for step in range(1, steps + 1)
        ]
        unit = observation_values.error_unit(spec)
        yield f"\nmedian error under the logged actions: {np.median(errors):.3g} {unit}"


def milestones(steps: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to `steps`, and that."""
    powers = range(len(str(steps)))
    return sorted({n * 10**p for p in powers for n in (1, 2, 5) if n * 10**p < steps} | {steps})


def _so_far(reward: np.ndarray | None, step: int) -> float | None:
    return None if reward is None else float(np.sum(reward[:step], dtype=np.float64))


def _numbers(future: CounterfactualRollout, spec: DataSpec, step: int) -> list[float | None]:
    return observation_values.flatten_observation(_at(future, step), spec)[:MOST_NUMBERS].tolist()


def _at(future: CounterfactualRollout, step: int) -> dict[str, np.ndarray]:
    return {name: value[step - 1] for name, value in future.observation.items()}
