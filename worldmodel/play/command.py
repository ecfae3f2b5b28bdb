"""From the words of `python -m worldmodel.play` to what is played. Mistakes in options are told
before JAX is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from worldmodel.config import help as help_text
from worldmodel.config.arguments import HELP_FLAGS, Arguments, parse_options, validate_checkpoint
from worldmodel.config.option import format_value
from worldmodel.errors import raise_config_errors
from worldmodel.play.options import ACTIONS, PlayOptions

MOST_FRAMES = 500  # of a video: with a textured floor, 5 MB
DESCRIPTION = """
Looks at the model of a run by hand, and prints a line a step.

Beside the real environment (default): both take the same actions. The model sees the first rows,
then goes on alone.

With episode=NUMBER, from a row of a held-out episode: what would follow under each of several
choices of actions, with the same noise.
"""
USAGES = (
    "python -m worldmodel.play run=runs/NAME [actions=policy|random|zero|keyboard] [video=FILE]",
    "python -m worldmodel.play run=runs/NAME episode=N start_step=T actions=logged,random,zero",
)


def run(words: Sequence[str]) -> int:
    """Plays what the words ask for; returns the exit status. Raises UserError."""
    arguments = Arguments.parse(words)
    if arguments.has(HELP_FLAGS):
        print(help_text.command(DESCRIPTION, USAGES, PlayOptions()))
        return 0
    options = parse(arguments.options)
    if options.episode is None:
        from worldmodel.play.compare_live import play
    else:
        from worldmodel.play.counterfactuals import play
    play(options)
    return 0


def parse(words: Sequence[str]) -> PlayOptions:
    """Reads OPTION=VALUE words. Raises ConfigError."""
    options = PlayOptions()
    parse_options(words, options)
    raise_config_errors(_errors(options))
    validate_checkpoint([options.run], options.checkpoint)
    return options


def _errors(options: PlayOptions) -> Iterator[str]:
    """What does not go together."""
    actions, given = options.actions or [], f"actions={format_value(options.actions)}"
    if options.episode is None:
        if len(actions) > 1 or "logged" in actions:
            yield (
                f"{given}: beside the real environment one acts; accepted: "
                f"{', '.join(name for name in ACTIONS if name != 'logged')}; a list with episode=N"
            )
        for key in ("start_step", "figure"):
            if (value := getattr(options, key)) is not None:
                yield f"{key}={value}: belongs to a logged start; accepted with episode=N"
    else:
        if "keyboard" in actions:
            yield f"{given}: keys are typed beside the real environment; accepted: all others"
        if len(set(actions)) < len(actions):
            yield f"{given}: accepts each once"
        for key in ("environment", "video"):
            if (value := getattr(options, key)) is not None:
                yield f"{key}={value}: is for play beside reality; accepted without episode"
    if options.video is not None and options.steps > MOST_FRAMES:
        yield f"steps={options.steps}: accepts up to {MOST_FRAMES} with a video, a frame a step"
    for key, ending in (("video", ".gif"), ("figure", ".png")):
        value = getattr(options, key)
        if value is not None and Path(value).suffix.lower() != ending:
            yield f"{key}={value}: accepts a file that ends in {ending}"
