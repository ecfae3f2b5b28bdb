"""Finished runs by method and task, with the scores of each.

A task is an environment together with a dataset; a method is defined by its options. Runs that
differ only in their seed are runs of one method. Nothing here imports JAX.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from worldmodel.aggregate.runs import EvaluatedRun
from worldmodel.config.io import RUNTIME_OPTION_PREFIXES, RUNTIME_OPTIONS
from worldmodel.config.values import unknown_option
from worldmodel.errors import ConfigError, bullet_list, raise_config_errors

# Options that say nothing of the method.
APART = (*RUNTIME_OPTIONS, "seed", "training.num_seeds", "training.pretrained_model")
APART_GROUPS = (*RUNTIME_OPTION_PREFIXES, "data.")
# Shown without their key.
NAMES = ("policy.name", "model.name", "data.environment", "data.name", "data.path")
MOST_NAMED = 5  # options or runs in one sentence

Cells = dict[tuple[str, str], list[EvaluatedRun]]  # (method, task) -> runs by their seed


@dataclass(frozen=True)
class ScoreTable:
    """Scores (seeds, tasks) of each method, 0 to 100 between two references where `normalized`.

    by: the options that tell the methods apart; runs: of each method, in the order of their seeds
    notes: caveats of the numbers
    """

    tasks: list[str]
    scores: dict[str, np.ndarray]
    normalized: bool
    group_by: list[str] = field(default_factory=list)
    runs: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def score_table(
    runs: Sequence[EvaluatedRun], by: Sequence[str] | None = None, score: str | None = None
) -> ScoreTable:
    """Puts runs into methods, by the options `by` (None: what differs), and tasks. `score` is
    normalized or return (None: normalized where all runs are).

    Raises ConfigError for scores on several scales, a method that has no run on one of the tasks,
    and two runs of one seed.
    """
    tasks = _task_names(runs)
    if by is None:
        by = distinguishing([run.options for run in runs], _own_options(runs))
    else:
        _check_known(runs, by)
    normalized = _is_normalized(runs, tasks, score)
    cells: Cells = {}
    for run in sorted(runs, key=lambda run: run.seed):
        method = label(run.options, by or NAMES[:1])
        cells.setdefault((method, tasks[run.task]), []).append(run)
    methods = list(dict.fromkeys(method for method, _ in cells))
    names = list(tasks.values())
    raise_config_errors(_repeated(cells))
    _refuse_gaps(cells, methods, names, by)
    finite, diverged = _finite_scores(cells, names, normalized)
    scores, uneven, differing, paths = {}, [], [], {}
    for method in methods:
        own = [run for task in names for run in cells[method, task]]
        paths[method] = [str(run.path) for run in own]
        each = [finite[method, task] for task in names]
        seeds = list(map(len, each))
        scores[method] = np.stack([values[: min(seeds)] for values in each], 1)
        if len(set(seeds)) > 1:
            counts = ", ".join(f"{n} on {task}" for task, n in zip(names, seeds, strict=True))
            uneven.append(
                f"{method} has {counts}: of each task the first {min(seeds)} training seeds count, "
                "the others are left out."
            )
        if more := [key for key in _different(own) if key not in by]:
            differing.append(f"Runs of {method} also differ by {_some(more)}.")
    notes = [*diverged, *uneven, *differing, *_evaluation_notes(runs, cells)]
    return ScoreTable(names, scores, normalized, list(by), paths, notes)


def _finite_scores(
    cells: Cells, tasks: Sequence[str], normalized: bool
) -> tuple[dict[tuple[str, str], np.ndarray], list[str]]:
    """The scores of each method and task, of all seeds, and notes. A seed that diverged has no
    score, and leaving it out would flatter its method: it gets the lowest one on its task.
    """
    scores = {
        cell: np.concatenate([run.scores(normalized) for run in runs])
        for cell, runs in cells.items()
    }
    notes = []
    for task in tasks:
        own = {cell: values for cell, values in scores.items() if cell[1] == task}
        every = np.concatenate([*own.values()])
        if not np.isfinite(every).any():
            raise ConfigError(f"{task}: no run has a finite return; leave this task out")
        lowest = every[np.isfinite(every)].min()
        for cell, values in own.items():
            if lost := int((~np.isfinite(values)).sum()):
                scores[cell] = np.where(np.isfinite(values), values, lowest)
                notes.append(
                    f"{lost} of {len(values)} training seeds of {cell[0]} on {task} have no finite "
                    f"return (they diverged): each counts as the lowest score there, {lowest:.4g}."
                )
    return scores, notes


def label(options: Mapping[str, str], keys: Iterable[str]) -> str:
    """A run's values of those of these options that it has: names alone, others as they would be
    given.
    """
    values = {key: options[key] for key in keys if key in options}
    return " ".join(v if key in NAMES else f"{key}={v}" for key, v in values.items()) or "-"


def distinguishing(options: Sequence[Mapping[str, str]], keys: Sequence[str]) -> list[str]:
    """A few of the options `keys` that tell configs apart as all of them do: names first, then
    those by which most differ.
    """

    def kinds(keys: Sequence[str]) -> int:
        return len({tuple(o.get(key) for key in keys) for o in options})

    chosen: list[str] = []
    while (found := kinds(chosen)) < kinds(keys):
        tells = {key: kinds([*chosen, key]) for key in keys}
        chosen.append(max(keys, key=lambda k: (k in NAMES and tells[k] > found, tells[k])))
    return chosen


def _own_options(runs: Sequence[EvaluatedRun]) -> list[str]:
    """The options of the method, names first. The planner's are among them where it acts."""
    planned = any(run.agent == "planner" for run in runs)
    own = [
        key
        for key in dict.fromkeys(key for run in runs for key in run.options)
        if planned
        and key.startswith("evaluation.planner.")
        or key not in APART
        and not key.startswith(APART_GROUPS)
    ]
    return sorted(own, key=lambda key: NAMES.index(key) if key in NAMES else len(NAMES))


def _check_known(runs: Sequence[EvaluatedRun], by: Sequence[str]) -> None:
    known = dict.fromkeys(key for run in runs for key in run.options)
    raise_config_errors(
        f"group_by={key}: holds several options; accepted: one of them, such as {key}.name"
        if f"{key}.name" in known
        else f"group_by={unknown_option(key, known)}"
        for key in by
        if key not in known
    )


def _task_names(runs: Sequence[EvaluatedRun]) -> dict[tuple[str, str], str]:
    """What tasks are called: by the options of the data that tell them apart, or by the
    fingerprints of their datasets where none does.
    """
    first = {run.task: run.options for run in reversed(runs)}
    tasks = sorted(first, key=[run.task for run in runs].index)
    keys = [*NAMES[2:], *(k for o in first.values() for k in o if k.startswith("data."))]
    keys = [key for key in dict.fromkeys(keys) if key not in RUNTIME_OPTIONS]
    by = distinguishing([first[task] for task in tasks], keys) or ["data.environment"]
    names = {task: label(first[task], by) for task in tasks}
    if len(set(names.values())) < len(names):
        names = {task: f"{name} {task[1][:8]}" for task, name in names.items()}
    return names


def _is_normalized(
    runs: Sequence[EvaluatedRun], tasks: Mapping[tuple[str, str], str], score: str | None
) -> bool:
    """Whether normalized scores are taken. Raises ConfigError for what cannot be put together."""
    bare = [str(run.path) for run in runs if run.reference is None]
    normalized = not bare if score is None else score == "normalized"
    fix = "evaluate them with `python eval.py run=RUN evaluation.reference=NAME`"
    if not normalized and len(tasks) > 1:
        without = f"; without it: {_some(bare)}; {fix}" if bare else ""
        raise ConfigError(
            f"score={score or 'return'}: returns of {len(tasks)} tasks ({_some(tasks.values())}) "
            f"are on different scales; accepted: score=normalized{without}"
        )
    if normalized and bare:
        raise ConfigError(f"score=normalized: {_some(bare)} have no normalized score; {fix}")
    for task, name in tasks.items() if normalized else ():
        own = {
            (r.reference.min, r.reference.max): r
            for r in runs
            if r.task == task and r.reference is not None
        }
        if len(own) > 1:
            pairs = [f"{r.path}: 0 is {low:g}, 100 is {high:g}" for (low, high), r in own.items()]
            raise ConfigError(
                bullet_list(f"{name}: scores are normalized by different reference returns", pairs)
            )
    return normalized


def _repeated(cells: Cells) -> Iterator[str]:
    """Runs of one method and task with the same seed, which would count twice."""
    for (method, task), runs in cells.items():
        seeds: dict[int, EvaluatedRun] = {}
        for run in runs:
            if (first := seeds.setdefault(run.seed, run)) is run:
                continue
            other = _different([first, run])
            yield (
                f"{first.path} and {run.path}: both are {method} on {task}, with seed={run.seed}"
                + (
                    f"; they differ by {_some(other)}: add that to group_by=[...]"
                    if other
                    else "; leave one out"
                )
            )


def _refuse_gaps(
    cells: Cells, methods: Sequence[str], tasks: Sequence[str], by: Sequence[str]
) -> None:
    missing = [f"{m}: no run on {t}" for m in methods for t in tasks if (m, t) not in cells]
    if missing:
        grouping = f" (by {', '.join(by)})" if by else ""
        raise ConfigError(
            bullet_list(f"every method{grouping} needs runs on every task; missing", missing)
            + "\nTrain and evaluate these, or leave runs out"
            + (
                ""
                if list(by) == [NAMES[0]]
                else f"; or group methods by fewer options, as group_by=[{NAMES[0]}]"
            )
        )


def _different(runs: Sequence[EvaluatedRun]) -> list[str]:
    """The options of the method that are not the same in all runs."""
    return [k for k in _own_options(runs) if len({run.options.get(k) for run in runs}) > 1]


def _evaluation_notes(runs: Sequence[EvaluatedRun], cells: Cells) -> Iterator[str]:
    """Runs that share a model, or were evaluated differently."""
    for (method, task), own in cells.items():
        models = [run.options.get("training.pretrained_model", "null") for run in own]
        if shared := {model for model in models if model != "null" and models.count(model) > 1}:
            yield (
                f"Runs of {method} on {task} share a world model ({_some(sorted(shared))}): "
                "intervals leave out how they would do with another."
            )
    if best := [str(run.path) for run in runs if run.best]:
        yield f"Evaluated at the best checkpoint, which is best in part by luck: {_some(best)}."
    if early := [str(run.path) for run in runs if run.step < run.steps and not run.best]:
        yield f"Evaluated before the end of their training: {_some(early)}."
    counts = {run.episodes for run in runs}
    if len(counts) > 1:
        yield f"Means are over different numbers of episodes, {min(counts)} to {max(counts)}."


def _some(words: Iterable[str]) -> str:
    words = list(words)
    more = len(words) - MOST_NAMED
    return ", ".join(words[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
