"""`python -m worldmodel.aggregate runs=[RUN,...]`: methods over several tasks and training seeds.

It reads the evaluations in the runs' folders; nothing is trained or played. Errors are reported
before JAX is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import MISSING

from worldmodel.aggregate.methods import score_table
from worldmodel.aggregate.results import (
    AggregateResults,
    aggregate_methods,
    aggregate_tables,
    explanation,
    summarize,
)
from worldmodel.aggregate.runs import find_runs, read_runs
from worldmodel.config import help as help_text
from worldmodel.config.arguments import HELP_FLAGS, Arguments, parse_options
from worldmodel.config.option import option
from worldmodel.errors import CheckpointError
from worldmodel.evaluation.report_files import Report, to_plain, write_report

DESCRIPTION = """
Puts the scores of finished runs together, over tasks and training seeds: interquartile mean, mean,
median, optimality gap, performance profiles, and how probable it is that one method beats another,
each with its interval (Agarwal et al. 2021).

A task is an environment with its dataset. Runs that differ only in their seed are one method; so
are the seeds of one run (training.num_seeds). Nothing is trained or played: every run has to be
evaluated.
"""
USAGES = (
    "python -m worldmodel.aggregate runs=runs [OPTION=VALUE ...]",
    "python -m worldmodel.aggregate runs=[runs/A,runs/B,...] group_by=[policy.name]",
)


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
        choices=("normalized", "return"),
    )
    agent: str | None = option(
        None,
        "whose returns (null: each run's policy, or its planner if alone)",
        choices=("policy", "planner"),
    )
    output_dir: str | None = option(
        None, "where aggregate.{md,json,html} go (null: .aggregated/ next to the first run)"
    )


def run(words: Sequence[str]) -> int:
    """Runs the command line `words`; returns the exit status. Raises UserError."""
    arguments = Arguments.parse(words)
    options = AggregateOptions()
    if arguments.has(HELP_FLAGS):
        print(help_text.command(DESCRIPTION, USAGES, options))
        return 0
    parse_options(arguments.options, options)
    aggregate(options)
    return 0


def aggregate(options: AggregateOptions) -> None:
    """Writes aggregate.{json,md,html} and shows the tables. Raises UserError for runs that are not
    evaluated, and for scores that cannot be put together.
    """
    paths = find_runs(options.runs)
    runs, others = read_runs(paths, options.agent)
    if not runs:
        raise CheckpointError(
            f"runs={','.join(options.runs)}: none of these {len(paths)} runs has returns "
            "of an agent; accepted: runs with a policy or a planner, evaluated in a real "
            "environment"
        )
    table = score_table(runs, options.group_by, options.score)
    if others:
        left_out = f"Left out, because they have no agent: {', '.join(map(str, others))}."
        table = replace(table, notes=[*table.notes, left_out])
    folder = Path(options.output_dir) if options.output_dir else paths[0].parent / ".aggregated"
    _publish(aggregate_methods(table), folder)


def _publish(found: AggregateResults, folder: Path) -> None:
    from worldmodel.aggregate.page import aggregated_page  # the page's parts need JAX

    write_report(
        Report(
            title=", ".join(found.methods),
            summary=summarize(found),
            tables=aggregate_tables(found),
            notes=[explanation(found), *found.table.notes],
            json=to_plain(found.document()),
            page=aggregated_page(found),
        ),
        folder,
        "aggregate",
    )
