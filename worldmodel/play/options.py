"""Options of `python -m worldmodel.play`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from worldmodel.config.option import allow_code_option, option

ACTIONS = ("logged", "policy", "random", "zero", "keyboard")


@dataclass
class PlayOptions:
    """The run, where its episode begins, and the source of actions."""

    run: str = option(MISSING, "run directory, such as runs/NAME")
    checkpoint: str = option("last", "checkpoint: last, best or a step")
    allow_code: bool = allow_code_option()
    environment: str | None = option(
        None, "id of the real Gymnasium environment (null: the run's data.environment)"
    )
    environment_options: dict[str, Any] = option(
        {}, "arguments of its constructor (none: the run's, for the run's environment)"
    )
    actions: list[str] | None = option(
        None,
        "source of actions: one for the real environment (keyboard: one line per step), or a list "
        "with episode=N (null: the policy if there is one, else random; with episode=N, all)",
        choices=ACTIONS,
    )
    steps: int = option(100, "steps to play, or to imagine with episode=N", low=1, high=100_000)
    context: int | None = option(
        None,
        "steps that the model filters before it predicts (null: as in the run's evaluation)",
        low=1,
    )
    seed: int = option(
        0, "seed of the real episode, of random actions and of all noise", low=0, high=2**31 - 1
    )
    video: str | None = option(None, "GIF file of the real environment and the dream, side by side")
    episode: int | None = option(
        None, "number of a held-out episode to imagine from, without the real environment", low=0
    )
    start_step: int | None = option(
        None, "step of the episode to imagine from (null: the last of the context)", low=0
    )
    figure: str | None = option(None, "PNG file of the imagined rollouts")
