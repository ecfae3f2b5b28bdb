"""Dreams of trained runs: loaded, made by Gymnasium's id, and used by other libraries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import worldmodel
from worldmodel import data
from worldmodel.data.trajectories import split_episodes
from worldmodel.dream import DreamEnv, DreamVectorEnv
from worldmodel.errors import ConfigError
from worldmodel.evaluation.returns import FeaturePolicy, model_policy, run_episodes

ROOT = Path(__file__).parents[2]
DREAM = "worldmodel.dream:worldmodel/Dream-v0"


def python(program: str) -> str:
    """The output of a program in a process of its own."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# ------------------------------------------------------------------------------------ registration


def test_gymnasium_finds_dreams_by_their_id_alone() -> None:
    """Reading options does not import Gymnasium; its `make` imports what it needs."""
    output = python(
        "import sys, worldmodel.config.compose; print('gymnasium' in sys.modules)\n"
        f"import gymnasium\ntry: gymnasium.make({DREAM!r}, run='nowhere')\n"
        "except Exception as error: print(error)\n"
    )
    imported, error = output.splitlines()
    assert imported == "False" and "nowhere is not a run" in error


def test_gymnasium_makes_single_and_vector_environments(smoke_run: Path) -> None:
    given = {"run": str(smoke_run), "max_initial_states": 50, "time_limit": 1}
    single = gymnasium.make(DREAM, **given)
    single.reset(seed=0)
    assert single.step(single.action_space.sample())[0].shape == (3,)
    many = gymnasium.make_vec(DREAM, num_envs=3, **given)
    many.reset(seed=0)
    assert many.step(many.action_space.sample())[3].tolist() == [True] * 3


# ------------------------------------------------------------------------------------- loaded runs


@pytest.fixture(scope="module")
def run(smoke_run: Path) -> worldmodel.LoadedRun:
    return worldmodel.load(smoke_run)


def test_a_loaded_run_dreams_of_its_held_out_episodes(run: worldmodel.LoadedRun) -> None:
    dataset = data.load(run.config.data)
    training, held_out = split_episodes(dataset.num_episodes, run.config.data.holdout)
    single = run.dream(max_initial_states=50)
    many = run.dream(num_envs=5, split="training", max_initial_states=50)
    assert type(single) is DreamEnv and type(many) is DreamVectorEnv and many.num_envs == 5
    assert set(single.dream.initial_states.episode.tolist()) <= set(held_out.tolist())
    assert set(many.dream.initial_states.episode.tolist()) <= set(training.tolist())
    assert single.dream.time_limit == dataset.lengths.max() - 1
    assert single.dream.initial_states.step.min() >= run.config.evaluation.context - 1


def test_invalid_options_are_refused(run: worldmodel.LoadedRun) -> None:
    with pytest.raises(ConfigError, match="did you mean 'dream.time_limit'"):
        run.dream(time_limt=3)
    with pytest.raises(ConfigError, match="dream.split=test: accepts one of held_out"):
        run.dream(split="test")
    with pytest.raises(ConfigError, match="RSSM has no members"):
        run.dream(penalty="ensemble_std")


# ------------------------------------------------------------------------- other libraries


@pytest.fixture(scope="module")
def swing_up(launch: Callable[..., list[str]], shared: Path) -> Path:
    """The default run."""
    words = (f"runs_dir={shared / 'swing_up'}", "name=default")
    done = subprocess.run(launch(*words, experiment=False), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return shared / "swing_up" / "default"


@pytest.mark.slow
def test_a_stable_baselines_agent_trained_in_a_dream_works_in_the_real_environment(
    swing_up: Path,
) -> None:
    """SAC with its defaults and the learning rate that its authors use for Pendulum is trained in
    the dream alone. Its costs are compared with those of the run's own policy on the same 50
    episodes.
    """
    reason = "Stable-Baselines3 is not installed: pip install worldmodel[sb3]"
    baselines = pytest.importorskip("stable_baselines3", reason=reason)
    import torch  # comes with it

    torch.set_num_threads(1)  # its networks are small, and results become reproducible
    run = worldmodel.load(swing_up)
    agent = baselines.SAC("MlpPolicy", run.dream(), learning_rate=1e-3, seed=0)
    agent.learn(10_000)

    def theirs(memory: Any, observation: dict[str, np.ndarray], *_: Any) -> tuple[Any, np.ndarray]:
        return memory, agent.predict(observation["observation"], deterministic=True)[0]

    ours = model_policy(run.model, FeaturePolicy(run.policy), run.spec)
    cost, own = (
        -run_episodes("Pendulum-v1", run.spec, act, 50, 0).returns.mean() for act in (theirs, ours)
    )
    print(f"cost in the real environment: {cost:.1f}, of the run's own policy {own:.1f}")
    assert own < 400  # the run's own policy has learned the task
    assert cost <= 1.3 * own, (cost, own)
