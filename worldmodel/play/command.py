"""The command line of `python -m worldmodel.play`. Invalid options are reported before JAX is
imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from worldmodel.config import help as help_text
from worldmodel.config.arguments import HELP_FLAGS, Arguments, parse_options, validate_checkpoint
from worldmodel.config.option import format_value
from worldmodel.errors import raise_config_errors
from worldmodel.play.options import ACTIONS, PlayOptions

MAX_VIDEO_FRAMES = 500  # with a textured floor, 5 MB
DESCRIPTION = """
Plays one episode of a run's model and prints one line per step.

By default, compares the model with the real environment: both take the same actions. The model
filters the first observations, then predicts open loop.

With episode=NUMBER, imagines from a step of a held-out episode what follows under each of several
sources of actions, with the same noise.
"""
USAGES = (
    "python -m worldmodel.play run=runs/NAME [actions=policy|random|zero|keyboard] [video=FILE]",
    "python -m worldmodel.play run=runs/NAME episode=N [start_step=T] [actions=logged,random,zero]",
)


def run(words: Sequence[str]) -> int:
    """Runs the command and returns the exit status. Raises UserError."""
    arguments = Arguments.parse(words)
    if arguments.has(HELP_FLAGS):
        print(help_text.command(DESCRIPTION, USAGES, PlayOptions()))
        return 0
    options = parse(arguments.options)
    if options.episode is None:
        from worldmodel.play.live_report import report_live_comparison

        report_live_comparison(options)
    else:
        from worldmodel.play.counterfactual_report import report_counterfactuals

        report_counterfactuals(options, options.episode)
    return 0


def parse(words: Sequence[str]) -> PlayOptions:
    """Reads OPTION=VALUE words. Raises ConfigError."""
    options = PlayOptions()
    parse_options(words, options)
    raise_config_errors(_conflicts(options))
    validate_checkpoint([options.run], options.checkpoint)
    return options


def _conflicts(options: PlayOptions) -> Iterator[str]:
    """One message for each option that does not go with the others."""
    actions, given = options.actions or [], f"actions={format_value(options.actions)}"
    if options.episode is None:
        if len(actions) > 1 or "logged" in actions:
            yield (
                f"{given}: the real environment takes actions from one source; accepted: one of "
                f"{', '.join(name for name in ACTIONS if name != 'logged')}; a list needs episode=N"
            )
        for key in ("start_step", "figure"):
            if (value := getattr(options, key)) is not None:
                yield f"{key}={value}: needs a logged episode; accepted with episode=N"
    else:
        if "keyboard" in actions:
            yield f"{given}: keyboard needs the real environment; accepted: the other sources"
        if len(set(actions)) < len(actions):
            yield f"{given}: names a source twice; accepted: each once"
        for key in ("environment", "environment_options", "video"):
            if value := getattr(options, key):
                named = f"{key}={format_value(value)}"
                yield f"{named}: needs the real environment; accepted without episode"
    if options.video is not None and options.steps > MAX_VIDEO_FRAMES:
        yield f"steps={options.steps}: accepts up to {MAX_VIDEO_FRAMES} with a video"
    for key, ending in (("video", ".gif"), ("figure", ".png")):
        value = getattr(options, key)
        if value is not None and Path(value).suffix.lower() != ending:
            yield f"{key}={value}: accepts a file name that ends in {ending}"
