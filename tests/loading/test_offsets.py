"""A model of vectors with an offset takes and gives raw units wherever values leave the package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from worldmodel import models
from worldmodel.config import Config
from worldmodel.data import Episode, Trajectories, plots, stack_episodes
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.dream import DreamOptions, build_dream
from worldmodel.dream.environment import DreamEnv
from worldmodel.dream.vector import DreamVectorEnv
from worldmodel.environments.real import RealEnvironment
from worldmodel.errors import ArgumentError
from worldmodel.loading import LoadedRun
from worldmodel.models.mlp import MLPOptions
from worldmodel.play.observation_values import flatten_observation
from worldmodel.runs.directory import RunDirectory

OFFSET = (5e6, 0.0, 2.0**30)
ACTION = ActionSpec(False, 1, (-1.0,), (1.0,))


def walks() -> list[np.ndarray]:
    """Steps of 2 cm; multiples of 2^-20, which OFFSET can be added to without rounding."""
    rng = np.random.default_rng(0)
    steps = np.round(0.02 * rng.normal(size=(3, 12, 3)) * 2**20) / 2**20
    return list(np.cumsum(steps, 1))


def dataset(offset: tuple[float, ...]) -> Trajectories:
    shift = np.array(offset or (0.0,) * 3)
    actions, rewards = np.zeros((11, 1)), np.ones(11)
    episodes = [Episode({"x": x + shift}, actions, rewards, False) for x in walks()]
    given = {"x": offset} if offset else None
    return stack_episodes(episodes, "walks", ACTION, offsets=given)


@pytest.fixture(scope="module")
def specs() -> tuple[DataSpec, DataSpec]:
    """Without and with an offset; all else is the same."""
    plain, shifted = (dataset(offset).spec({"x": "standardize"}) for offset in ((), OFFSET))
    assert replace(shifted.observations["x"], offset=()) == plain.observations["x"]
    return plain, shifted


@pytest.fixture(scope="module")
def model(specs: tuple[DataSpec, DataSpec]) -> models.WorldModel:
    return models.build(MLPOptions(units=4, latent_dim=4), specs[0], jax.random.key(0))


def run_of(model: models.WorldModel, spec: DataSpec) -> LoadedRun:
    return LoadedRun(RunDirectory(Path("run")), Config(), spec, "policy", 1, model, None, None)


def test_predictions_take_and_give_raw_units(model, specs):
    x, actions = np.stack(walks()), np.zeros((3, 11, 1))
    calls = [(run_of(model, specs[0]), x), (run_of(model, specs[1]), x + OFFSET)]
    plain, shifted = (
        run.predict({"x": given}, actions, context=4, horizon=3)["x"] for run, given in calls
    )
    assert shifted.dtype == np.float64 and plain.dtype == np.float32
    assert np.array_equal(shifted, plain.astype(np.float64) + OFFSET)


def test_observations_without_their_offset_are_refused(model, specs):
    data, actions = dataset(OFFSET), np.zeros((1, 11, 1))
    stored, raw = (x["x"][None, :12] for x in (data.observations, data.raw_observations()))
    run = run_of(model, specs[1])
    with pytest.raises(ArgumentError, match="accepted: raw units, such as `dataset.raw_obs"):
        run.predict({"x": stored}, actions, context=4, horizon=3)
    assert run.predict({"x": raw}, actions, context=4, horizon=3)["x"].shape == (1, 1, 3, 3)


def test_dreams_observe_raw_units(model, specs):
    data = dataset(OFFSET)
    options = DreamOptions(context=3, time_limit=5)
    dream = build_dream(model, specs[1], data, np.arange(3), options)
    plain, shifted = (DreamEnv(dream, spec) for spec in specs)
    seen = [env.reset(seed=0)[0] for env in (plain, shifted)]
    seen += [env.step(np.zeros(1, np.float32))[0] for env in (plain, shifted)]
    for own, raw in (seen[:2], seen[2:]):
        assert np.array_equal(raw, own.astype(np.float64) + OFFSET)
        assert plain.observation_space.contains(own) and shifted.observation_space.contains(raw)
    vector = DreamVectorEnv(dream, specs[1], 2)
    observations, _ = vector.reset(seed=0)
    assert observations.dtype == np.float64 and np.allclose(observations, OFFSET, atol=10)


def test_environments_give_what_the_model_sees():
    bounds = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "low": (-9.0,) * 3, "high": (9.0,) * 3}
    plain = DataSpec(
        {"observation": ObservationSpec((3,), "float32", **bounds)},
        ActionSpec(False, 1, (-2.0,), (2.0,)),
    )
    own = replace(plain.observations["observation"], offset=(4.0, -1.0, 0.0))
    environments = [
        RealEnvironment("Pendulum-v1", spec)
        for spec in (plain, replace(plain, observations={"observation": own}))
    ]
    raw, seen = (environment.reset(0)["observation"] for environment in environments)
    assert seen.dtype == np.float32
    assert np.allclose(seen, raw - np.array(own.offset), atol=1e-6)
    shown = flatten_observation({"observation": seen}, environments[1].spec)
    assert np.allclose(shown, raw, atol=1e-6)
    for environment in environments:
        environment.close()


def test_plots_show_raw_units():
    first = next(iter(plots._tracks(dataset(OFFSET), {})))
    assert np.array_equal(first.values, np.concatenate(walks())[:, 0] + OFFSET[0])
