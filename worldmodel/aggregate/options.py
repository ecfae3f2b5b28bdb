"""Options of `python -m worldmodel.aggregate`: finished runs put together by method and task."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from worldmodel.config.option import option

SCORES = ("normalized", "return")


@dataclass
class AggregateOptions:
    """Which runs are aggregated, and by which options they are grouped into methods."""

    runs: list[str] = option(
        MISSING, "run directories, folders that hold some, or patterns such as runs/td3_bc-*"
    )
    group_by: list[str] | None = option(
        None,
        "options that tell methods apart, such as [policy.name] (null: all that differ between "
        "runs, but for names, seeds, data, where a model is taken from, and what is written)",
    )
    score: str | None = option(
        None,
        "what is put together (null: the normalized score where every run has one, else the "
        "return, which has to be of a single task)",
        choices=SCORES,
    )
    agent: str | None = option(
        None,
        "whose returns (null: each run's policy, or its planner if alone)",
        choices=("policy", "planner"),
    )
    output_dir: str | None = option(
        None, "where aggregate.{md,json,html} go (null: .aggregated/ next to the first run)"
    )
