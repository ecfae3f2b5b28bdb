"""`eval.py runs=[a,b]`: loads the runs, sees that they can be compared, compares and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel import data
from worldmodel.config import EvaluationOptions
from worldmodel.config.evaluation_data import evaluation_data_options
from worldmodel.config.io import with_overrides
from worldmodel.data.compatibility import conform_to_spec, out_of_bounds_notes
from worldmodel.data.trajectories import Trajectories, split
from worldmodel.environments.real import check_environment, compatibility_error
from worldmodel.errors import ConfigError
from worldmodel.evaluation.agents import add_training_horizons, build_agents, run_agent
from worldmodel.evaluation.compare_models import compare_models
from worldmodel.evaluation.compare_returns import RANKING_NOTE, compare_rankings, compare_returns
from worldmodel.evaluation.comparison import Comparison
from worldmodel.evaluation.comparison_page import comparison_page
from worldmodel.evaluation.comparison_tables import comparison_tables, how, summarize
from worldmodel.evaluation.policy_ranking import PolicyRanking, can_rank_policies, rank_policies
from worldmodel.evaluation.report_files import Report, write_report
from worldmodel.evaluation.returns import ActFunction
from worldmodel.evaluation.starts import prediction_starts
from worldmodel.evaluation.statistics import Bootstrap
from worldmodel.system.compilation import enable_compilation_cache
from worldmodel.training.restore import Restored, restore

BEST_NOTE = (
    "Each run's best checkpoint, by a metric of its own, is best in part by luck: the last ones "
    "are compared below."
)
SAME_NOTE = "The best checkpoint of every run is also its last one."


def compare_runs(
    runs: Sequence[str], checkpoint: str, overrides: dict[str, Any], folder: str | None
) -> int:
    """Judges a checkpoint of each run on the same held-out episodes, or on other logs, whole
    (`evaluation.data`), with the same starts and episode seeds; writes comparison.{json,md,html} to
    `folder` and shows the tables. Returns the exit status.

    Evaluation options are the first run's, with `overrides`. Raises ConfigError for runs that were
    not trained on the same episodes of the same logs.
    """
    found = [restore(path, checkpoint) for path in runs]
    names = labels(runs, [run.config.name for run in found])
    loaded = dict(zip(names, found, strict=True))
    first = found[0]
    enable_compilation_cache(first.config.training.compilation_cache)
    _check_comparable(loaded)
    config = with_overrides(first.config, {"evaluation": overrides})
    if config.evaluation.data is not None:
        logs = held_out = conform_to_spec(data.load(evaluation_data_options(config)), first.spec)
    else:
        logs = data.load(config.data)
        for run in loaded.values():
            run.directory.check_dataset(run.spec, logs.fingerprint())
        _, held_out = split(logs, config.data.holdout)
    options = add_training_horizons(config.evaluation, [run.config for run in found])
    comparison = _compare(loaded, logs, held_out, options)
    if checkpoint == "best":
        last = {name: run.last or run for name, run in loaded.items()}
        same = all((r.stage, r.step) == (last[n].stage, last[n].step) for n, r in loaded.items())
        comparison = replace(
            comparison,
            last=None if same else _compare(last, logs, held_out, options),
            notes=[*comparison.notes, SAME_NOTE if same else BEST_NOTE],
        )
    default = first.directory.path.parent / ".compared" / "-".join(names).replace("/", "_")
    write_report(
        Report(
            " and ".join(comparison.runs),
            summarize(comparison),
            comparison_tables(comparison),
            [how(comparison), *comparison.notes],
            comparison.to_json(),
            comparison_page(comparison),
        ),
        Path(folder) if folder else default,
        "comparison",
    )
    return 0


def labels(paths: Sequence[str], names: Sequence[str]) -> list[str]:
    """What runs are called: by their names, or by their paths where two have the same name. Raises
    ConfigError for a run that is given twice.
    """
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ConfigError(f"runs={list(paths)}: a run is given twice; accepted: different runs")
    return list(names if len(set(names)) == len(names) else paths)


def _check_comparable(runs: dict[str, Restored]) -> None:
    names = list(runs)
    for what, of in {
        "other logs": lambda run: run.directory.fingerprint(),
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
                    "same logs"
                )


def _compare(
    runs: dict[str, Restored],
    logs: Trajectories,
    held_out: Trajectories,
    options: EvaluationOptions,
) -> Comparison:
    notes = []
    first = next(iter(runs.values()))
    models = {name: run for name, run in runs.items() if run.model.has_dynamics}
    if left_out := runs.keys() - models.keys():
        notes.append(f"Without dynamics there is nothing to predict: {', '.join(left_out)}.")
    if seeds := [name for name, run in runs.items() if run.other_seeds]:
        notes.append(
            f"Of {', '.join(seeds)}: prediction and ranking of the first seed, returns of all."
        )
    environment = first.config.data.environment
    ranks = environment is not None
    if ranks and any(_act(run, options) for run in runs.values()):
        check_environment(environment, first.spec)  # a mistake is found before anything slow starts
    elif ranks and (unfit := compatibility_error(environment, first.spec)):
        notes.append(f"Policies are not ranked: {unfit}")
        ranks = False
    measures = []
    if len(models) > 1:
        given = {name: (run.model, run.spec) for name, run in models.items()}
        measures += compare_models(given, held_out, options)
        notes += [*prediction_starts(held_out, options)[2], *out_of_bounds_notes(held_out)]
    if ranks:
        bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
        measures += compare_returns(_returns(runs, environment, options), environment, bootstrap)
        decisions = _decisions(models, logs, environment, options)
        measures += compare_rankings(decisions)
        notes += [RANKING_NOTE] if decisions else []
    return Comparison(
        runs=list(runs),
        held_out_sha256=held_out.fingerprint(),
        environment=environment,
        confidence=options.confidence,
        measures=measures,
        notes=notes,
    )


def _act(run: Restored, options: EvaluationOptions) -> dict[str, list[ActFunction]]:
    return build_agents(run.agents, run.spec, options.planner)


def _returns(
    runs: dict[str, Restored], environment: str, options: EvaluationOptions
) -> dict[str, dict[str, np.ndarray]]:
    """who -> run -> (seeds, episodes), on common episode seeds."""
    earned: dict[str, dict[str, np.ndarray]] = {}
    for name, run in runs.items():
        acting = _act(run, options)
        for who in (name for name in acting if name != "random"):
            played = run_agent(who, acting[who], environment, run.spec, options)
            per_seed = [episodes.returns for episodes in played]
            earned.setdefault(who, {})[name] = np.stack(per_seed)
    return earned


def _decisions(
    models: dict[str, Restored],
    logs: Trajectories,
    environment: str,
    options: EvaluationOptions,
) -> dict[str, PolicyRanking]:
    """How each model ranks policies."""
    return {
        name: rank_policies(
            run.model,
            run.policy,
            run.checkpoint_policies(),
            run.spec,
            logs,
            environment,
            options,
            run.value,
        )
        for name, run in models.items()
        if can_rank_policies(run.model, run.spec, options)
    }
