"""Prints and draws what is imagined from a logged step under several sources of actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.figure import Figure

from worldmodel.data.plots import GRID
from worldmodel.data.spec import DataSpec
from worldmodel.errors import printable
from worldmodel.loading import load
from worldmodel.play.counterfactual_rollouts import (
    CounterfactualRollout,
    counterfactual_rollouts,
    load_start,
    logged_rollout,
)
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
from worldmodel.system.compilation import enable_default_compilation_cache
from worldmodel.system.storage import make_directory, raise_storage_errors, user_path

STEP_WIDTH, NAME_WIDTH = 6, 9
MAX_VALUES = 5  # of an observation: with three columns more, 89 characters
MAX_PANELS = 5  # and one for the reward
MAX_FRAMES = 8  # of images, in a row
COLOURS = {"policy": "#007a5a", "random": "#c65102", "zero": "#9aa3ad", "logged": "#0067a5"}
TRUTH = "#1c1f23"
DPI = 110


def report_counterfactuals(options: PlayOptions, episode: int) -> None:
    """Prints what follows under each source of actions in `episode`, and draws it. Raises
    UserError.
    """
    run = load(options.run, options.checkpoint, allow_code=options.allow_code)
    enable_default_compilation_cache()
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
        f"{printable(run.config.name)}, stage {run.stage}, step {run.step}: "
        f"{run.config.model.name} from step {start.step} of episode {start.episode}\n"
        "the model filters "
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


def plot_rollouts(
    imagined: Mapping[str, CounterfactualRollout],
    truth: CounterfactualRollout | None,
    spec: DataSpec,
) -> Figure:
    """A panel for each of the first values and for the cumulative reward, with a line for each
    source; the truth is dashed. If images are observed, a row of them for each source.
    """
    image = next((name for name, o in spec.observations.items() if o.is_image), None)
    if image is not None:
        return _plot_images(imagined, truth, image)
    names = value_names(spec)[:MAX_PANELS]
    lines = [(name, rollout, COLOURS[name], "-") for name, rollout in imagined.items()]
    lines += [("truth", truth, TRUTH, "--")] if truth is not None else []
    panels = len(names) + spec.has_reward
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(3.4 * columns, 2.3 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for name, rollout, colour, style in lines:
        over_time = flatten_observation(rollout.observation, spec)
        steps = np.arange(1, len(over_time) + 1)
        for i, panel in enumerate(axes[: len(names)]):
            panel.plot(steps, over_time[:, i], color=colour, linestyle=style, label=name)
        if spec.has_reward and rollout.reward is not None:
            axes[len(names)].plot(steps, np.cumsum(rollout.reward), color=colour, linestyle=style)
    titles = [f"observed {name}" if name.isdigit() else name for name in names]
    titles.append("cumulative reward, logged (truth) or imagined")
    for panel, title in zip(axes[:panels], titles, strict=False):
        panel.set_title(title, fontsize=9, parse_math=False)
        panel.tick_params(labelsize=8)
        panel.grid(color=GRID)
        panel.set_xlabel("step", fontsize=8)
    for panel in axes[panels:]:
        panel.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _plot_images(
    imagined: Mapping[str, CounterfactualRollout], truth: CounterfactualRollout | None, image: str
) -> Figure:
    images = ({"truth": truth} if truth is not None else {}) | dict(imagined)
    steps = next(iter(imagined.values())).steps
    chosen = np.unique(np.linspace(1, steps, min(MAX_FRAMES, steps)).round().astype(int))
    figure = Figure(
        figsize=(1.2 * len(chosen) + 0.8, 1.25 * len(images) + 0.3), layout="constrained"
    )
    axes = figure.subplots(len(images), len(chosen), squeeze=False)
    for line, (name, rollout) in zip(axes, images.items(), strict=True):
        line[0].set_ylabel(name)
        for panel, step in zip(line, chosen, strict=True):
            frame = rollout.observation[image][step - 1]
            panel.imshow(frame if frame.shape[-1] == 3 else frame[..., 0], cmap="gray")
            panel.set_xticks([])
            panel.set_yticks([])
    for panel, step in zip(axes[0], chosen, strict=True):
        panel.set_title(f"step {step}", fontsize=9)
    return figure
