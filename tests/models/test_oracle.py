"""The oracle against the environments themselves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import worldmodel
from worldmodel import models
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.errors import ConfigError
from worldmodel.imagination import imagine
from worldmodel.models.observed import ObservedState
from worldmodel.models.oracle import Oracle, OracleOptions, pendulum, simulate

KEY = jax.random.key(0)


def spec_of(environment: gymnasium.Env, **observations: int) -> DataSpec:
    """What logs of it look like, or logs with other vectors; statistics far from 0 and 1."""
    size = environment.observation_space.shape[0]
    rng = np.random.default_rng(0)
    vectors = {
        key: ObservationSpec(
            (n,), "float32", tuple(rng.normal(size=n)), tuple(rng.uniform(0.5, 2, n))
        )
        for key, n in (observations or {"observation": size}).items()
    }
    action = environment.action_space
    bounds = tuple(action.low.tolist()), tuple(action.high.tolist())
    return DataSpec(vectors, ActionSpec(False, action.shape[0], *bounds))


def oracle(name: str, spec: DataSpec) -> Oracle:
    return models.build(OracleOptions(environment=name), spec, KEY)


@cache
def played(name: str, steps: int, share: float) -> tuple[DataSpec, np.ndarray, ...]:
    """A spec, and observations (T + 1, D), actions (T, A) in [-1, 1], rewards (T,) and ends (T,) of
    a real episode under random actions, up to a share of the bounds.
    """
    environment, rng = gymnasium.make(name), np.random.default_rng(0)
    spec = spec_of(environment)
    rows, actions, rewards, ends = [environment.reset(seed=1)[0]], [], [], []
    for _ in range(steps):
        action = rng.uniform(-share, share, spec.action.size).astype(np.float32)
        row, reward, ended, *_ = environment.step(spec.action.denormalize(action))
        rows.append(row)
        actions.append(action)
        rewards.append(reward)
        ends.append(ended)
        if ended:
            break
    environment.close()
    return spec, *(np.array(x, np.float32) for x in (rows, actions, rewards, ends))


def observed(model: Oracle, rows: np.ndarray) -> ObservedState:
    nothing = jnp.zeros(rows.shape[:-1])
    return ObservedState(model.vectors.encode({"observation": jnp.asarray(rows)}), nothing, nothing)


def said(model: Oracle, state: ObservedState) -> tuple[jax.Array, ...]:
    seen = model.observation(state)["observation"].mean()
    return seen, model.reward(state).mean(), model.terminal(state).mean()


def steps_from_logged_rows(name: str, *arguments: float) -> tuple[list, list]:
    """What the model says of a step from every logged row, and what was logged."""
    spec, rows, actions, rewards, ends = played(name, *arguments)
    model = oracle(name, spec)
    step = jax.jit(lambda state, action: said(model, model.step(state, action, KEY)))
    return list(step(observed(model, rows[:-1]), actions)), [rows[1:], rewards, ends]


# ---------------------------------------------------------------------------------------- Pendulum


def test_pendulum_steps_as_gymnasium_does() -> None:
    found, real = steps_from_logged_rows("Pendulum-v1", 200, 1.0)
    assert len(real[1]) == 200
    for ours, theirs in zip(found, real, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_pendulum_is_followed_for_an_episode() -> None:
    spec, rows, actions, rewards, _ = played("Pendulum-v1", 200, 1.0)
    model = oracle("Pendulum-v1", spec)
    follow = jax.jit(lambda start, given: imagine(model, start, given, 200, KEY))
    rollout = follow(observed(model, rows[:1]), jnp.asarray(actions)[None])
    seen = model.observation(rollout.states)["observation"].mean()[0]
    np.testing.assert_allclose(seen, rows, atol=1e-3)
    np.testing.assert_allclose(rollout.rewards[0], rewards, rtol=1e-3, atol=1e-3)
    assert (rollout.continues == 1).all()


def test_pendulum_keeps_to_its_limits() -> None:
    rows = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 7.9], [0.0, -1.0, -7.9]])
    beyond, *costs = pendulum(rows, jnp.array([[5.0], [5.0], [-5.0]]))
    within, *same = pendulum(rows, jnp.array([[2.0], [2.0], [-2.0]]))
    np.testing.assert_array_equal(beyond, within)
    np.testing.assert_array_equal(costs, same)
    np.testing.assert_allclose(beyond[:, 2], [0.3, 8.0, -8.0], rtol=1e-6)


# ------------------------------------------------------------------------------------------ MuJoCo


@pytest.fixture
def mujoco() -> None:
    pytest.importorskip("mujoco", reason="MuJoCo is not installed: pip install gymnasium[mujoco]")


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5"])
def test_mujoco_steps_from_any_logged_row(mujoco: None, name: str) -> None:
    found, real = steps_from_logged_rows(name, 60, 1.0)
    velocities = real[0].shape[1] // 2 + 1
    unclipped = np.abs(played(name, 60, 1.0)[1][:-1, -velocities:]).max(1) < 10
    assert unclipped.sum() > 15
    for ours, theirs in zip(found, real, strict=True):
        np.testing.assert_allclose(ours[unclipped], theirs[unclipped], rtol=1e-4, atol=1e-4)


def test_an_episode_ends_where_hopper_falls(mujoco: None) -> None:
    found, real = steps_from_logged_rows("Hopper-v5", 60, 1.0)
    assert real[2].sum() == 1 and real[2][-1] == 1
    np.testing.assert_array_equal(found[2], real[2])


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5"])
def test_mujoco_is_followed_for_twenty_steps(mujoco: None, name: str) -> None:
    """Gently: contacts enlarge the rounding of float32 from step to step."""
    spec, rows, actions, rewards, _ = played(name, 20, 0.3)
    model = oracle(name, spec)
    follow = jax.jit(lambda start, given: imagine(model, start, given, 20, KEY))
    rollout = follow(observed(model, rows[:1]), jnp.asarray(actions)[None])
    seen = model.observation(rollout.states)["observation"].mean()[0]
    np.testing.assert_allclose(seen, rows, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(rollout.rewards[0], rewards, rtol=1e-4, atol=1e-4)


def test_a_step_depends_on_nothing_but_state_and_action(mujoco: None) -> None:
    """Alone or in any batch, mapped or not, before or after others: the same bits."""
    _, rows, actions, *_ = played("Hopper-v5", 60, 1.0)
    step = jax.jit(lambda *inputs: simulate("Hopper-v5", *inputs))
    once = step(rows[:-1], actions)
    turned = step(rows[:-1][::-1], actions[::-1])
    mapped = jax.jit(jax.vmap(lambda *inputs: simulate("Hopper-v5", *inputs)))(rows[:-1], actions)
    alone = [step(rows[t], actions[t]) for t in range(len(actions))]
    for a, b, c, d in zip(once, turned, mapped, zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(a, b[::-1])
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(a, np.stack(d))


def test_a_gradient_through_a_simulator_is_refused(mujoco: None) -> None:
    _, rows, actions, *_ = played("Hopper-v5", 60, 1.0)
    with pytest.raises(ConfigError, match="accepted: policy.actor_grad=reinforce"):
        jax.grad(lambda action: simulate("Hopper-v5", rows[0], action)[1])(jnp.asarray(actions[0]))


@pytest.mark.parametrize("name", ["Ant-v5", "Reacher-v5", "InvertedDoublePendulum-v5"])
def test_environments_that_observe_something_else_are_refused(mujoco: None, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be set from an observation; accepted: Pendulum"):
        oracle(name, spec_of(gymnasium.make(name)))


# --------------------------------------------------------------------------------------- whole runs


def test_wrong_environments_and_logs_are_refused() -> None:
    real = gymnasium.make("Pendulum-v1")
    with pytest.raises(ConfigError, match="cannot be set from an observation; accepted: Pendulum"):
        oracle("CartPole-v1", spec_of(real))
    with pytest.raises(ConfigError, match="did you mean 'Pendulum-v1'"):
        oracle("Pendulun-v1", spec_of(real))
    with pytest.raises(ConfigError, match="one vector of 3 numbers .* of 2 and 1 and actions of 1"):
        oracle("Pendulum-v1", spec_of(real, angle=2, speed=1))
    classes = DataSpec(spec_of(real).observations, ActionSpec(True, 3))
    with pytest.raises(ConfigError, match="actions of classes"):
        oracle("Pendulum-v1", classes)


@pytest.mark.slow
def test_a_policy_is_trained_in_the_oracle_and_the_run_is_judged(
    launch: Callable[..., list[str]], tmp_path: Path
) -> None:
    words = ["model=oracle", f"runs_dir={tmp_path}", "training.policy.steps=20"]
    done = subprocess.run(launch(*words), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = worldmodel.load(tmp_path / "smoke-0")
    assert (loaded.stage, loaded.step) == ("policy", 20) and loaded.policy is not None
    assert list(loaded.directory.summary()["stages"]) == ["policy"]
    results = json.loads((loaded.directory.evaluation / "results.json").read_text())
    assert results["prediction"]["observation"]["1"]["error"]["value"] < 1e-5
    assert results["prediction"]["observation"]["15"]["skill"]["value"] > 0.999
    assert {"policy", "dataset", "random"} <= results["returns"].keys()
