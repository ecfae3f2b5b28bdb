"""A model's dream beside the real environment: a line a step, what came of it, and a video."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.evaluation.rank_metrics import ImaginedReturn, RealReturn
from worldmodel.loading import load
from worldmodel.play import observation_values, scenes
from worldmodel.play.action_sources import make_action_source
from worldmodel.play.live_comparison import ComparedStep, compare_live
from worldmodel.play.options import PlayOptions
from worldmodel.play.table import Table
from worldmodel.play.video import Video
from worldmodel.system.compilation import enable_compilation_cache


def play(options: PlayOptions) -> None:
    """Plays an episode, prints a line a step and what came of it. Raises UserError."""
    run = load(options.run, options.checkpoint)
    enable_compilation_cache(run.config.training.compilation_cache)
    name = options.environment or run.config.data.environment
    if name is None:
        raise ConfigError(
            f"run={options.run}: its data.environment names no real environment; accepted: "
            "environment=ID, or episode=N, which imagines from a logged row"
        )
    kind = (options.actions or ["random" if run.policy is None else "policy"])[0]
    context = options.context or run.config.evaluation.context
    act = make_action_source(kind, run)
    with scenes.open_environment(name, run.spec, options) as (environment, video):
        print(
            f"{run.config.name}, {run.stage} at step {run.step}: {name} beside the dream of "
            f"{run.config.model.name}\nseed {options.seed}, actions {kind}; the model is shown "
            f"{context} rows, then goes on alone"
        )
        moments = compare_live(run, environment, act, context, options.steps, options.seed)
        alone = _shown(moments, run.spec, video)
        print(*_closing(alone, run.spec), sep="\n")
        if video is not None and video.frames:
            video.write()
            print(f"video                {video.path}, {video.frames} frames")


def _shown(
    moments: Iterator[ComparedStep], spec: DataSpec, video: Video | None
) -> list[ComparedStep]:
    """Prints a line a moment, as it comes; returns those that the model dreamed."""
    table, alone = Table(spec), []
    print(*table.header(), sep="\n", flush=True)
    for moment in moments:
        print(table.line(moment), flush=True)
        alone += [moment] if moment.dreamed is not None else []
        if video is not None:
            video.add(moment)
    return alone


def _closing(alone: list[ComparedStep], spec: DataSpec) -> Iterator[str]:
    """What came of the steps that the model went on alone."""
    if not alone:
        yield "Nothing was dreamed: the episode was over before the model went on alone."
        return
    yield ""
    if (last := alone[-1]).done:
        ends = {
            (True, True): "both ended",
            (True, False): "the real episode ended, the dream did not",
            (False, True): "the dream ended, the real episode did not",
        }
        yield f"at step {last.step} {ends[last.ended, last.dreamed.ended]}"
    real = RealReturn(np.sum([m.reward for m in alone]))
    imagined = ImaginedReturn(np.sum([m.dreamed.reward for m in alone]))
    errors = [m.dreamed.error for m in alone]
    yield f"steps dreamed        {len(alone)}, from step {alone[0].step} on"
    yield f"real return          {real.values:.4g}, earned in these steps"
    yield f"imagined return      {imagined.values:.4g}, believed of them"
    yield f"median error         {np.median(errors):.3g} {observation_values.error_unit(spec)}"
