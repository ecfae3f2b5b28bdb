"""What is imagined under several choices of actions, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.loading import load
from worldmodel.play import numbers
from worldmodel.play.futures import Future, futures, logged, place
from worldmodel.play.numbers import WIDTH, heading, number
from worldmodel.play.options import ACTIONS, PlayOptions
from worldmodel.play.picture import draw
from worldmodel.system.compilation import use_cache
from worldmodel.system.storage import make_folder, writing

STEP_WIDTH, NAME_WIDTH = 6, 9
MOST_NUMBERS = 5  # of an observation: with three columns more, 89 characters
DPI = 110  # of a picture


def play(options: PlayOptions) -> None:
    """Prints what follows under each choice of actions, and draws it. Raises UserError."""
    run = load(options.run, options.checkpoint)
    use_cache(run.config.training.compilation_cache)
    names = options.actions or [
        name for name in ACTIONS if name != "keys" and (name != "policy" or run.policy is not None)
    ]
    context = options.context or run.config.evaluation.context
    start = place(run, options.episode, options.row, context)
    steps = min(options.steps, start.left) if "logged" in names else options.steps
    imagined = futures(run, start, names, steps, options.seed)
    truth = logged(start, steps) if "logged" in names else None
    print(
        f"{run.config.name}, {run.stage} at step {run.step}: {run.config.model.name} from row "
        f"{start.row} of episode {start.number}\n{min(context, start.row + 1)} rows were seen, "
        f"{steps} steps are imagined under each choice, with the same noise (seed {options.seed})"
    )
    print(*table(imagined, truth, run.spec), sep="\n")
    if options.picture is not None:
        path = Path(options.picture).expanduser()
        make_folder(path.absolute().parent)
        with writing(path):
            draw(imagined, truth, run.spec).savefig(path, dpi=DPI)
        print(f"picture      {path}")


def table(imagined: Mapping[str, Future], truth: Future | None, spec: DataSpec) -> Iterator[str]:
    """Lines at steps 1, 2, 5, 10, 20, 50, ... and the last. Rewards are sums so far, imagined and
    logged ones in columns of their own.
    """
    shown = numbers.names(spec)[:MOST_NUMBERS]
    steps = len(next(iter(imagined.values())).goes_on)
    heads = [*shown, "imagined", "logged", "goes on"]
    yield " " * (STEP_WIDTH + NAME_WIDTH + 2 + WIDTH * len(shown)) + " reward so far"
    left = "step".rjust(STEP_WIDTH) + "  " + "actions".ljust(NAME_WIDTH)
    yield left + "".join(map(heading, heads))
    for step in milestones(steps):
        rows = []
        for name, future in imagined.items():
            sums = [_so_far(future.reward, step), None, future.goes_on[step - 1]]
            rows.append((name, _numbers(future, spec, step) + sums))
            if name == "logged" and truth is not None:
                sums = [None, _so_far(truth.reward, step), None]
                rows.append(("  truth", _numbers(truth, spec, step) + sums))
        for i, (name, cells) in enumerate(rows):
            left = str(step) if i == 0 else ""
            line = left.rjust(STEP_WIDTH) + "  " + name.ljust(NAME_WIDTH)
            yield line + "".join(map(number, cells))
    if truth is not None:
        errors = [
            numbers.error(_at(imagined["logged"], step), _at(truth, step), spec)
            for step in range(1, steps + 1)
        ]
        unit = numbers.unit_of_error(spec)
        yield f"\nmedian error under the logged actions: {np.median(errors):.3g} {unit}"


def milestones(steps: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to `steps`, and that."""
    powers = range(len(str(steps)))
    return sorted({n * 10**p for p in powers for n in (1, 2, 5) if n * 10**p < steps} | {steps})


def _so_far(reward: np.ndarray | None, step: int) -> float | None:
    return None if reward is None else float(np.sum(reward[:step], dtype=np.float64))


def _numbers(future: Future, spec: DataSpec, step: int) -> list[float | None]:
    return numbers.values(_at(future, step), spec)[:MOST_NUMBERS].tolist()


def _at(future: Future, step: int) -> dict[str, np.ndarray]:
    return {name: value[step - 1] for name, value in future.observation.items()}
