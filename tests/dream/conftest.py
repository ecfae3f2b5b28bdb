"""Dreams of small models: of the true pendulum, of an ensemble, and of one that draws."""

from __future__ import annotations

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


def dreamed(options: ModelOptions, logs: Trajectories, **changes: object) -> Dream:
    """Of a new model; its first parameters will do."""
    spec = logs.spec({key: "standardize" for key in logs.observations})
    model = models.build(options, spec, jax.random.key(0))
    chosen = DreamOptions(**{"context": 2, "time_limit": 50, **changes})
    return build_dream(model, spec, logs, np.arange(logs.num_episodes), chosen)


@pytest.fixture(scope="session")
def true_pendulum(pendulum: Trajectories) -> Callable[..., Dream]:
    """Dreams of the oracle: they are the real environment."""
    options = OracleOptions(environment="Pendulum-v1")
    return lambda **changes: dreamed(options, pendulum, **{"context": 1, **changes})


@pytest.fixture(scope="session")
def hoppers() -> Trajectories:
    """Vectors of Hopper's size about where its rule ends an episode; nothing else is like it."""
    rng = np.random.default_rng(0)
    episodes = []
    for steps in (5, 9, 12, 30):
        rows = rng.normal(size=(steps + 1, 11)).astype(np.float32) * 0.1
        rows[:, 0] += 0.9
        actions = rng.uniform(-1, 1, (steps, 3)).astype(np.float32)
        rewards = rng.normal(size=steps).astype(np.float32)
        episodes.append(Episode({"observation": rows}, actions, rewards, False))
    return stack_episodes(episodes, "hoppers", ActionSpec(False, 3, (-1.0,) * 3, (1.0,) * 3))


@pytest.fixture(scope="session")
def hopping(hoppers: Trajectories) -> Callable[..., Dream]:
    """Dreams of an ensemble that end by Hopper's rule."""
    options = EnsembleOptions(num_members=4, num_elites=3, units=8, layers=1, termination="hopper")
    return lambda **changes: dreamed(options, hoppers, **changes)


@pytest.fixture(scope="session")
def seen_and_measured() -> Trajectories:
    """Episodes with an image, a vector and classes of actions; the first of them really ends."""
    rng = np.random.default_rng(0)
    episodes = []
    for number, steps in enumerate((3, 6)):
        seen = {
            "image": rng.integers(0, 256, (steps + 1, 16, 16, 1)).astype(np.uint8),
            "motion": rng.normal(size=(steps + 1, 2)).astype(np.float32),
        }
        rewards = rng.normal(size=steps).astype(np.float32)
        episodes.append(Episode(seen, rng.integers(0, 3, steps), rewards, number == 0))
    return stack_episodes(episodes, "both", ActionSpec(True, 3))


@pytest.fixture(scope="session")
def drawing(seen_and_measured: Trajectories) -> Callable[..., Dream]:
    """Dreams of an RSSM, whose steps and ends are drawn."""
    return lambda **changes: dreamed(RSSM, seen_and_measured, **changes)
