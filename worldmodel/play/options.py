"""Options of `python -m worldmodel.play`: a run's model looked at by hand."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from worldmodel.config.option import option

ACTIONS = ("logged", "policy", "random", "zero", "keyboard")


@dataclass
class PlayOptions:
    """Which run is looked at, from where, and under which actions."""

    run: str = option(MISSING, "run directory, such as runs/NAME")
    checkpoint: str = option("last", "checkpoint to look at: last, best or a step")
    environment: str | None = option(
        None, "id of the real Gymnasium environment (none: the run's data.environment)"
    )
    actions: list[str] | None = option(
        None,
        "who acts: one beside the real environment (keys: typed, a line a step), a list from a "
        "logged row, where each is imagined (none: the policy; from a logged row all but keys)",
        choices=ACTIONS,
    )
    steps: int = option(
        100, "steps in all; from a logged row, those that are imagined", low=1, high=100_000
    )
    context: int | None = option(
        None,
        "rows the model sees before it goes on alone (none: as in the run's evaluation)",
        low=1,
    )
    seed: int = option(
        0, "of the real episode, of random actions and of all noise", low=0, high=2**31 - 1
    )
    video: str | None = option(None, "GIF of the real environment and the dream, side by side")
    episode: int | None = option(
        None, "number of a held-out episode: imagine from a row of it, not beside reality", low=0
    )
    start_step: int | None = option(
        None, "the row to imagine from (none: the first after the context)", low=0
    )
    figure: str | None = option(None, "PNG of what is imagined from a logged row")
