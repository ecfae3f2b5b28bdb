"""Returns belong to the episode's seed, and mistakes are said plainly."""

import gymnasium
import jax
import numpy as np
import pytest
from flax import nnx
from gymnasium.utils import seeding

from worldmodel import models
from worldmodel.data import ActionSpec, DataSpec, ObservationSpec
from worldmodel.environments import real as environments
from worldmodel.errors import UserError
from worldmodel.evaluation.returns import (
    EvaluationEpisodes,
    FeaturePolicy,
    environments_of,
    model_policies,
    model_policy,
    random_policy,
    run_episodes,
    run_episodes_in,
)
from worldmodel.evaluation.statistics import Bootstrap, wilson
from worldmodel.models.rssm import RSSMOptions
from worldmodel.nn.heads import ActionHead

CARTPOLE = DataSpec(
    {"observation": ObservationSpec((4,), "float32", (0.0,) * 4, (1.0,) * 4)}, ActionSpec(True, 2)
)
PENDULUM = DataSpec(
    {"observation": ObservationSpec((3,), "float32", (0.0,) * 3, (1.0,) * 3)},
    ActionSpec(False, 1, (-2.0,), (2.0,)),
)


def untrained(spec, model):
    actor = ActionHead(model.feature_size, spec.action, 32, 1, rngs=nnx.Rngs(1))
    return model_policy(model, FeaturePolicy(actor), spec)


def test_returns_do_not_depend_on_how_many_environments_run_at_once():
    options = RSSMOptions(deter=16, hidden=8, classes=4, stoch=4, blocks=2)
    model = nnx.jit(lambda key: models.build(options, CARTPOLE, key))(jax.random.key(0))
    act = untrained(CARTPOLE, model)
    one, some, all_at_once = (
        run_episodes("CartPole-v1", CARTPOLE, act, 20, 7, parallel).returns
        for parallel in (1, 8, 20)
    )
    assert len(np.unique(all_at_once)) > 2  # episodes of unequal lengths
    np.testing.assert_array_equal(one, all_at_once)
    np.testing.assert_array_equal(some, all_at_once)


def test_continuous_actions_and_names_of_the_logs_own(worlds):
    spec = DataSpec({"position": PENDULUM.observations["observation"]}, PENDULUM.action)
    act = untrained(spec, worlds.Repeat(3))
    together, apart = (
        run_episodes("Pendulum-v1", spec, act, 6, 3, parallel).returns for parallel in (6, 2)
    )
    np.testing.assert_array_equal(together, apart)


def test_an_episode_is_its_seed_alone():
    act = random_policy(CARTPOLE)
    later = run_episodes("CartPole-v1", CARTPOLE, act, 3, seed=12).returns
    np.testing.assert_array_equal(
        run_episodes("CartPole-v1", CARTPOLE, act, 70, seed=10).returns[2:5], later
    )


def test_random_policy_earns_what_is_known_of_it():
    returns = run_episodes("CartPole-v1", CARTPOLE, random_policy(CARTPOLE), 200, 0).returns
    assert 19 < returns.mean() < 26  # 22.2 in the long run


def test_a_policy_acts_on_observations_and_is_scored_in_full():
    def lean(memory, observation, seeds, step):
        """Pushes the cart under the pole: hundreds of steps where a random policy has 22."""
        x, v, angle, turn = observation["observation"].T
        return memory, (angle + 0.5 * turn + 0.05 * v + 0.02 * x > 0).astype(np.int32)

    assert run_episodes("CartPole-v1", CARTPOLE, lean, 5, 0).returns.min() > 300


@pytest.mark.parametrize("name", ["Pendulm-v1", "nowhere/Nothing-v0", "no_such_package:Thing-v0"])
def test_unknown_environment_is_a_user_error(name):
    with pytest.raises(UserError, match="Accepted: the id of an installed Gymnasium") as error:
        environments.check_environment(name, PENDULUM)
    assert f"data.environment={name}" in str(error.value)


def test_a_misspelt_id_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'Pendulum-v1'"):
        environments.check_environment("Pendulm-v1", PENDULUM)


def test_environment_that_does_not_fit_the_logs_is_a_user_error():
    with pytest.raises(UserError, match=r"does not match the dataset.*shape \(4,\)"):
        environments.check_environment("CartPole-v1", PENDULUM)
    discrete = DataSpec(PENDULUM.observations, ActionSpec(True, 5))
    with pytest.raises(UserError, match="vectors of size 1, the dataset has 5 classes"):
        environments.check_environment("Pendulum-v1", discrete)
    several = PENDULUM.observations | {"b": CARTPOLE.observations["observation"]}
    twice = DataSpec(several, PENDULUM.action)
    with pytest.raises(UserError, match="a single Box"):
        environments.check_environment("Pendulum-v1", twice)


class Coin(gymnasium.Env):
    """Succeeds after 20 steps with probability 0.5, else fails after 100; what is done is paid."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.wins, self.steps = self.np_random.random() < 0.5, 0
        return self._seen(), {}

    def step(self, action):
        self.steps += 1
        won = self.wins and self.steps == 20
        info = {"is_success": won}
        return self._seen(), float(action + won), won, self.steps == 100, info

    def _seen(self):
        return self.np_random.uniform(-1, 1, 4).astype(np.float32)


@pytest.fixture(scope="module")
def coin():
    gymnasium.register("Coin-v0", Coin)
    yield "Coin-v0"
    gymnasium.registry.pop("Coin-v0")


def test_short_successes_are_not_favoured(coin):
    """Keeping the first that finish would report 0.9 in 50 environments; the truth is 0.5."""
    plays = [
        run_episodes(coin, CARTPOLE, random_policy(CARTPOLE), 128, 1000, parallel)
        for parallel in (1, 50)
    ]
    truth = [seeding.np_random(int(seed))[0].random() < 0.5 for seed in plays[0].seeds]
    for played in plays:
        assert played.rows() == plays[0].rows()
        np.testing.assert_array_equal(played.success, truth)
        rate = wilson(int(played.success.sum()), 128)
        assert rate.low <= 0.5 <= rate.high


def test_an_episodes_row_says_how_it_went(coin):
    played = run_episodes(coin, CARTPOLE, random_policy(CARTPOLE), 30, 5)
    assert played.success.any() and not played.success.all()
    np.testing.assert_array_equal(played.success, played.terminated)
    np.testing.assert_array_equal(played.truncated, ~played.terminated)
    np.testing.assert_array_equal(played.lengths, np.where(played.success, 20, 100))
    row = played.rows()[3]
    assert row["seed"] == 8 and row["return"] == played.returns[3]
    assert row.keys() == {"seed", "return", "length", "terminated", "truncated", "success"}


def test_success_is_not_guessed_from_an_end():
    assert run_episodes("CartPole-v1", CARTPOLE, random_policy(CARTPOLE), 3, 0).success is None


def test_episodes_that_are_cut_say_so():
    with environments_of("CartPole-v1", CARTPOLE, 2) as environments:
        cut = run_episodes_in(environments, CARTPOLE, random_policy(CARTPOLE), 4, 0, steps=5)
    assert cut.rewards.shape == (4, 5) and cut.truncated.all() and not cut.terminated.any()


def test_policies_that_share_a_program_act_as_they_would_alone(worlds):
    spec = DataSpec({"position": CARTPOLE.observations["observation"]}, CARTPOLE.action)
    model = worlds.Repeat(4)
    policies = [FeaturePolicy(ActionHead(4, spec.action, 16, 1, rngs=nnx.Rngs(s))) for s in (1, 2)]

    def returns(act):
        return run_episodes("CartPole-v1", spec, act, 5, 0).returns

    together = [returns(act) for act in model_policies(model, policies, spec)]
    alone = [returns(model_policy(model, policy, spec)) for policy in policies]
    np.testing.assert_array_equal(together, alone)
    assert (together[0] != together[1]).any()


def test_a_return_that_is_not_a_number_is_the_worst():
    seeds, rewards = np.arange(3), np.array([[1.0, 2.0], [np.nan, 1.0], [0.0, -5.0]])
    no, lengths = np.zeros(3, bool), np.full(3, 2)
    played = EvaluationEpisodes(seeds, rewards, lengths, no, ~no, None)
    assert played.returns.tolist() == [3.0, -np.inf, -5.0]
    assert [row["return"] for row in played.rows()] == [3.0, None, -5.0]
    assert Bootstrap(100).mean(played.returns, "episodes").value == -np.inf


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"environment": 3}, "environment: int; accepted: a Gymnasium id"),
        ({"episodes": 0}, "episodes: 0; accepted: an integer, at least 1"),
        ({"seed": "a"}, "seed: 'a'; accepted: an integer, at least 0"),
        ({"parallel": -1}, "parallel: -1; accepted: an integer, at least 1"),
    ],
)
def test_wrong_arguments_are_refused_in_words(wrong, words):
    right = {"environment": "CartPole-v1", "spec": CARTPOLE, "act": None, "episodes": 1, "seed": 0}
    with pytest.raises(UserError, match=words):
        run_episodes(**right | wrong)
