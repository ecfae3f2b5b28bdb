"""Dreams of small models: the true pendulum, an ensemble, and a stochastic model."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np
import pytest

from worldmodel import models
from worldmodel.config import ModelOptions
from worldmodel.data.episodes import Episode, stack_episodes
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.dream import Dream, build_dream
from worldmodel.dream.options import DreamOptions
from worldmodel.models.ensemble import EnsembleOptions
from worldmodel.models.oracle import OracleOptions
from worldmodel.models.rssm import RSSMOptions

RSSM = RSSMOptions(deter=16, hidden=8, classes=4, stoch=4, depth=2, blocks=2)


def dreams_of(
    options: ModelOptions, dataset: Trajectories, **defaults: object
) -> Callable[..., Dream]:
    """Makes dreams of one model with its initial parameters; equal options give the same dream."""
    vectors = [name for name, x in dataset.observations.items() if x.ndim == 2]
    spec = dataset.spec(dict.fromkeys(vectors, "standardize"))
    model = models.build(options, spec, jax.random.key(0))

    @functools.cache
    def make(**changes: object) -> Dream:
        chosen = DreamOptions(**{"context": 2, "time_limit": 50, **defaults, **changes})
        return build_dream(model, spec, dataset, np.arange(dataset.num_episodes), chosen)

    return make


@pytest.fixture(scope="session")
def true_pendulum(pendulum: Trajectories) -> Callable[..., Dream]:
    """Dreams of the oracle, which are the real environment."""
    return dreams_of(OracleOptions(environment="Pendulum-v1"), pendulum, context=1)


@pytest.fixture(scope="session")
def hoppers() -> Trajectories:
    """Random vectors of Hopper's size, close to where its termination rule ends an episode."""
    rng = np.random.default_rng(0)
    episodes = []
    for steps in (5, 9, 12, 30):
        observations = rng.normal(size=(steps + 1, 11)).astype(np.float32) * 0.1
        observations[:, 0] += 0.9
        actions = rng.uniform(-1, 1, (steps, 3)).astype(np.float32)
        rewards = rng.normal(size=steps).astype(np.float32)
        episodes.append(Episode({"observation": observations}, actions, rewards, False))
    return stack_episodes(episodes, "hoppers", ActionSpec(False, 3, (-1.0,) * 3, (1.0,) * 3))


@pytest.fixture(scope="session")
def hopping(hoppers: Trajectories) -> Callable[..., Dream]:
    """Dreams of an ensemble that end by Hopper's rule."""
    options = EnsembleOptions(num_members=4, num_elites=3, units=8, layers=1, termination="hopper")
    return dreams_of(options, hoppers)


@pytest.fixture(scope="session")
def image_and_vector() -> Trajectories:
    """Episodes with an image, a vector and discrete actions; the first one is terminated."""
    rng = np.random.default_rng(0)
    episodes = []
    for number, steps in enumerate((3, 6)):
        observations = {
            "image": rng.integers(0, 256, (steps + 1, 16, 16, 1)).astype(np.uint8),
            "motion": rng.normal(size=(steps + 1, 2)).astype(np.float32),
        }
        rewards = rng.normal(size=steps).astype(np.float32)
        episodes.append(Episode(observations, rng.integers(0, 3, steps), rewards, number == 0))
    return stack_episodes(episodes, "both", ActionSpec(True, 3))


@pytest.fixture(scope="session")
def stochastic(image_and_vector: Trajectories) -> Callable[..., Dream]:
    """Dreams of an RSSM, whose steps and ends are sampled."""
    return dreams_of(RSSM, image_and_vector)
