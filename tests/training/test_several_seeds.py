"""Whole runs in this process: two seeds at once, and a policy on the model of another run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest

import worldmodel
from worldmodel.config import (
    Config,
    EvaluationOptions,
    LoggingOptions,
    NoPolicy,
    StageOptions,
    TrainingOptions,
)
from worldmodel.data.readers.npz import NPZData
from worldmodel.errors import ConfigError
from worldmodel.loading import LoadedRun, evaluate_run
from worldmodel.models.ensemble import EnsembleOptions
from worldmodel.nn.learner import split_module
from worldmodel.policies.td3_bc import TD3BCOptions
from worldmodel.runs.checkpoints import digest
from worldmodel.training.restore import load_world_model
from worldmodel.training.run import train

MODEL_STEPS, POLICY_STEPS = 4, 2


def dataset(path: Path) -> str:
    """Six short episodes of a pendulum with random actions."""
    environment, rng = gymnasium.make("Pendulum-v1"), np.random.default_rng(0)
    rows, actions, rewards = [], [], []
    for episode in range(6):
        rows.append(environment.reset(seed=episode)[0])
        for action in rng.uniform(-2, 2, (12, 1)).astype(np.float32):
            row, reward, *_ = environment.step(action)
            rows.append(row)
            actions.append(action)
            rewards.append(reward)
    np.savez(path, observations=rows, actions=actions, rewards=rewards, lengths=[12] * 6)
    return str(path)


class Runs(NamedTuple):
    """Two seeds of a model, and a later run that trains two policies on them."""

    models: Path
    policies: Path


pytestmark = pytest.mark.slow  # three whole runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    stage = StageOptions(
        batch_size=4, window=2, learning_rate=1e-2, warmup_steps=0, steps=MODEL_STEPS
    )
    training = TrainingOptions(
        world_model=stage, policy=replace(stage, steps=POLICY_STEPS), num_seeds=2,
        steps_per_dispatch=2, log_every=2, compilation_cache=None,
    )  # fmt: skip
    config = Config(
        name="models",
        runs_dir=str(folder),
        data=NPZData(path=dataset(folder / "data.npz"), holdout=0.34),
        model=EnsembleOptions(num_members=3, num_elites=2, units=8, layers=1, termination="never"),
        policy=NoPolicy(),
        training=training,
        evaluation=EvaluationOptions(
            horizons=[1], context=2, starts_per_episode=2, num_samples=2, episodes=3, resamples=100
        ),
        logging=LoggingOptions(wandb="disabled", progress="none"),
    )
    assert train(config, evaluate_run) == 0
    later = replace(
        config,
        name="policies",
        data=replace(config.data, environment="Pendulum-v1"),
        policy=TD3BCOptions(units=8, layers=1, policy_delay=1),
        training=replace(training, pretrained_model=str(folder / "models")),
    )
    assert train(later, evaluate_run) == 0
    return Runs(folder / "models", folder / "policies")


def digests(run: LoadedRun, part: str = "model") -> list[str]:
    """Of each seed's parameters."""
    modules = [getattr(run, part), *(getattr(other, part) for other in run.other_seeds)]
    return [digest(split_module(module)[1]) for module in modules]


def test_a_policy_is_trained_on_exactly_the_model_of_another_run(runs: Runs) -> None:
    source, used = worldmodel.load(runs.models), worldmodel.load(runs.policies)
    assert (source.stage, source.step) == ("world_model", MODEL_STEPS)
    assert (used.stage, used.step) == ("policy", POLICY_STEPS)
    assert [p.name for p in (runs.policies / "checkpoints").iterdir()] == ["policy"]
    assert digests(used) == digests(source)


def test_every_seed_has_a_model_and_a_policy_of_its_own(runs: Runs) -> None:
    used = worldmodel.load(runs.policies)
    for part in ("model", "policy", "value"):
        assert len(set(digests(used, part))) == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda it: {"options": replace(it["options"], units=9)}, "other model.units;"),
        (lambda it: {"num_seeds": 3}, "other training.num_seeds;"),
        (lambda it: {"spec": replace(it["spec"], reward_mean_std=(0.0, 7.0))}, "other data;"),
    ],
)
def test_another_runs_model_is_refused_if_it_differs_and_the_error_says_how(
    runs: Runs, change: Callable[[dict], dict], named: str
) -> None:
    used = worldmodel.load(runs.policies)
    wanted = {"options": used.config.model, "spec": used.spec, "num_seeds": 2}
    load_world_model(runs.models, **wanted)
    with pytest.raises(ConfigError, match=named):
        load_world_model(runs.models, **(wanted | change(wanted)))


def test_returns_of_several_seeds_are_counted_by_training_seed(runs: Runs) -> None:
    results = json.loads((runs.policies / "evaluation" / "results.json").read_text())
    policy, random = results["returns"]["policy"], results["returns"]["random"]
    assert policy["n"] == 2 and "training seeds" in policy["method"]
    assert random["n"] == 3 and "episodes" in random["method"]
    earned = np.reshape(results["episodes"]["policy"], (2, 3))
    assert policy["value"] == pytest.approx(earned.mean())
    low, high = sorted(earned.mean(1))
    assert low <= policy["low"] <= policy["high"] <= high
    assert low < high  # two policies acted, each with its own model
