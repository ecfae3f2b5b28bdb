"""The one evaluator: train.py calls it at its end, eval.py for any checkpoint."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from worldmodel import data, planning
from worldmodel.config import EvaluationOptions
from worldmodel.config.references import Reference, resolve_reference
from worldmodel.data.compatibility import out_of_bounds_notes
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories, split
from worldmodel.environments import real as environments
from worldmodel.evaluation.agents import Agent, add_training_horizons, build_agents, run_agent
from worldmodel.evaluation.free_run import evaluate_free_run
from worldmodel.evaluation.policy_ranking import can_rank_policies, rank_policies
from worldmodel.evaluation.prediction import Prediction, evaluate_open_loop
from worldmodel.evaluation.report import page
from worldmodel.evaluation.results import (
    AgentReturns,
    Provenance,
    Results,
    Scale,
    episodes,
    to_json,
)
from worldmodel.evaluation.returns import EvaluationEpisodes
from worldmodel.evaluation.spectrum import spectrum_of
from worldmodel.evaluation.statistics import SEEDS, Bootstrap, Estimate, wilson
from worldmodel.evaluation.tables import markdown, render
from worldmodel.evaluation.uncertainty import evaluate_uncertainty, is_ensemble
from worldmodel.models.interface import WorldModel
from worldmodel.system.storage import write_json, write_text_atomic
from worldmodel.training.restore import Restored

__all__ = ["evaluate", "evaluate_loaded", "render", "write"]


NO_PREDICTION = "This family of models has no dynamics, so there is no prediction to judge."


def evaluate(
    model: WorldModel,
    policy: nnx.Module | None,
    spec: DataSpec,
    held_out: Trajectories,
    all_logs: Trajectories,
    environment: str | None,
    options: EvaluationOptions,
    provenance: Provenance | None = None,
    value: planning.Value | None = None,
    other_seeds: Sequence[Agent] = (),
    earlier_policies: Mapping[str, nnx.Module] | None = None,
) -> Results:
    """Judges a model on `held_out` episodes, and a policy, a planner or both, who act with it, in
    the real environment.

    Returns are measured where there are both one who acts and an environment, and stand beside
    those of `all_logs` (training and held out) and of a random policy on the same seeds. `value`,
    a critic's, is for the planner. With `other_seeds`, of other training seeds, a return is the mean over
    all seeds and its interval is over them. `earlier` policies, by name, act on the same features:
    the model is judged by how it ranks them too; where nobody acts, by policies made from the logs.
    `provenance` says whose model it is; split, times and versions are added to it.
    """
    seconds: dict[str, float] = {}
    reference = resolve_reference(options)
    agents = [Agent(model, policy, value), *other_seeds]
    acting = build_agents(agents, spec, options.planner) if environment is not None else {}
    ranks, unfit = environment is not None and can_rank_policies(model, spec, options), None
    if acting:
        environments.check_environment(
            environment, spec
        )  # a mistake is found before anything slow starts
    elif ranks:
        unfit = environments.compatibility_error(environment, spec)
    with _timed(seconds, "prediction"):
        prediction = (
            evaluate_open_loop(model, spec, held_out, options, jax.random.key(options.seed))
            if model.has_dynamics
            else Prediction({}, [NO_PREDICTION])
        )
    free = {}
    if options.free_run and model.has_dynamics:
        with _timed(seconds, "free_run"):
            free = evaluate_free_run(model, spec, held_out, options, jax.random.key(options.seed))
    prediction.notes.extend(out_of_bounds_notes(held_out))
    prediction.notes.extend([f"Policies are not ranked: {unfit}"] if unfit else [])
    uncertainty = None
    if is_ensemble(model, spec):
        with _timed(seconds, "uncertainty"):
            judged = (model, spec, held_out, options, jax.random.key(options.seed))
            uncertainty = evaluate_uncertainty(*judged)
    bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
    returns = {}
    for name, acts in acting.items():
        with _timed(seconds, f"returns.{name}"):
            played = run_agent(name, acts, environment, spec, options)
        returns[name] = _mean_return(played, bootstrap, reference)
    decision = None
    if ranks and not unfit:
        with _timed(seconds, "policy_ranking"):
            judged = (
                model,
                policy,
                earlier_policies or {},
                spec,
                all_logs,
                environment,
                options,
                value,
            )
            decision = rank_policies(*judged)
    if all_logs.rewards is not None:
        logged = all_logs.returns()
        mean = bootstrap.mean(logged, "episodes")
        returns["dataset"] = AgentReturns(mean, logged, normalized=_normalized(mean, reference))
    order = [name for name in ("policy", "planner", "dataset", "random") if name in returns]
    provenance = dataclasses.replace(
        provenance or Provenance(),
        held_out_sha256=held_out.fingerprint(),
        environment=environment,
        seconds=seconds,
        software=_software(),
    )
    scale = None
    if reference is not None:
        limit = None if environment is None else environments.episode_limit(environment)
        scale = Scale(reference, reference.note(limit))
    returns = {name: returns[name] for name in order}
    of_model = (spectrum_of(model), uncertainty)
    found = (prediction, returns, options.confidence, provenance)
    return Results(*found, *of_model, decision, scale, free_run=free)


def _mean_return(
    played: list[EvaluationEpisodes], bootstrap: Bootstrap, reference: Reference | None
) -> AgentReturns:
    """Of one agent's episodes, or the mean over training seeds."""
    earned = [episodes.returns for episodes in played]
    told = [p.success for p in played if p.success is not None]
    if len(played) == 1:
        mean = bootstrap.mean(earned[0], "episodes")
        rate = wilson(int(told[0].sum()), len(told[0]), bootstrap.confidence) if told else None
    else:
        mean = bootstrap.mean(np.mean(earned, 1), SEEDS)
        rate = bootstrap.mean(np.mean(told, 1), SEEDS) if told else None
    normalized = _normalized(mean, reference)
    return AgentReturns(mean, np.concatenate(earned), played, rate, normalized)


def _normalized(mean: Estimate, reference: Reference | None) -> Estimate | None:
    if reference is None:
        return None
    value, low, high = (reference.score(x) for x in (mean.value, mean.low, mean.high))
    method = f"{mean.method}; 0 is {reference.low:g}, 100 is {reference.high:g}"
    return Estimate(value, low, high, mean.n, f"{method} ({reference.source})", mean.sample_unit)


def write(
    results: Results,
    folder: Path,
    metrics: Path | None = None,
    card: dict[str, Any] | None = None,
) -> None:
    """Writes results.json, results.md, report.html and episodes.jsonl: a row for every episode in
    the real environment.

    The page also shows the training curves of `metrics` (metrics.jsonl) and a data card, if given.
    """
    write_json(folder / "results.json", to_json(results))
    write_text_atomic(folder / "results.md", markdown(results))
    write_text_atomic(
        folder / "episodes.jsonl", "".join(f"{json.dumps(r)}\n" for r in episodes(results))
    )
    rows = _rows(metrics) if metrics is not None and metrics.exists() else []
    write_text_atomic(folder / "report.html", page(results, rows, card))


def evaluate_loaded(
    run: Restored, trajectories: Trajectories, options: EvaluationOptions
) -> Results:
    """Judges a checkpoint, writes evaluation/ and shows the tables: by the logs of its run, of
    which some were held out, or by others, whole, where `options.data` says so. The last checkpoint
    is judged beside the best.
    """
    own = options.data is None
    held_out = split(trajectories, run.config.data.holdout)[1] if own else trajectories
    options = add_training_horizons(options, [run.config])

    def judged(run: Restored, options: EvaluationOptions) -> Results:
        provenance = Provenance(
            run=run.config.name,
            stage=run.stage,
            step=run.step,
            command=shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
            config=dataclasses.asdict(run.config) | {"evaluation": dataclasses.asdict(options)},
            data=f"{trajectories.source}: {'held-out' if own else 'all'} episodes",
        )
        return evaluate(
            run.model,
            run.policy,
            run.spec,
            held_out,
            trajectories,
            run.config.data.environment,
            options,
            provenance,
            run.value,
            run.other_seeds,
            run.checkpoint_policies() if options.policy_ranking.rollouts_per_policy else {},
        )

    results = judged(run, options)
    if run.last is not None:
        same = (run.last.stage, run.last.step) == (run.stage, run.step)
        results = dataclasses.replace(results, last=results if same else judged(run.last, options))
    folder = run.directory.evaluation
    write(results, folder, run.directory.metrics, data.build_card(trajectories))
    shown = Console()
    console = Console(width=min(shown.width, 100) if shown.is_terminal else 100)
    console.print(render(results))
    console.print(f"report       {folder / 'report.html'}", soft_wrap=True, highlight=False)
    return results


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - began, 2)


def _software() -> dict[str, str]:
    """Versions, and the device, that the numbers were made with."""
    import worldmodel

    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "gymnasium")}
    device = jax.devices()[0].device_kind
    return {"worldmodel": worldmodel.__version__} | versions | {"device": device}


def _rows(metrics: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl. A run may be writing its last one: what is not whole is left out."""
    rows = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
