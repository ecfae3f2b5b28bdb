"""Runs for `python -m worldmodel.play`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from flax import nnx

import worldmodel
from worldmodel import models
from worldmodel.loading import LoadedRun
from worldmodel.models.oracle import OracleOptions
from worldmodel.models.trajectory_diffusion import TrajectoryDiffusionOptions


@pytest.fixture(scope="session")
def smoke(smoke_run: Path) -> LoadedRun:
    """An RSSM and its policy after a few updates."""
    return worldmodel.load(smoke_run)


@pytest.fixture(scope="session")
def oracle(smoke: LoadedRun) -> LoadedRun:
    """The same run with Pendulum's own dynamics as its model."""
    options = OracleOptions(environment="Pendulum-v1")
    return replace(smoke, model=models.build(options, smoke.spec, jax.random.key(0)), policy=None)


@pytest.fixture(scope="session")
def whole(smoke: LoadedRun) -> LoadedRun:
    """The same run with a model, of shapes alone, that samples whole trajectories."""
    options = TrajectoryDiffusionOptions()
    model = nnx.eval_shape(lambda: models.build(options, smoke.spec, jax.random.key(0)))
    return replace(smoke, model=model)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[LoadedRun], None]:
    """Makes the command use a run that differs from the one in its folder."""

    def give(run: LoadedRun) -> None:
        for module in ("live_report", "counterfactual_report"):
            monkeypatch.setattr(f"worldmodel.play.{module}.load", lambda *_, **__: run)

    return give
