"""The true dynamics rank policies and plans as the world does; the opposite reward does not."""

import dataclasses
from types import SimpleNamespace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import context_of
from flax import nnx

from worldmodel import models
from worldmodel.config import EvaluationOptions, PlannerOptions, PolicyRankingOptions
from worldmodel.data import ActionSpec
from worldmodel.data.readers.gymnasium import GymnasiumData, collect
from worldmodel.data.windows import Window
from worldmodel.environments.real import RealEnvironment
from worldmodel.evaluation import candidate_policies as module
from worldmodel.evaluation.action_sequences import candidates, rank_action_sequences, starts_of
from worldmodel.evaluation.candidate_policies import (
    EpsilonPolicy,
    candidate_policies,
    clone_policy,
    imagined_returns,
)
from worldmodel.evaluation.comparison import compare_measures
from worldmodel.evaluation.evaluator import evaluate
from worldmodel.evaluation.rank_metrics import ImaginedReturn, RealReturn
from worldmodel.evaluation.report_files import json_document
from worldmodel.evaluation.returns import environments_of, model_policies, random_policy
from worldmodel.evaluation.section import Context
from worldmodel.evaluation.sections.policy_ranking import (
    PolicyRanking,
    first_observations,
    ranking_horizons,
    real_returns,
)
from worldmodel.evaluation.sections.returns import Returns
from worldmodel.evaluation.statistics import Bootstrap
from worldmodel.models.mlp import MLPOptions
from worldmodel.models.oracle import Oracle, OracleOptions
from worldmodel.nn.distributions import ScalarMSE
from worldmodel.nn.heads import ActionHead

OPTIONS = EvaluationOptions(
    resamples=200,
    policy_ranking=PolicyRankingOptions(
        rollouts_per_policy=12,
        horizons=[5, 60],
        num_start_states=3,
        num_action_sequences=16,
        sequence_length=10,
    ),
    planner=PlannerOptions(kind="cem", horizon=10, num_samples=64, num_elites=8, iterations=2),
)


class SignedOracle(Oracle):
    """Knows what happens, and predicts the reward times a sign: both signs are one program."""

    def __init__(self, sign, spec):
        options = OracleOptions(environment="Pendulum-v1")
        super().__init__(options, spec, rngs=nnx.Rngs(0), dtype=jnp.float32)
        self.sign = nnx.Param(jnp.array(sign))

    def reward(self, state):
        return ScalarMSE(self.sign[...] * super().reward(state).mean(), 1.0)


class Noisy(gymnasium.Wrapper):
    """Pendulum that is pushed by chance, and not by its seed."""

    def step(self, action):
        return self.env.step(action + np.random.default_rng().normal(0, 0.5, 1).astype(np.float32))


@pytest.fixture(scope="module")
def world(pendulum):
    """Models that know the dynamics, one with the opposite reward, and a policy."""
    spec = pendulum.spec()
    oracle, opposite = (SignedOracle(sign, spec) for sign in (1.0, -1.0))
    actor = ActionHead(oracle.feature_size, spec.action, 16, 1, rngs=nnx.Rngs(2))
    actor.location.kernel[...] = 40 * actor.location.kernel[...]  # acts strongly
    return SimpleNamespace(spec=spec, oracle=oracle, opposite=opposite, actor=actor)


@pytest.fixture(scope="module")
def found(world, pendulum):
    earlier = {"step 7": ActionHead(3, world.spec.action, 16, 1, rngs=nnx.Rngs(5))}
    given = (world.actor, world.spec, pendulum, pendulum, "Pendulum-v1")
    plain = dataclasses.replace(OPTIONS, planner=PlannerOptions())
    return {
        name: PolicyRanking.run(Context(model, *given, options, checkpoint_policies=earlier))
        for name, model, options in (
            ("oracle", world.oracle, OPTIONS),
            ("opposite", world.opposite, plain),
        )
    }


def test_without_chance_imagined_and_real_returns_are_the_same(world):
    everyone = candidate_policies(world.actor, "policy", {}, world.spec.action)
    sure = {n: c for n, c in everyone.items() if n != "random" and "%" not in n}
    assert len(everyone) >= 8 and len(sure) >= 6
    acts = model_policies(world.oracle, list(sure.values()), world.spec)
    with environments_of("Pendulum-v1", world.spec, 4) as environments:
        first = first_observations(environments, 3)
        for chooser, act in zip(sure.values(), acts, strict=True):
            real = real_returns(environments, world.spec, act, 3, [1, 30])
            imagined = imagined_returns(
                world.oracle, chooser, world.spec, first, [1, 30], jax.random.key(0)
            )
            assert type(real) is RealReturn and type(imagined) is ImaginedReturn
            assert real.values.shape == (4, 2)
            # Chaos: float32 and float64 part a little within 30 steps.
            np.testing.assert_allclose(imagined.values, real.values, rtol=2e-2, atol=0.5)


def test_true_dynamics_rank_policies_as_the_world_does(found):
    ranking = found["oracle"]
    assert list(ranking.horizons) == [5, 60] and ranking.steps == 60
    assert {"policy", "step 7", "random", "50 % random actions"} <= ranking.policies.keys()
    assert {"behavior cloning", "planner"} <= ranking.policies.keys()
    planned = ranking.policies["planner"]
    assert planned.real.n == planned.imagined.n == 8 and ranking.policies["policy"].real.n == 12
    # It plans with the true dynamics and rewards, and is better than a will of one's own.
    assert planned.real.low > ranking.policies["policy"].real.high
    assert ranking.agreement.spearman.value > 0.9
    assert ranking.agreement.spearman.n == len(ranking.policies) >= 8
    assert ranking.agreement.regret.value < 0.05
    assert ranking.sequences.spearman.estimate.value > 0.99
    assert ranking.sequences.regret.estimate.value < 0.01
    assert ranking.sequences.unreproducible_starts == 0


def test_without_a_policy_the_clone_takes_its_place(world, pendulum):
    few = PolicyRankingOptions(rollouts_per_policy=6, horizons=[60], num_start_states=0)
    options = dataclasses.replace(OPTIONS, policy_ranking=few, planner=PlannerOptions())
    given = (world.oracle, None, world.spec, pendulum, pendulum, "Pendulum-v1", options)
    ranking = PolicyRanking.run(Context(*given))
    assert {"behavior cloning", "random", "50 % random actions"} <= ranking.policies.keys()
    assert ranking.policies.keys().isdisjoint({"policy", "planner"})
    assert ranking.agreement.spearman.low > 0 and ranking.sequences is None


def test_a_model_without_a_policy_is_evaluated_where_its_environment_can_be_made(world, pendulum):
    few = PolicyRankingOptions(rollouts_per_policy=2, horizons=[3], num_start_states=0)
    options = EvaluationOptions([1], 4, 1, 2, resamples=100, policy_ranking=few)
    given = (world.oracle, None, world.spec, pendulum, pendulum)
    made = evaluate(Context(*given, "Pendulum-v1", options))
    assert "policy" not in made[Returns].returns
    assert made[PolicyRanking].agreement.spearman.n == 12
    missing = evaluate(Context(*given, "Pendulum-v9", options))
    (note,) = (n for n in missing.notes if n.startswith("Policies are not ranked"))
    assert "policy_ranking" not in missing.sections
    assert "data.environment=Pendulum-v9: cannot be created" in note


def test_the_opposite_reward_ranks_the_other_way(found):
    ranking = found["opposite"]
    assert ranking.agreement.spearman.high < 0
    assert ranking.agreement.regret.value > 0.9
    assert ranking.sequences.spearman.details["quartiles"][1].value < -0.99
    assert ranking.sequences.regret.estimate.value == 1
    assert ranking.agreement.bias.low > 0  # all that it promises is more than is paid


def test_rankings_are_compared_without_a_lead(found):
    measures = {name: ranking.measures() for name, ranking in found.items()}
    compared = {c.measure.key: c for c in compare_measures(measures, Bootstrap(100))}
    assert compared.keys() == {"policy_ranking.spearman", "policy_ranking.regret"}
    for name in ("spearman", "regret"):
        rows = compared[f"policy_ranking.{name}"].rows
        assert list(rows) == ["5", "60"] and rows["60"].lead is None
        expected = {run: getattr(ranking.agreement, name) for run, ranking in found.items()}
        assert rows["60"].runs == expected


def test_tables_figure_and_json_hold_the_same_numbers(found):
    ranking = found["oracle"]
    saved = json_document(ranking.numbers())["policy_ranking"]
    assert saved["spearman"] == saved["horizons"]["60"]["spearman"]
    assert saved["spearman"]["value"] == ranking.agreement.spearman.value
    assert saved["policies"]["random"].keys() == {"imagined", "real"}
    assert saved["sequences"]["spearman"].keys() >= {"value", "low", "high", "quartiles"}
    tables = ranking.tables()
    assert ranking.agreement.mmrv.brief in tables[0].markdown()
    assert "Ranking of policies, 12 starts each (8 of the planner)" in tables[0].markdown()
    assert "linear corr." not in tables[0].narrow().markdown()
    real = [both.real.value for both in ranking.policies.values()]
    assert tables[-1].rows[0][2] == ranking.policies[tables[-1].rows[0][0]].real
    assert max(real) == ranking.policies[tables[-1].rows[0][0]].real.value
    assert ranking.figures()[0].count("<circle") == len(real)
    assert ranking.agreement.spearman.brief in ranking.sentences()[0]


def test_a_mixture_acts_as_its_policy_or_by_chance(world):
    state = world.oracle.initial((2000,))
    policy = world.actor(world.oracle.features(state)).mode()
    act = nnx.jit(lambda chooser, *given: chooser(*given))

    def actions(**mixture):
        chooser = EpsilonPolicy(world.actor, world.spec.action, **mixture)
        return np.asarray(act(chooser, world.oracle, state, (), jax.random.key(0))[1])

    np.testing.assert_array_equal(actions(), policy)
    np.testing.assert_array_equal(actions(share=1.0, low=-1, high=-1), -1)
    kept = (actions(share=0.25) == policy).mean()
    assert kept == pytest.approx(0.75, abs=0.05)
    uniform = actions(share=1.0)
    assert uniform.min() < -0.99 and uniform.max() > 0.99 and abs(uniform.mean()) < 0.05


@pytest.mark.parametrize("action", [ActionSpec(True, 3), ActionSpec(False, 2, (-2, 0), (2, 1))])
def test_candidates_are_raw_actions_some_of_them_held(action):
    plans = candidates(np.random.default_rng(0), action, 8, 15)
    assert plans.shape == ((8, 15) if action.discrete else (8, 15, 2))
    changes = (np.diff(plans.reshape(8, 15, -1), axis=1) != 0).any(-1).sum(1)
    assert changes[3] == changes[7] == 0 and (changes[[2, 6]] <= 2).all() and changes[0] > 4
    if not action.discrete:
        assert plans[..., 0].min() < -1 and plans[..., 1].min() >= 0


def test_a_start_is_reached_again_or_it_is_reported(world, pendulum):
    act = random_policy(world.spec)
    context = context_of(world.oracle, pendulum, OPTIONS, world.spec)
    gymnasium.register("NoisyPendulum-v0", lambda: Noisy(gymnasium.make("Pendulum-v1")))
    try:
        noisy = [RealEnvironment("NoisyPendulum-v0", world.spec) for _ in range(3)]
    finally:
        gymnasium.registry.pop("NoisyPendulum-v0")
    ranking = rank_action_sequences(context, noisy, act)
    assert ranking.unreproducible_starts == 2  # the first start takes no step
    with environments_of("Pendulum-v1", world.spec, 3) as environments:
        starts = starts_of(environments, world.spec, act, 3, 0, 15)
        assert starts.after.tolist() == [0, 25, 50] and starts.seeds.tolist() == [0, 1, 2]
        late = starts_of(environments, world.spec, act, 3, 0, 180)  # of the 200 there are
        assert late.after.tolist() == [0, 20, 20]
        assert rank_action_sequences(context, environments, act).unreproducible_starts == 0


def test_lengths_stay_within_an_episode():
    assert ranking_horizons(PolicyRankingOptions(horizons=[15, 50, 900]), "Pendulum-v1") == [
        15,
        50,
        200,
    ]


@pytest.mark.parametrize("discrete", [False, True])
def test_a_clone_imitates_the_logged_actions(worlds, discrete):
    """The logged actions push against the position; features are the position."""
    dataset = worlds.linear_dataset([30, 25, 40, 30])
    position = dataset.observations["position"]
    taken, action_spec = np.clip(-position, -2, 2), dataset.action_spec
    if discrete:
        taken, action_spec = (position[:, 0] > 0).astype(np.int32), ActionSpec(True, 2)
    taken[dataset.last_steps] = 0  # nothing is done there, which is no example
    dataset = dataclasses.replace(dataset, actions=taken, action_spec=action_spec)
    head = clone_policy(worlds.Repeat(), dataset.spec(), dataset, jax.random.key(0))
    seen = np.random.default_rng(1).uniform(-1, 1, (200, 2)).astype(np.float32)
    action = np.asarray(head(seen).mode())
    if discrete:
        assert (action == (seen[:, 0] > 0)).mean() > 0.97
    else:
        assert np.abs(action - -seen / 2).mean() < 0.03  # in [-1, 1], of the range [-2, 2]


def test_a_clone_of_images_encodes_a_few_windows_at_once(image_spec):
    """All of them at full size, with the encoder's channels, would be half a gigabyte here."""
    options = MLPOptions(burn_in=1, units=8, latent_dim=8, depth=2)
    model = nnx.jit(lambda key: models.build(options, image_spec, key))(jax.random.key(0))
    head = ActionHead(model.feature_size, image_spec.action, 8, 1, rngs=nnx.Rngs(0))
    rows = (module.WINDOWS, module.ROWS)

    def column(kind, *shape):
        return jax.ShapeDtypeStruct((*rows, *shape), kind)

    image, marks = {"image": column(np.uint8, 64, 64, 3)}, [column(bool)] * 4
    window = Window(image, column(np.int32), column(np.float32), *marks)
    lowered = module._trained.lower(model, head, window, jax.random.key(0))
    assert lowered.compile().compiled.memory_analysis().temp_size_in_bytes < 100e6


def test_discrete_actions_and_episodes_that_end(worlds, tmp_path):
    dataset = collect(
        GymnasiumData("poles", environment="CartPole-v1", episodes=4, cache_dir=str(tmp_path))
    )
    (position,) = dataset.observations.values()
    dataset = dataclasses.replace(dataset, observations={"position": position})
    few = PolicyRankingOptions(
        rollouts_per_policy=8,
        horizons=[60],
        num_start_states=2,
        num_action_sequences=8,
        sequence_length=5,
    )
    options = EvaluationOptions(resamples=200, policy_ranking=few)
    context = context_of(worlds.Repeat(4), dataset, options, environment="CartPole-v1")
    ranking = PolicyRanking.run(context)
    # Every reward is predicted as 1: the model ranks nothing.
    assert ranking.agreement.spearman.value == 0
    assert ranking.policies["highest action"].real.value < 12
    assert ranking.policies["random"].real.value > 15
