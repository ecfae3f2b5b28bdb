"""Returns belong to the episode's seed, and mistakes are said plainly."""

import jax
import numpy as np
import pytest
from flax import nnx

from worldmodel import models
from worldmodel.config import RSSMOptions
from worldmodel.data import ActionSpec, DataSpec, ObservationSpec
from worldmodel.errors import UserError
from worldmodel.evaluation import environments
from worldmodel.evaluation.returns import Reactive, episode_returns, model_policy, random_policy
from worldmodel.nn.heads import ActionHead

CARTPOLE = DataSpec(
    {"observation": ObservationSpec((4,), "float32", (0.0,) * 4, (1.0,) * 4)}, ActionSpec(True, 2)
)
PENDULUM = DataSpec(
    {"observation": ObservationSpec((3,), "float32", (0.0,) * 3, (1.0,) * 3)},
    ActionSpec(False, 1, (-2.0,), (2.0,)),
)


def untrained(spec, model=None):
    if model is None:
        options = RSSMOptions(deter=32, hidden=16, blocks=2)
        model = nnx.jit(lambda key: models.build(options, spec, key))(jax.random.key(0))
    actor = ActionHead(model.feature_size, spec.action, 32, 1, rngs=nnx.Rngs(1))
    return model_policy(model, Reactive(actor), spec)


def test_returns_do_not_depend_on_how_many_environments_run_at_once():
    act = untrained(CARTPOLE)
    one, eight, fifty = (
        episode_returns("CartPole-v1", CARTPOLE, act, 50, 7, parallel) for parallel in (1, 8, 50)
    )
    assert len(np.unique(fifty)) > 2  # episodes of unequal lengths
    np.testing.assert_array_equal(one, fifty)
    np.testing.assert_array_equal(eight, fifty)


def test_continuous_actions_and_names_of_the_logs_own(worlds):
    spec = DataSpec({"position": PENDULUM.observations["observation"]}, PENDULUM.action)
    act = untrained(spec, worlds.Repeat(3))
    together, apart = (
        episode_returns("Pendulum-v1", spec, act, 6, 3, parallel) for parallel in (6, 2)
    )
    np.testing.assert_array_equal(together, apart)


def test_an_episode_is_its_seed_alone():
    act = random_policy(CARTPOLE)
    later = episode_returns("CartPole-v1", CARTPOLE, act, 3, seed=12)
    np.testing.assert_array_equal(
        episode_returns("CartPole-v1", CARTPOLE, act, 70, seed=10)[2:5], later
    )


def test_random_policy_earns_what_is_known_of_it():
    returns = episode_returns("CartPole-v1", CARTPOLE, random_policy(CARTPOLE), 200, 0)
    assert 19 < returns.mean() < 26  # 22.2 in the long run


def test_a_policy_gets_what_it_sees_and_is_scored_in_full():
    def lean(memory, observation, seeds, step):
        """Pushes the cart under the pole: hundreds of steps where a random policy has 22."""
        x, v, angle, turn = observation["observation"].T
        return memory, (angle + 0.5 * turn + 0.05 * v + 0.02 * x > 0).astype(np.int32)

    assert episode_returns("CartPole-v1", CARTPOLE, lean, 5, 0).min() > 300


@pytest.mark.parametrize("name", ["Pendulm-v1", "nowhere/Nothing-v0", "no_such_package:Thing-v0"])
def test_unknown_environment_is_a_users_mistake(name):
    with pytest.raises(UserError, match="Accepted: the id of an installed Gymnasium") as error:
        environments.check(name, PENDULUM)
    assert f"data.environment={name}" in str(error.value)


def test_a_misspelt_id_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'Pendulum-v1'"):
        environments.check("Pendulm-v1", PENDULUM)


def test_environment_that_does_not_fit_the_logs_is_a_users_mistake():
    with pytest.raises(UserError, match=r"does not fit the logs.*shape \(4,\)"):
        environments.check("CartPole-v1", PENDULUM)
    discrete = DataSpec(PENDULUM.observations, ActionSpec(True, 5))
    with pytest.raises(UserError, match="vectors of size 1, the logs have 5 classes"):
        environments.check("Pendulum-v1", discrete)
    twice = DataSpec(PENDULUM.observations | CARTPOLE.observations | {"b": None}, PENDULUM.action)
    with pytest.raises(UserError, match="a single Box"):
        environments.check("Pendulum-v1", twice)
