"""`eval.py runs=[A,B]`: loads the runs, checks that they can be compared, compares and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldmodel import data
from worldmodel.config.io import with_overrides
from worldmodel.data.compatibility import conform_to_spec, out_of_bounds_notes
from worldmodel.data.horizons import add_training_horizons
from worldmodel.data.trajectories import split
from worldmodel.errors import ConfigError
from worldmodel.evaluation.comparison import (
    Comparison,
    compare_measures,
    comparison_page,
    comparison_tables,
    explanation,
    summarize,
)
from worldmodel.evaluation.evaluator import applying, context_of
from worldmodel.evaluation.report_files import Report, json_document, write_report
from worldmodel.evaluation.section import Context
from worldmodel.system.compilation import enable_default_compilation_cache
from worldmodel.system.storage import check_writable
from worldmodel.training.restore import Restored, restore

BEST_NOTE = (
    "Each run's best checkpoint, by a metric of its own, is best in part by luck: the last ones "
    "are compared below."
)
SAME_NOTE = "The best checkpoint of every run is also its last one."


def compare_runs(
    runs: Sequence[str],
    checkpoint: str,
    overrides: dict[str, Any],
    folder: str | None,
    allow_code: bool = False,
) -> int:
    """Compares a checkpoint of each run on the same held-out episodes, or on another dataset, used
    whole (`evaluation.data`), with the same starts and episode seeds; writes
    comparison.{json,md,html} to `folder` and prints the tables. Returns the exit status.

    Evaluation options are the first run's, with `overrides`. Raises ConfigError for runs that were
    not trained on the same episodes of the same dataset.
    """
    restored = [restore(path, checkpoint, allow_code=allow_code) for path in runs]
    names = labels(runs, [run.config.name for run in restored])
    loaded = dict(zip(names, restored, strict=True))
    first = restored[0]
    default = first.directory.path.parent / ".compared" / "-".join(names).replace("/", "_")
    written = Path(folder) if folder else default
    check_writable(written)
    enable_default_compilation_cache()
    _check_comparable(loaded)
    config = with_overrides(first.config, {"evaluation": overrides})
    if config.evaluation.data is not None:
        dataset = conform_to_spec(data.load(first.data_options(config.evaluation.data)), first.spec)
        held_out = dataset
    else:
        dataset = data.load(first.data_options(), warn=False)
        for run in loaded.values():
            run.directory.check_dataset(run.spec, dataset.fingerprint())
        _, held_out = split(dataset, config.data.holdout)
    options = add_training_horizons(config.evaluation, [run.config for run in restored])

    def compared(runs: Mapping[str, Restored]) -> Comparison:
        return compare_contexts(
            {name: context_of(run, held_out, dataset, options) for name, run in runs.items()}
        )

    comparison = compared(loaded)
    if checkpoint == "best":
        last = {name: run.last or run for name, run in loaded.items()}
        same = all((r.stage, r.step) == (last[n].stage, last[n].step) for n, r in loaded.items())
        comparison = replace(
            comparison,
            last=None if same else compared(last),
            notes=[*comparison.notes, SAME_NOTE if same else BEST_NOTE],
        )
    report = Report(
        title=" and ".join(comparison.runs),
        summary=summarize(comparison),
        tables=comparison_tables(comparison),
        notes=[explanation(comparison), *comparison.notes],
        json=json_document(comparison.numbers()),
        page=comparison_page(comparison),
    )
    write_report(report, written, "comparison")
    return 0


def compare_contexts(contexts: Mapping[str, Context]) -> Comparison:
    """Runs the comparable sections that apply to two contexts or more, and compares their measures.
    All contexts have the same held-out episodes and options.
    """
    first = next(iter(contexts.values()))
    reasons: dict[str, list[str]] = {name: [] for name in contexts}
    chosen = {n: applying(c, reasons[n], comparable=True) for n, c in contexts.items()}
    measures, notes = {}, [f"{name}: {text}" for name, own in reasons.items() for text in own]
    if seeds := [name for name, context in contexts.items() if context.other_seeds]:
        notes.append(
            f"Of {', '.join(seeds)}: prediction and ranking of the first seed, returns of all."
        )
    for name, context in contexts.items():
        shared = {
            key: kind
            for key, kind in chosen[name].items()
            if sum(key in other for other in chosen.values()) > 1
        }
        sections = [kind.run(context) for kind in shared.values()]
        measures[name] = [measure for section in sections for measure in section.measures()]
        notes += [note for section in sections for note in section.notes()]
    return Comparison(
        runs=list(contexts),
        held_out_sha256=first.held_out.fingerprint(),
        environment=None if first.environment is None else str(first.environment),
        confidence=first.options.confidence,
        measures=compare_measures(measures, first.bootstrap),
        notes=list(dict.fromkeys([*notes, *out_of_bounds_notes(first.held_out)])),
    )


def labels(paths: Sequence[str], names: Sequence[str]) -> list[str]:
    """Names of the runs, or their paths where two have the same name. Raises ConfigError for a run
    that is given twice.
    """
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ConfigError(f"runs={list(paths)}: a run is given twice; accepted: different runs")
    return list(names if len(set(names)) == len(names) else paths)


def _check_comparable(runs: dict[str, Restored]) -> None:
    names = list(runs)
    for what, of in {
        "another dataset": lambda run: run.directory.fingerprint(),
        "another data.holdout": lambda run: run.config.data.holdout,
        "other observations": lambda run: {
            name: (o.shape, o.dtype) for name, o in run.spec.observations.items()
        },
        "another data.environment": lambda run: run.config.data.environment,
    }.items():
        for name in names[1:]:
            if of(runs[name]) != of(runs[names[0]]):
                raise ConfigError(
                    f"runs: {runs[name].directory.path} has {what} than "
                    f"{runs[names[0]].directory.path}; accepted: runs on the same episodes of the "
                    "same dataset"
                )
