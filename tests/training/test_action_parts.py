"""Environments with actions of several parts: collected, learned, imagined, acted in, evaluated and
dreamed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces

import worldmodel
from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import build_config
from worldmodel.data.collection import collect_episodes
from worldmodel.data.spec import ActionSpec
from worldmodel.dream.spaces import action_space
from worldmodel.environments import RealEnvironment
from worldmodel.errors import ArgumentError, UserError
from worldmodel.training.run import train

ROOT = Path(__file__).parents[2]


class Rover(gymnasium.Env):
    """A position that its actions move; the middle earns most."""

    observation_space = spaces.Box(-9, 9, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.speed = self.np_random.uniform(-1, 1), 0.0
        return self.seen(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.speed = 0.5 * self.speed + self.force(action)
        self.place = float(np.clip(self.place + self.speed, -3, 3))
        return self.seen(), -abs(self.place), False, False, {}

    def seen(self) -> np.ndarray:
        return np.array([self.place, self.speed], np.float32)


class Driven(Rover):
    """By a gear, backward or forward, and by how much."""

    action_space = spaces.Dict({"gear": spaces.Discrete(2), "push": spaces.Box(0, 0.4, (1,))})

    def force(self, action: dict) -> float:
        return float((2 * action["gear"] - 1) * action["push"][0])


class Switched(Rover):
    """By two choices: a direction of three, and fine or coarse."""

    action_space = spaces.MultiDiscrete([3, 2])

    def force(self, action: np.ndarray) -> float:
        return float((action[0] - 1) * (0.1 + 0.3 * action[1]))


SHORT = [
    *("data.episodes=8", "model.deter=16", "model.hidden=8", "model.blocks=2", "model.stoch=4"),
    *("model.classes=4", "policy.horizon=3", "training.steps_per_dispatch=5"),
    *("evaluation.episodes=1", "evaluation.num_samples=2", "evaluation.horizons=[1,5]"),
    *("evaluation.policy_ranking.rollouts_per_policy=2", "logging.wandb=disabled"),
    *("evaluation.policy_ranking.horizons=[5]", "evaluation.policy_ranking.num_start_states=1"),
    *(f"training.{stage}.steps=10" for stage in ("world_model", "policy")),
]
CASES: dict[str, type[Rover]] = {"Driven": Driven, "Switched": Switched}


def registered(name: str) -> str:
    key = f"{name}-v0"
    if key not in gymnasium.registry:
        gymnasium.register(key, CASES[name], max_episode_steps=20)
    return key


def by_parts(spec: ActionSpec, actions: np.ndarray) -> dict[str, np.ndarray]:
    """The two columns of actions (..., 2) by name, as environments have them."""
    return {
        name: actions[..., k].astype(int) if part.discrete else actions[..., k : k + 1]
        for k, (name, part) in enumerate(spec.parts)
    }


@pytest.mark.parametrize("name", CASES)
def test_logs_of_several_parts_are_collected_and_acted_out(name: str) -> None:
    dataset = collect_episodes(registered(name), ["uniform", "sticky"], 2, seed=0)
    spec = dataset.spec()
    assert action_space(spec.action) == CASES[name].action_space
    environment = RealEnvironment(registered(name), spec)
    first = environment.reset(seed=0)["observation"]
    np.testing.assert_array_equal(first, dataset.observations["observation"][0])
    for step in range(3):  # the actions of the logs lead where they led
        observed = environment.step(dataset.actions[step]).observation["observation"]
        np.testing.assert_array_equal(observed, dataset.observations["observation"][step + 1])
    environment.close()
    other = next(key for key in CASES if key != name)
    with pytest.raises(UserError, match="its actions are .* classes.*, the dataset has"):
        RealEnvironment(registered(other), spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_actions_of_several_parts_go_all_the_way(name: str, tmp_path: Path) -> None:
    words = ["experiment=smoke", f"data.environment={registered(name)}", f"runs_dir={tmp_path}"]
    words += [f"data.cache_dir={tmp_path}", "name=run", *SHORT]
    config = build_config(ROOT / "configs", parse_overrides(words))
    assert train(config, lambda run: 0) == 0
    run = worldmodel.load(tmp_path / "run")
    spec, dataset = run.spec.action, run.dataset()
    assert spec.kind == "mixed" and spec == dataset.action_spec
    run.evaluate()
    results = json.loads((tmp_path / "run" / "evaluation" / "results.json").read_text())
    assert np.isfinite(results["returns"]["policy"]["value"])

    start = jax.tree.map(lambda x: x[:2], run.dream().dream.initial_states.state)
    rollout = worldmodel.imagine(run.model, start, run.policy, 3, jax.random.key(0))
    assert rollout.actions.shape == (2, 3, 2)
    assert not spec.no_classes(spec.denormalize(rollout.actions)).any()
    given = by_parts(spec, np.zeros((2, 3, 2)))
    by_name = worldmodel.imagine(run.model, start, given, 3, jax.random.key(0))
    flat = worldmodel.imagine(run.model, start, spec.flatten(given), 3, jax.random.key(0))
    np.testing.assert_array_equal(by_name.rewards, flat.rewards)

    observed = {key: x[None, :4] for key, x in dataset.observations.items()}
    logged = dataset.actions[None, :6]
    parts = by_parts(spec, logged)
    np.testing.assert_array_equal(
        run.predict(observed, parts, context=4, horizon=3)["observation"],
        run.predict(observed, logged, context=4, horizon=3)["observation"],
    )
    with pytest.raises(ArgumentError, match="is missing"):
        run.predict(observed, dict(list(parts.items())[:1]), context=4, horizon=3)

    env = run.dream()
    assert env.action_space == CASES[name].action_space
    env.reset(seed=0)
    observation, reward, *_ = env.step(env.action_space.sample())
    assert np.isfinite(observation).all() and np.isfinite(reward)
    with pytest.raises(gymnasium.error.InvalidAction):
        env.step({"gear": 5, "push": [0.1]} if name == "Driven" else [1, 5])
    envs = run.dream(num_envs=3)
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[1].shape == (3,)
