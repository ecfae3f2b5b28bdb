"""Sources of actions from a logged step, with the same state and the same noise."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import data
from worldmodel.data.trajectories import split_episodes
from worldmodel.errors import ConfigError, DataError
from worldmodel.loading import LoadedRun
from worldmodel.play.counterfactual_rollouts import (
    LoggedStart,
    counterfactual_rollouts,
    imagine_counterfactual,
    load_start,
    logged_rollout,
)

CONTEXT, STEPS = 4, 6


@pytest.fixture(scope="module")
def start(smoke: LoadedRun) -> LoggedStart:
    dataset = data.load(smoke.config.data)
    _, held_out = split_episodes(dataset.num_episodes, smoke.config.data.holdout)
    return load_start(smoke, int(held_out[0]), 9, CONTEXT)


def test_a_start_is_a_step_of_the_dataset(smoke: LoadedRun, start: LoggedStart) -> None:
    dataset = data.load(smoke.config.data)
    step = dataset.offsets[start.episode] + 9
    truth = logged_rollout(start, 3)
    np.testing.assert_array_equal(
        truth.observation["observation"], dataset.observations["observation"][step + 1 : step + 4]
    )
    np.testing.assert_array_equal(truth.reward, dataset.rewards[step : step + 3])
    assert start.steps_left == dataset.lengths[start.episode] - 1 - 9


def test_the_true_dynamics_imagine_what_was_logged(oracle: LoadedRun, start: LoggedStart) -> None:
    (future,) = counterfactual_rollouts(oracle, start, ["logged"], STEPS, seed=0).values()
    truth = logged_rollout(start, STEPS)
    np.testing.assert_allclose(
        future.observation["observation"], truth.observation["observation"], atol=1e-4
    )
    np.testing.assert_allclose(future.reward, truth.reward, atol=1e-3)
    np.testing.assert_array_equal(future.survival, np.ones(STEPS))


def test_the_same_actions_twice_give_the_same_bits(smoke: LoadedRun, start: LoggedStart) -> None:
    names = ["random", "logged"]
    first = counterfactual_rollouts(smoke, start, names, STEPS, seed=0)
    again = counterfactual_rollouts(smoke, start, [*reversed(names), "zero"], STEPS, seed=0)
    for name in names:
        jax.tree.map(np.testing.assert_array_equal, first[name], again[name])
    other = counterfactual_rollouts(smoke, start, ["logged"], STEPS, seed=1)["logged"]
    assert not np.allclose(other.reward, first["logged"].reward)  # the seed changes the noise


def test_rollouts_are_equal_as_long_as_their_actions_are(smoke: LoadedRun) -> None:
    """Noise depends on the step alone: rollouts of a stochastic model differ from the first
    different action on.
    """
    state = smoke.model.initial((1,))
    rng, size = np.random.default_rng(0), smoke.spec.action.size
    actions = jnp.asarray(rng.uniform(-1, 1, (STEPS, size)), jnp.float32)
    changed = actions.at[3].set(-actions[3])

    def follow(given: jax.Array, key: int = 0) -> np.ndarray:
        asked = (smoke.model, smoke.policy, state, given, jnp.asarray(False), jax.random.key(key))
        rollout = imagine_counterfactual(*asked, has_reward=True, spec=smoke.spec.action)
        return np.asarray(rollout[0]["observation"])

    one, other = follow(actions), follow(changed)
    np.testing.assert_array_equal(one[:3], other[:3])
    assert not np.allclose(one[3], other[3])
    assert not np.allclose(one[:3], follow(actions, key=1)[:3])  # the model is stochastic


def test_the_policy_and_its_actions_lead_to_the_same_rollout(smoke: LoadedRun) -> None:
    """The mode of the policy, given as the first action, leads to the same first step."""
    state, key = smoke.model.initial((1,)), jax.random.key(0)
    actions = jnp.zeros((STEPS, smoke.spec.action.size))
    asked = (smoke.model, smoke.policy, state)
    known = {"has_reward": True, "spec": smoke.spec.action}
    by_policy = imagine_counterfactual(*asked, actions, jnp.asarray(True), key, **known)
    (mode,) = nnx.jit(lambda model, policy: policy(model.features(state)).mode())(*asked[:2])
    by_action = imagine_counterfactual(
        *asked, actions.at[0].set(mode), jnp.asarray(False), key, **known
    )
    for x, y in zip(jax.tree.leaves(by_policy), jax.tree.leaves(by_action), strict=True):
        np.testing.assert_allclose(x[0], y[0], rtol=1e-5)
    assert np.abs(mode).max() > 1e-3


# ------------------------------------------------------------------------------------ invalid input


def test_unknown_episodes_and_steps_are_refused(smoke: LoadedRun, start: LoggedStart) -> None:
    dataset = data.load(smoke.config.data)
    training, held_out = split_episodes(dataset.num_episodes, smoke.config.data.holdout)
    accepted = f"accepted, held out: {', '.join(map(str, held_out))}"
    with pytest.raises(DataError, match=f"episode=999: the dataset has .*{accepted}"):
        load_start(smoke, 999, None, CONTEXT)
    with pytest.raises(DataError, match=f"it belongs to the training split; {accepted}"):
        load_start(smoke, int(training[0]), None, CONTEXT)
    steps = int(dataset.lengths[start.episode]) - 1
    assert load_start(smoke, start.episode, steps - 1, CONTEXT).steps_left == 1
    assert load_start(smoke, start.episode, None, 10**9).context == steps
    with pytest.raises(DataError, match=f"start_step={steps}: .* accepted: 0 to {steps - 1}"):
        load_start(smoke, start.episode, steps, CONTEXT)


def test_a_run_without_policy_or_steps_is_refused(
    smoke: LoadedRun, whole: LoadedRun, start: LoggedStart
) -> None:
    with pytest.raises(ConfigError, match="actions=policy: .* has no policy"):
        counterfactual_rollouts(
            replace(smoke, policy=None), start, ["logged", "policy"], STEPS, seed=0
        )
    with pytest.raises(ConfigError, match="samples whole trajectories"):
        counterfactual_rollouts(whole, start, ["logged"], STEPS, seed=0)
