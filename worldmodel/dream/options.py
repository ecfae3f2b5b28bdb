"""Options of dreams: keywords of `LoadedRun.dream`."""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.config.option import option
from worldmodel.imagination.uncertainty import UNCERTAINTIES


@dataclass
class DreamOptions:
    """Where dreams begin and end, and what the model's uncertainty costs."""

    split: str = option(
        "held_out",
        "episodes of the dataset that dreams begin in",
        choices=("held_out", "training", "all"),
    )
    start_from: str = option(
        "any_step",
        "dreams begin at any step of an episode, or at its first step after the context",
        choices=("any_step", "first_step"),
    )
    max_initial_states: int = option(
        4096, "maximum number of initial states, evenly spaced over all", low=1
    )
    context: int | None = option(
        None, "logged steps that the model filters first (null: as in the run's evaluation)", low=1
    )
    time_limit: int | None = option(
        None,
        "steps after which a dream is truncated (null: those of the longest episode)",
        low=1,
        high=2**31 - 1,
    )
    member_sampling: str = option(
        "step",
        "an ensemble's elite is drawn at every step, or once an episode",
        choices=("step", "episode"),
    )
    penalty: str = option(
        "none", "uncertainty that is subtracted from the reward", choices=("none", *UNCERTAINTIES)
    )
    penalty_scale: float = option(
        0.5,
        "penalty of the mean uncertainty on the dataset, in standard deviations of the reward",
        low=0.0,
    )
    truncation_quantile: float | None = option(
        None,
        "dreams are truncated where uncertainty exceeds this quantile of it on the dataset",
        low=0.0,
        high=1.0,
    )
    truncation_measure: str = option(
        "ensemble_std", "the uncertainty that truncates dreams", choices=tuple(UNCERTAINTIES)
    )
