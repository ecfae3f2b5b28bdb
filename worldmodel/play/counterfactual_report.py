"""Prints and draws what is imagined from a logged step under several sources of actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.loading import load
from worldmodel.play.counterfactual_rollouts import (
    CounterfactualRollout,
    counterfactual_rollouts,
    load_start,
    logged_rollout,
)
from worldmodel.play.figure import plot_rollouts
from worldmodel.play.observation_values import (
    WIDTH,
    error_unit,
    flatten_observation,
    format_heading,
    format_number,
    normalized_rmse,
    value_names,
)
from worldmodel.play.options import ACTIONS, PlayOptions
from worldmodel.system.compilation import enable_compilation_cache
from worldmodel.system.storage import make_directory, raise_storage_errors, user_path

STEP_WIDTH, NAME_WIDTH = 6, 9
MAX_VALUES = 5  # of an observation: with three columns more, 89 characters
DPI = 110


def report_counterfactuals(options: PlayOptions, episode: int) -> None:
    """Prints what follows under each source of actions in `episode`, and draws it. Raises
    UserError.
    """
    run = load(options.run, options.checkpoint)
    enable_compilation_cache(run.config.training.compilation_cache)
    sources = options.actions or [
        name
        for name in ACTIONS
        if name != "keyboard" and (name != "policy" or run.policy is not None)
    ]
    context = options.context or run.config.evaluation.context
    start = load_start(run, episode, options.start_step, context)
    steps = min(options.steps, start.steps_left) if "logged" in sources else options.steps
    imagined = counterfactual_rollouts(run, start, sources, steps, options.seed)
    truth = logged_rollout(start, steps) if "logged" in sources else None
    print(
        f"{run.config.name}, stage {run.stage}, step {run.step}: {run.config.model.name} from step "
        f"{start.step} of episode {start.episode}\nthe model filters "
        f"{min(context, start.step + 1)} steps, then imagines {steps} under each source of "
        f"actions with the same noise (seed {options.seed})"
    )
    print(*table(imagined, truth, run.spec), sep="\n")
    if options.figure is not None:
        path = user_path(options.figure)
        make_directory(path.absolute().parent)
        with raise_storage_errors(path):
            plot_rollouts(imagined, truth, run.spec).savefig(path, dpi=DPI)
        print(f"figure       {path}")


def table(
    imagined: Mapping[str, CounterfactualRollout],
    truth: CounterfactualRollout | None,
    spec: DataSpec,
) -> Iterator[str]:
    """Lines at steps 1, 2, 5, 10, 20, 50, ... and the last. Rewards are cumulative; imagined and
    logged ones have columns of their own.
    """
    names = value_names(spec)[:MAX_VALUES]
    headings = [*names, "imagined", "logged", "survival"]
    yield " " * (STEP_WIDTH + NAME_WIDTH + 2 + WIDTH * len(names)) + " cumulative reward"
    left = "step".rjust(STEP_WIDTH) + "  " + "actions".ljust(NAME_WIDTH)
    yield left + "".join(map(format_heading, headings))
    steps = next(iter(imagined.values())).steps
    for step in milestones(steps):
        rows = []
        for name, rollout in imagined.items():
            survival = None if rollout.survival is None else float(rollout.survival[step - 1])
            rewards = [_cumulative(rollout.reward, step), None, survival]
            rows.append((name, _values(rollout, spec, step) + rewards))
            if name == "logged" and truth is not None:
                rewards = [None, _cumulative(truth.reward, step), None]
                rows.append(("  truth", _values(truth, spec, step) + rewards))
        for i, (name, cells) in enumerate(rows):
            left = str(step) if i == 0 else ""
            line = left.rjust(STEP_WIDTH) + "  " + name.ljust(NAME_WIDTH)
            yield line + "".join(map(format_number, cells))
    if truth is not None:
        errors = [
            normalized_rmse(_at(imagined["logged"], step), _at(truth, step), spec)
            for step in range(1, steps + 1)
        ]
        yield f"\nmedian error under the logged actions: {np.median(errors):.3g} {error_unit(spec)}"


def milestones(steps: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... below `steps`, and `steps`."""
    powers = range(len(str(steps)))
    return sorted({n * 10**p for p in powers for n in (1, 2, 5) if n * 10**p < steps} | {steps})


def _cumulative(reward: np.ndarray | None, step: int) -> float | None:
    return None if reward is None else float(np.sum(reward[:step], dtype=np.float64))


def _values(rollout: CounterfactualRollout, spec: DataSpec, step: int) -> list[float | None]:
    return flatten_observation(_at(rollout, step), spec)[:MAX_VALUES].tolist()


def _at(rollout: CounterfactualRollout, step: int) -> dict[str, np.ndarray]:
    return {name: value[step - 1] for name, value in rollout.observation.items()}
