"""The table at the end of a sweep: the return of each setting, over its seeds if it has several.

Each job appends its result to a file, since jobs may run in other processes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldmodel.config import EvaluationOptions
from worldmodel.system.storage import make_directory, raise_storage_errors, write_text_atomic

if TYPE_CHECKING:
    from worldmodel.evaluation.statistics import Estimate

JOBS, TABLE = "jobs.jsonl", "summary.md"


@dataclass(frozen=True)
class JobResult:
    """A finished job: its run, its overrides, and its return as results.json has it."""

    run: str
    overrides: list[str]
    policy_return: dict[str, Any]


def clear_results(folder: Path) -> None:
    """Removes the results of an earlier sweep."""
    for name in (JOBS, TABLE):
        (folder / name).unlink(missing_ok=True)


def append_result(folder: Path, job: JobResult) -> None:
    """Appends the result of a job to those of the sweep."""
    make_directory(folder)
    with raise_storage_errors(folder / JOBS), (folder / JOBS).open("a") as file:
        file.write(json.dumps(asdict(job)) + "\n")


def summarize(folder: Path, options: EvaluationOptions) -> str:
    """Writes and returns the table, best return first; empty if no job has a result."""
    if not (folder / JOBS).exists():
        return ""
    jobs = [JobResult(**json.loads(line)) for line in (folder / JOBS).read_text().splitlines()]
    text = table(jobs, options)
    write_text_atomic(folder / TABLE, text)
    return text


def table(jobs: list[JobResult], options: EvaluationOptions) -> str:
    """Returns Markdown, with one row for jobs that differ only in their seed."""
    from worldmodel.evaluation.statistics import note_on_seeds

    common = set.intersection(*(set(_settings(job)) for job in jobs))
    groups: dict[str, list[JobResult]] = {}
    for job in jobs:
        own = [s for s in _settings(job) if s not in common and not s.startswith("seed=")]
        groups.setdefault(" ".join(own), []).append(job)
    rows = [(name, group, _over_seeds(group, options)) for name, group in groups.items()]
    rows.sort(key=lambda row: row[2].value, reverse=True)
    lines = ["| settings | runs | return | n | method |", "|---|---|---:|---:|---|"]
    for name, group, policy_return in rows:
        runs = ", ".join(dict.fromkeys(job.run for job in group))
        cells = (name or "-", runs, policy_return.brief, policy_return.amount, policy_return.method)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    note = note_on_seeds(min(_seeds(group, policy_return) for _, group, policy_return in rows))
    lines += ["", note] if note else []
    title = " ".join(s for s in _settings(jobs[0]) if s in common)
    return "\n".join([f"# Return of the policy: {title}".rstrip(": "), "", *lines, ""])


def _settings(job: JobResult) -> list[str]:
    """Returns the overrides but for the name, which has a column of its own."""
    return [override for override in job.overrides if not override.startswith("name=")]


def _seeds(jobs: list[JobResult], policy_return: Estimate) -> int:
    """Returns the number of training seeds: of a single run, those that its interval is over."""
    from worldmodel.evaluation.statistics import SEEDS

    runs = {job.run for job in jobs}
    return policy_return.n if len(runs) > 1 or policy_return.sample_unit == SEEDS else 1


def _over_seeds(jobs: list[JobResult], options: EvaluationOptions) -> Estimate:
    """Returns the return of a single run with its interval; of several, the mean over seeds."""
    import numpy as np

    from worldmodel.evaluation.statistics import Bootstrap, Estimate

    runs = {job.run: job.policy_return for job in jobs}  # a search may repeat a setting
    if len(runs) == 1:
        (policy_return,) = runs.values()
        return Estimate.from_json(policy_return)
    values = np.array([policy_return["value"] for policy_return in runs.values()])
    return Bootstrap(options.resamples, options.confidence, options.seed).mean(values, "seeds")
