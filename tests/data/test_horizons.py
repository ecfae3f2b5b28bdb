"""Horizons and free runs that the held-out episodes do not allow are refused before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import random_trajectories

from worldmodel.config import Config, EvaluationOptions, NoPolicy, PlannerOptions
from worldmodel.data.horizons import add_training_horizons, check_evaluable
from worldmodel.data.spec import ObservationSpec
from worldmodel.errors import DataError
from worldmodel.models.mlp import MLPOptions
from worldmodel.models.observed import ObservedOptions
from worldmodel.policies.actor_critic import ActorCriticOptions
from worldmodel.policies.td3_bc import TD3BCOptions


def check(config: Config, steps: int = 60) -> None:
    trajectories = random_trajectories(4, steps)
    check_evaluable(config, trajectories.spec(), trajectories)


def config(**options: object) -> Config:
    return Config(model=MLPOptions(), policy=NoPolicy(), evaluation=EvaluationOptions(**options))


def test_horizons_beyond_every_episode_are_refused() -> None:
    with pytest.raises(DataError, match=r"evaluation.horizons=\[100\].*leaves 56 steps after"):
        check(config(horizons=[100], context=4))
    check(config(horizons=[1, 100], context=4))
    check(config(horizons=[56], context=4))
    check(replace(config(horizons=[100]), model=ObservedOptions()))  # predicts nothing
    check(replace(config(horizons=[100]), policy=ActorCriticOptions(horizon=7)))


def test_free_runs_without_a_record_or_a_vector_are_refused() -> None:
    with pytest.raises(DataError, match=r"longest record has 6 steps.*evaluation.context=10"):
        check(config(horizons=[1], context=10, free_run=True), steps=6)
    trajectories = random_trajectories()
    spec = replace(
        trajectories.spec(), observations={"camera": ObservationSpec((8, 8, 3), "uint8")}
    )
    with pytest.raises(DataError, match="camera are images; accepted"):
        check_evaluable(config(horizons=[1], context=2, free_run=True), spec, trajectories)


def test_a_run_is_refused_before_anything_is_written(
    train_words: Callable[..., list[str]], tmp_path: Path
) -> None:
    from worldmodel.config.arguments import parse_overrides
    from worldmodel.config.compose import build_config
    from worldmodel.training.run import train

    words = train_words(f"runs_dir={tmp_path}", "policy=none", "evaluation.horizons=[900]")
    configs = Path(__file__).parents[2] / "configs"
    with pytest.raises(DataError, match=r"evaluation.horizons=\[900\]"):
        train(build_config(configs, parse_overrides(words)), lambda run: 0)
    assert not any(tmp_path.iterdir())


def test_models_are_evaluated_as_far_ahead_as_they_are_used() -> None:
    imagining = Config(policy=ActorCriticOptions(horizon=7))
    without = Config(policy=TD3BCOptions())  # learns from the dataset alone
    mixed = Config(policy=TD3BCOptions(real_ratio=0.5, horizon=3))
    given, planned = EvaluationOptions(horizons=[1, 9]), PlannerOptions(kind="cem", horizon=4)
    assert add_training_horizons(given, [without]).horizons == [1, 9]
    assert add_training_horizons(given, [imagining, without]).horizons == [1, 7, 9]
    assert add_training_horizons(given, [mixed]).horizons == [1, 3, 9]
    planning = replace(given, planner=planned)
    assert add_training_horizons(planning, [imagining]).horizons == [1, 4, 7, 9]
