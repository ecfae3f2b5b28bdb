"""What Minari recorded in an environment trains, and is evaluated in the same environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from pages import ROOT

from worldmodel.data import load
from worldmodel.data.commands import run
from worldmodel.data.readers.minari import MinariData
from worldmodel.environments import RealEnvironment

minari = pytest.importorskip("minari", reason="the extra `minari` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Minari asks for authors and links

MODULE = '''
import gymnasium, numpy as np
from gymnasium import spaces

class Corridor(gymnasium.Env):
    """Walks along a corridor; observes its place as a class, the door's, and a small picture."""
    observation_space = spaces.Dict(
        place=spaces.Discrete(6),
        inside=spaces.Tuple((spaces.Box(0, 1, (2, 2), np.float64), spaces.MultiBinary(2))),
        picture=spaces.Box(0, 255, (16, 16), np.uint8),
    )
    action_space = spaces.Discrete(2, start=1)

    def __init__(self, bonus: float = 0.0):
        self.bonus = bonus

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(5))
        return self._seen(), {}

    def step(self, action):
        assert action in (1, 2)
        self.place = int(np.clip(self.place + (1 if action == 2 else -1), 0, 5))
        return self._seen(), float(self.place == 5) + self.bonus, self.place == 5, False, {}

    def _seen(self):
        picture = np.zeros((16, 16), np.uint8)
        picture[:, 2 * self.place] = 200
        door = np.full((2, 2), self.place / 5)
        return {"place": self.place, "inside": (door, np.array([self.place > 2, 1], np.int8)),
                "picture": picture}

gymnasium.register("Corridor-v0", "corridor_module:Corridor", max_episode_steps=20)
'''


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The folder of a module with an environment, in which Minari recorded 12 episodes."""
    (tmp_path / "corridor_module.py").write_text(MODULE)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    collector = minari.DataCollector(gymnasium.make("corridor_module:Corridor-v0"))
    collector.action_space.seed(0)
    for seed in range(12):
        collector.reset(seed=seed)
        ended = False
        while not ended:
            *_, terminated, truncated, _ = collector.step(collector.action_space.sample())
            ended = terminated or truncated
    collector.create_dataset("corridor/random-v0")
    collector.close()
    yield tmp_path
    gymnasium.registry.pop("Corridor-v0")
    sys.modules.pop("corridor_module")


def test_the_environment_shows_what_minari_recorded_in_it(recorded, capsys):
    logs = load(MinariData(dataset="corridor/random-v0"))
    assert set(logs.observations) == {"place", "inside/0", "inside/1", "picture"}
    real = RealEnvironment("corridor_module:Corridor-v0", logs.spec())
    for episode in range(3):
        rows = range(int(logs.offsets[episode]), int(logs.last_steps[episode]))
        seen = real.reset(episode)
        for row in rows:
            for key, value in seen.items():
                np.testing.assert_array_equal(value, logs.observations[key][row], strict=True)
            outcome = real.step(logs.actions[row])
            assert outcome.reward == logs.rewards[row]
            seen = outcome.observation
        assert outcome.terminated == logs.terminated[episode]
    words = ["minari:corridor/random-v0", "environment=corridor_module:Corridor-v0"]
    assert run(["replay", *words]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "the resets of the recorded seeds" in printed and "agree: " in printed


@pytest.mark.slow
def test_it_trains_and_its_policy_earns_in_the_same_environment(recorded):
    """In a process of its own, which finds the environment in its working folder."""
    words = [
        "data=minari", "data.dataset=corridor/random-v0", "name=corridor", "model.deter=16",
        "data.environment=corridor_module:Corridor-v0", "data.environment_options={bonus: 0.5}",
        "evaluation.horizons=[1,2]", "evaluation.episodes=4", "evaluation.num_samples=2",
        "evaluation.policy_ranking.rollouts_per_policy=0", "evaluation.starts_per_episode=2",
        *(f"training.{stage}.{key}" for stage in ("world_model", "policy")
          for key in ("steps=20", "batch_size=4", "window=8", "warmup_steps=2")),
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=recorded, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((recorded / "runs/corridor/evaluation/results.json").read_text())
    returns = results["returns"]
    assert returns["policy"]["value"] > 0.5 and returns["random"]["value"] > 0.5
