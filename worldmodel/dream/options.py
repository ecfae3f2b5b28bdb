"""Options of dreams: environments made of a world model. They are keywords of `LoadedRun.dream`."""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.config.option import option
from worldmodel.imagination.uncertainty import UNCERTAINTIES


@dataclass(frozen=True)
class DreamOptions:
    """Where dreams begin and end, and what the model's own doubt costs in them."""

    split: str = option(
        "held_out",
        "the logged episodes that dreams begin in",
        choices=("held_out", "training", "all"),
    )
    start_from: str = option(
        "any_step",
        "dreams begin at any row of an episode, or where it begins",
        choices=("any_step", "first_step"),
    )
    max_initial_states: int = option(
        4096, "most starts that are kept, evenly spaced over all", low=1
    )
    context: int | None = option(
        None, "logged rows the model sees before (none: as in the run's evaluation)", low=1
    )
    time_limit: int | None = option(
        None, "steps after which a dream is truncated (none: those of the longest episode)", low=1
    )
    member_sampling: str = option(
        "step",
        "an ensemble's elite is drawn for every step, or once for a whole dream",
        choices=("step", "episode"),
    )
    penalty: str = option("none", "uncertainty that costs reward", choices=("none", *UNCERTAINTIES))
    penalty_scale: float = option(
        0.5, "cost of the mean uncertainty on logs, in standard deviations of the reward", low=0.0
    )
    truncation_quantile: float | None = option(
        None,
        "dreams are truncated where uncertainty exceeds this quantile of it on logs",
        low=0.0,
        high=1.0,
    )
    truncation_measure: str = option(
        "ensemble_std", "the uncertainty that dreams are cut by", choices=tuple(UNCERTAINTIES)
    )
