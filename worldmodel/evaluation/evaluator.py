"""The evaluator: train.py calls it at its end, eval.py for any checkpoint."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import jax

from worldmodel import data
from worldmodel.config import EvaluationOptions
from worldmodel.data.compatibility import out_of_bounds_notes
from worldmodel.data.horizons import add_training_horizons
from worldmodel.data.trajectories import Trajectories, split
from worldmodel.evaluation.report import page
from worldmodel.evaluation.report_files import show
from worldmodel.evaluation.results import (
    Provenance,
    Results,
    markdown,
    render,
    to_csv,
    to_json,
)
from worldmodel.evaluation.section import Context, Section, sections
from worldmodel.evaluation.statistics import note_on_seeds
from worldmodel.system.storage import (
    check_writable,
    raise_storage_errors,
    write_json,
    write_text_atomic,
)
from worldmodel.training.restore import Restored

__all__ = ["evaluate", "evaluate_loaded", "render", "write"]


def evaluate(context: Context, provenance: Provenance | None = None) -> Results:
    """Runs every section that applies.

    provenance: which checkpoint is evaluated; split, times and versions are added

    Raises ConfigError, before anything slow starts, for an environment that does not fit.
    """
    provenance = provenance or Provenance()
    caveats = out_of_bounds_notes(context.held_out)
    chosen, found, seconds = applying(context, caveats), {}, {}
    if provenance.stage:
        caveats += filter(None, [note_on_seeds(len(context.agents))])
    for name, kind in chosen.items():
        began = time.perf_counter()
        found[name] = kind.run(context)
        seconds[name] = round(time.perf_counter() - began, 2)
    provenance = dataclasses.replace(
        provenance,
        held_out_sha256=context.held_out.fingerprint(),
        environment=None if context.environment is None else str(context.environment),
        seconds=seconds,
        software=_software(),
    )
    return Results(found, context.options.confidence, provenance, caveats)


def applying(
    context: Context, notes: list[str], comparable: bool = False
) -> dict[str, type[Section]]:
    """The sections that apply, or of these the comparable ones; reasons why others do not are added
    to `notes`.
    """
    chosen = {}
    for name, kind in sections().items():
        if comparable and not kind.comparable:
            continue
        answer = kind.applies(context)
        if answer is True:
            chosen[name] = kind
        elif isinstance(answer, str):
            notes.append(answer)
    return chosen


def write(
    results: Results,
    folder: Path,
    metrics: Path | None = None,
    card: dict[str, Any] | None = None,
) -> None:
    """Writes results.json, results.csv, results.md, report.html, and episodes.jsonl with a row for
    every episode played in the real environment.

    metrics: metrics.jsonl, for the training curves of the report
    card: the data card, for the report
    """
    rows = [row for found in results.sections.values() for row in found.episodes()]
    with raise_storage_errors(folder):
        folder.mkdir(exist_ok=True)
    write_json(folder / "results.json", to_json(results))
    write_text_atomic(folder / "results.csv", to_csv(results))
    write_text_atomic(folder / "results.md", markdown(results))
    write_text_atomic(folder / "episodes.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    logged = _lines(metrics) if metrics is not None and metrics.is_file() else []
    write_text_atomic(folder / "report.html", page(results, logged, card))


def context_of(
    run: Restored, held_out: Trajectories, dataset: Trajectories, options: EvaluationOptions
) -> Context:
    """The context of a checkpoint."""
    ranked = options.policy_ranking.rollouts_per_policy > 0
    return Context(
        model=run.model,
        policy=run.policy,
        spec=run.spec,
        held_out=held_out,
        dataset=dataset,
        environment=run.config.data.environment_id,
        options=options,
        value=run.value,
        other_seeds=run.other_seeds,
        checkpoint_policies=run.checkpoint_policies() if ranked else {},
    )


def evaluate_loaded(
    run: Restored, trajectories: Trajectories, options: EvaluationOptions
) -> Results:
    """Evaluates a checkpoint, and with the best one also the last; writes evaluation/ and prints
    the summary and tables.

    trajectories: the run's own dataset, of which the held-out episodes are used; with
    `options.data` another one, used whole
    """
    folder = run.directory.evaluation
    check_writable(folder)
    card = data.build_card(trajectories)
    own = options.data is None
    held_out = split(trajectories, run.config.data.holdout)[1] if own else trajectories
    options = add_training_horizons(options, [run.config])

    def evaluated(run: Restored) -> Results:
        provenance = Provenance(
            run=run.config.name,
            stage=run.stage,
            step=run.step,
            command=shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
            config=dataclasses.asdict(run.config) | {"evaluation": dataclasses.asdict(options)},
            data=f"{trajectories.source}: {'held-out' if own else 'all'} episodes",
        )
        return evaluate(context_of(run, held_out, trajectories, options), provenance)

    results = evaluated(run)
    if run.last is not None:
        same = (run.last.stage, run.last.step) == (run.stage, run.step)
        results = dataclasses.replace(results, last=results if same else evaluated(run.last))
    write(results, folder, run.directory.metrics, card)
    show(render(results), "report", folder / "report.html")
    return results


def _software() -> dict[str, str]:
    """The versions, and the device, that the numbers were computed with."""
    import worldmodel

    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "gymnasium")}
    device = jax.devices()[0].device_kind
    return {"worldmodel": worldmodel.__version__} | versions | {"device": device}


def _lines(path: Path) -> list[str]:
    """Of a text file, which others may have edited; none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
