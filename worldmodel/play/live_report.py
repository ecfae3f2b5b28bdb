"""Prints a live comparison: one line per step, at most 100 columns wide, a summary and a video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from worldmodel.config.environment_ids import EnvironmentId
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError, printable
from worldmodel.evaluation.rank_metrics import ImaginedReturn, RealReturn
from worldmodel.loading import load
from worldmodel.play import scenes
from worldmodel.play.action_sources import make_action_source
from worldmodel.play.live_comparison import ComparedStep, Prediction, compare_live
from worldmodel.play.observation_values import (
    WIDTH,
    error_unit,
    flatten_observation,
    format_heading,
    format_number,
    value_names,
)
from worldmodel.play.options import PlayOptions
from worldmodel.play.video import Video
from worldmodel.system.compilation import enable_default_compilation_cache

STEP_WIDTH = 6
MAX_OBSERVED = 3  # values of an observation, real and dreamed
MAX_VALUES = 7  # of observations and action: with two rewards and the error, 96 columns


def report_live_comparison(options: PlayOptions) -> None:
    """Plays an episode and prints one line per step and a summary. Raises UserError."""
    run = load(options.run, options.checkpoint, allow_code=options.allow_code)
    enable_default_compilation_cache()
    identity = _environment(options, run.config.data.environment_id)
    if identity is None:
        raise ConfigError(
            f"run={options.run}: its data.environment names no real environment; accepted: "
            "environment=ID, or episode=N, which imagines from a logged step"
        )
    kind = (options.actions or ["random" if run.policy is None else "policy"])[0]
    context = options.context or run.config.evaluation.context
    act = make_action_source(kind, run)
    with scenes.open_environment(identity, run.spec, options) as (environment, video):
        print(
            f"{printable(run.config.name)}, stage {run.stage}, step {run.step}: "
            f"{printable(identity)} compared with a dream of {run.config.model.name}\n"
            f"seed {options.seed}, actions: {kind}; the model filters {context} steps, then "
            "predicts open loop"
        )
        steps = compare_live(run, environment, act, context, options.steps, options.seed)
        compared = _print_steps(steps, run.spec, video)
        print(*_summary(compared, run.spec), sep="\n")
        if video is not None and video.frames:
            video.write()
            print(f"video                {video.path}, {video.frames} frames")


def _environment(options: PlayOptions, trained: EnvironmentId | None) -> EnvironmentId | None:
    """The environment to play in: the run's, with other arguments if they are given, or another."""
    if trained is not None and options.environment in (None, trained.name):
        return EnvironmentId(trained.name, options.environment_options or trained.options)
    name = options.environment
    return None if name is None else EnvironmentId(name, options.environment_options)


def _print_steps(
    steps: Iterator[ComparedStep], spec: DataSpec, video: Video | None
) -> list[tuple[ComparedStep, Prediction]]:
    """Prints a line for each step as it comes; returns those that the model dreamed."""
    table, dreamed = StepTable(spec), []
    print(*table.header(), sep="\n", flush=True)
    for step in steps:
        print(table.line(step), flush=True)
        if step.dreamed is not None:
            dreamed.append((step, step.dreamed))
        if video is not None:
            video.add(step)
    return dreamed


def _summary(steps: list[tuple[ComparedStep, Prediction]], spec: DataSpec) -> Iterator[str]:
    """Returns and error of the dreamed steps."""
    if not steps:
        yield "No step was dreamed: the episode ended while the model was filtering."
        return
    yield ""
    last, prediction = steps[-1]
    if last.done:
        ends = {
            (True, True): "both episodes ended",
            (True, False): "the real episode ended, the dream did not",
            (False, True): "the dream ended, the real episode did not",
        }
        yield f"at step {last.step} {ends[last.ended, prediction.ended]}"
    real = RealReturn(np.sum([step.reward for step, _ in steps]))
    imagined = ImaginedReturn(np.sum([dreamed.reward for _, dreamed in steps]))
    error = np.median([dreamed.error for _, dreamed in steps])
    yield f"dreamed steps        {len(steps)}, from step {steps[0][0].step} on"
    yield f"real return          {real.values:.4g} over these steps"
    yield f"imagined return      {imagined.values:.4g} over these steps"
    yield f"median error         {error:.3g} {error_unit(spec)}"


class StepTable:
    """The lines of a live comparison on data like `spec`."""

    def __init__(self, spec: DataSpec):
        self.spec = spec
        self.names = value_names(spec)[:MAX_OBSERVED]
        size = spec.action.num_columns
        self.actions = min(size, MAX_VALUES - 2 * len(self.names))
        self.totals = len(value_names(spec)), size

    def header(self) -> Iterator[str]:
        observed = len(self.names)
        cut = [
            f"{count} of {total} {name}"
            for count, total, name in (
                (observed, self.totals[0], "observed values"),
                (self.actions, self.totals[1], "action dimensions"),
            )
            if count < total
        ]
        if cut:
            yield f"showing {' and '.join(cut)}; errors are over all of them"
        groups = [
            ("", STEP_WIDTH),
            ("action", self.actions * WIDTH),
            ("observed", observed * WIDTH),
            ("dreamed", observed * WIDTH),
            ("reward", 2 * WIDTH),
        ]
        yield "".join(_group_title(title, width) for title, width in groups).rstrip()
        actions = [str(i) for i in range(self.actions)] if self.actions > 1 else [""]
        columns = [*actions, *self.names, *self.names, "real", "dreamed", "error"]
        yield "step".rjust(STEP_WIDTH) + "".join(map(format_heading, columns))

    def line(self, step: ComparedStep) -> str:
        dreamed = step.dreamed
        action = np.atleast_1d(step.action)[: self.actions]
        cells = [*action.tolist(), *self._values(step.observation)]
        if dreamed is None:
            cells += [None] * len(self.names) + [step.reward, None, None]
        else:
            cells += self._values(dreamed.observation)
            cells += [step.reward, dreamed.reward, dreamed.error]
        return str(step.step).rjust(STEP_WIDTH) + "".join(map(format_number, cells))

    def _values(self, observation: Mapping[str, np.ndarray]) -> Sequence[float]:
        return flatten_observation(observation, self.spec)[: len(self.names)].tolist()


def _group_title(title: str, width: int) -> str:
    """A title centered over its columns, with a rule on both sides."""
    return f" {title.center(width - 1, '-') if title else ' ' * (width - 1)}"
