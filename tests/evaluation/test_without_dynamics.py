"""What is reported of a family that has no dynamics: returns alone."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from worldmodel import models
from worldmodel.config import EvaluationOptions
from worldmodel.data.trajectories import Trajectories
from worldmodel.evaluation import Context, evaluate, write
from worldmodel.models.observed import ObservedOptions
from worldmodel.policies.actor_critic import ActorCriticOptions, build_heads

KEY = jax.random.key(0)


@pytest.mark.parametrize("environment", ["Pendulum-v1", None])
def test_a_family_without_dynamics_is_evaluated_by_returns_alone(
    pendulum: Trajectories, tmp_path: Path, environment: str | None
) -> None:
    spec = pendulum.spec()
    model = models.build(ObservedOptions(), spec, KEY)
    actor, _ = build_heads(ActorCriticOptions(layers=1), model, spec.action, KEY, jnp.float32)
    options = EvaluationOptions(episodes=2, resamples=100)
    results = evaluate(Context(model, actor, spec, pendulum, pendulum, environment, options))
    write(results, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["prediction"] == {} and "no dynamics" in found["notes"][0]
    assert set(found["returns"]) == {"dataset"} | ({"policy", "random"} if environment else set())
    page = (tmp_path / "report.html").read_text()
    assert "no dynamics" in page and "Errors are medians" not in page
    assert ("the policy returns" in page) == (environment is not None)
