"""Runs that were evaluated, written without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from worldmodel.config import Config, PolicyOptions
from worldmodel.config.io import save_config
from worldmodel.config.references import Reference
from worldmodel.config.values import assign
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.spec import DataSpec
from worldmodel.evaluation.evaluator import write
from worldmodel.evaluation.results import Provenance, Results
from worldmodel.evaluation.returns import EvaluationEpisodes
from worldmodel.evaluation.sections.returns import AgentReturns, Returns, Scale
from worldmodel.evaluation.statistics import SEEDS, Bootstrap
from worldmodel.models.observed import ObservedOptions
from worldmodel.policies.rebrac import ReBRACOptions
from worldmodel.policies.td3_bc import TD3BCOptions
from worldmodel.runs.directory import RunDirectory

TASKS = {
    "Hopper-v5": Reference("d4rl/hopper", -20.0, 3230.0, "a pair", 1000),
    "Walker2d-v5": Reference("d4rl/walker2d", 2.0, 4592.0, "another pair", 1000),
}
POLICIES = {"td3_bc": TD3BCOptions(), "rebrac": ReBRACOptions()}
QUALITY = {"td3_bc": 0.4, "rebrac": 0.55}  # of the reference's range

Evaluator = Callable[..., Path]


def returns_of(method: str, task: str, seeds: int, first: int = 0, episodes: int = 6) -> np.ndarray:
    """(seeds, episodes), each seed's from a generator of its own."""
    reference = TASKS[task]
    found = []
    for seed in range(first, first + seeds):
        generator = np.random.default_rng([seed, *map(ord, method + task)])
        quality = QUALITY[method] + generator.normal(0, 0.1) + generator.normal(0, 0.2, episodes)
        found.append(reference.min + quality * (reference.max - reference.min))
    return np.stack(found)


def write_evaluated_run(
    folder: Path,
    spec: DataSpec,
    name: str,
    policy: PolicyOptions,
    task: str,
    returns: np.ndarray | None,
    seed: int = 0,
    reference: Reference | None = None,
    logs: str | None = None,
    step: int = 100,
    agent: str = "policy",
    **options: object,
) -> Path:
    """Writes a run's folder as training and evaluation leave it, with returns (seeds, episodes)."""
    config = Config(name, seed, model=ObservedOptions(), policy=policy)
    config.training.world_model.steps = config.training.policy.steps = 100
    for key, value in options.items():
        assign(config, key.replace("__", "."), value)
    config.data = GymnasiumData(name="logs", environment=task)
    run = RunDirectory(folder / name)
    save_config(config, run.path / "config.yaml")
    run.check_dataset(spec, logs or task)
    earned, bootstrap = {}, Bootstrap(100)
    if returns is not None:
        seeds = 1000 + np.arange(returns.shape[1])
        one = np.ones(len(seeds), bool)
        played = [
            EvaluationEpisodes(seeds, r[:, None], one.astype(int), one, ~one, None) for r in returns
        ]
        mean = bootstrap.mean(returns.mean(1), SEEDS)
        earned[agent] = AgentReturns(mean, returns.ravel(), played)
    source = Provenance(name, "policy", step, environment=task, config=dataclasses.asdict(config))
    scale = None if reference is None else Scale(reference, reference.note(1000))
    write(Results({"returns": Returns(earned, task, scale)}, 0.95, source), run.evaluation)
    return run.path
