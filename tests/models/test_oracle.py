"""The oracle compared with the environments."""

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
    """The spec of a dataset of the environment, or of other vectors, with random statistics."""
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
def real_episode(name: str, steps: int, share: float) -> tuple[DataSpec, np.ndarray, ...]:
    """A spec, and observations (T + 1, D), actions (T, A) in [-1, 1], rewards (T,) and ends (T,) of
    a real episode under random actions, up to a share of the bounds.
    """
    environment, rng = gymnasium.make(name), np.random.default_rng(0)
    spec = spec_of(environment)
    observations, actions, rewards, ends = [environment.reset(seed=1)[0]], [], [], []
    for _ in range(steps):
        action = rng.uniform(-share, share, spec.action.size).astype(np.float32)
        observation, reward, ended, *_ = environment.step(spec.action.denormalize(action))
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
        ends.append(ended)
        if ended:
            break
    environment.close()
    return spec, *(np.array(x, np.float32) for x in (observations, actions, rewards, ends))


def state_of(model: Oracle, observations: np.ndarray) -> ObservedState:
    zeros = jnp.zeros(observations.shape[:-1])
    return ObservedState(
        model.vectors.normalize({"observation": jnp.asarray(observations)}), zeros, zeros
    )


def predictions_of(model: Oracle, state: ObservedState) -> tuple[jax.Array, ...]:
    predicted = model.observation(state)["observation"].mean()
    return predicted, model.reward(state).mean(), model.terminal(state).mean()


def predicted_steps(name: str, *arguments: float) -> tuple[list, list]:
    """Predictions of a step from every observation, and the real steps."""
    spec, observations, actions, rewards, ends = real_episode(name, *arguments)
    model = oracle(name, spec)
    step = jax.jit(lambda state, action: predictions_of(model, model.step(state, action, KEY)))
    return list(step(state_of(model, observations[:-1]), actions)), [
        observations[1:],
        rewards,
        ends,
    ]


# ---------------------------------------------------------------------------------------- Pendulum


def test_pendulum_steps_equal_gymnasium() -> None:
    predicted, real = predicted_steps("Pendulum-v1", 200, 1.0)
    assert len(real[1]) == 200
    for ours, theirs in zip(predicted, real, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_pendulum_rollouts_equal_gymnasium_for_an_episode() -> None:
    spec, observations, actions, rewards, _ = real_episode("Pendulum-v1", 200, 1.0)
    model = oracle("Pendulum-v1", spec)
    roll_out = jax.jit(lambda start, given: imagine(model, start, given, 200, KEY))
    rollout = roll_out(state_of(model, observations[:1]), jnp.asarray(actions)[None])
    predicted = model.observation(rollout.states)["observation"].mean()[0]
    np.testing.assert_allclose(predicted, observations, atol=1e-3)
    np.testing.assert_allclose(rollout.rewards[0], rewards, rtol=1e-3, atol=1e-3)
    assert (rollout.continues == 1).all()


def test_pendulum_clips_torque_and_speed() -> None:
    observations = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 7.9], [0.0, -1.0, -7.9]])
    beyond, *costs = pendulum(observations, jnp.array([[5.0], [5.0], [-5.0]]))
    within, *same = pendulum(observations, jnp.array([[2.0], [2.0], [-2.0]]))
    np.testing.assert_array_equal(beyond, within)
    np.testing.assert_array_equal(costs, same)
    np.testing.assert_allclose(beyond[:, 2], [0.3, 8.0, -8.0], rtol=1e-6)


# ------------------------------------------------------------------------------------------ MuJoCo


@pytest.fixture
def mujoco() -> None:
    pytest.importorskip("mujoco", reason="MuJoCo is not installed: pip install gymnasium[mujoco]")


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5"])
def test_mujoco_steps_from_any_observation(mujoco: None, name: str) -> None:
    predicted, real = predicted_steps(name, 60, 1.0)
    velocities = real[0].shape[1] // 2 + 1
    unclipped = np.abs(real_episode(name, 60, 1.0)[1][:-1, -velocities:]).max(1) < 10
    assert unclipped.sum() > 15
    for ours, theirs in zip(predicted, real, strict=True):
        np.testing.assert_allclose(ours[unclipped], theirs[unclipped], rtol=1e-4, atol=1e-4)


def test_episodes_end_where_hopper_falls(mujoco: None) -> None:
    predicted, real = predicted_steps("Hopper-v5", 60, 1.0)
    assert real[2].sum() == 1 and real[2][-1] == 1
    np.testing.assert_array_equal(predicted[2], real[2])


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5"])
def test_mujoco_rollouts_equal_gymnasium_for_twenty_steps(mujoco: None, name: str) -> None:
    """With small actions: contacts amplify the rounding errors of float32."""
    spec, observations, actions, rewards, _ = real_episode(name, 20, 0.3)
    model = oracle(name, spec)
    roll_out = jax.jit(lambda start, given: imagine(model, start, given, 20, KEY))
    rollout = roll_out(state_of(model, observations[:1]), jnp.asarray(actions)[None])
    predicted = model.observation(rollout.states)["observation"].mean()[0]
    np.testing.assert_allclose(predicted, observations, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(rollout.rewards[0], rewards, rtol=1e-4, atol=1e-4)


def test_a_step_depends_on_state_and_action_alone(mujoco: None) -> None:
    """Bit-identical alone, in any batch and order, and with vmap."""
    _, observations, actions, *_ = real_episode("Hopper-v5", 60, 1.0)
    step = jax.jit(lambda *inputs: simulate("Hopper-v5", *inputs))
    once = step(observations[:-1], actions)
    turned = step(observations[:-1][::-1], actions[::-1])
    mapped = jax.jit(jax.vmap(lambda *inputs: simulate("Hopper-v5", *inputs)))(
        observations[:-1], actions
    )
    alone = [step(observations[t], actions[t]) for t in range(len(actions))]
    for a, b, c, d in zip(once, turned, mapped, zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(a, b[::-1])
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(a, np.stack(d))


def test_gradients_through_a_simulator_are_refused(mujoco: None) -> None:
    _, observations, actions, *_ = real_episode("Hopper-v5", 60, 1.0)
    with pytest.raises(ConfigError, match="accepted: policy.actor_grad=reinforce"):
        jax.grad(lambda action: simulate("Hopper-v5", observations[0], action)[1])(
            jnp.asarray(actions[0])
        )


@pytest.mark.parametrize("name", ["Ant-v5", "Reacher-v5", "InvertedDoublePendulum-v5"])
def test_environments_that_observe_something_else_are_refused(mujoco: None, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be set from an observation; accepted: Pendulum"):
        oracle(name, spec_of(gymnasium.make(name)))


# --------------------------------------------------------------------------------------- whole runs


def test_environments_that_do_not_fit_the_dataset_are_refused() -> None:
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
def test_a_policy_is_trained_and_evaluated_with_the_oracle(
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
