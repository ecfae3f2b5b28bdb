"""Plans are as good as the best there are, and made of what they are said to be made of."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import planning
from worldmodel.config import PlannerOptions
from worldmodel.data import ActionSpec
from worldmodel.errors import ConfigError
from worldmodel.evaluation.returns import model_policy, run_episodes
from worldmodel.nn.distributions import Normal
from worldmodel.planning.elites import replace_nonfinite, select_elites

STARTS = np.array([[0.4, 0.0], [-0.3, 0.4], [0.2, 0.2]])  # the best actions keep to [-1, 1]
LONG = 300  # steps, after which no more of the cost changes
FEW = PlannerOptions(
    kind="cem", horizon=15, num_samples=16, num_elites=4, iterations=2, discount=0.99
)


class Gain(nnx.Module):
    """Acts by -K x, with a little noise where it is sampled."""

    def __init__(self, gain):
        self.gain = nnx.Param(jnp.asarray(gain, jnp.float32))

    def __call__(self, features):
        location = -features @ self.gain[...].T
        return Normal(location, jnp.full_like(location, 0.01))


class Quadratic(nnx.Module):
    """The value -x^T P x."""

    discount = 0.5

    def __init__(self, cost):
        self.cost = nnx.Param(jnp.asarray(cost, jnp.float32))

    def __call__(self, features):
        return -(features @ self.cost[...] * features).sum(-1)


def solved(known, options, actor=None, value=None, model=None):
    """Plans from STARTS and a few keys, (keys, B, H, A), and what they earn (keys, B)."""
    model = model or known.LinearQuadratic()
    planner = planning.build(options, known.spec(2, 1.0), actor, value)
    state = model.at(STARTS)

    @jax.jit
    def solve(key):
        plan = planner.plan(model, state, planner.init_carry(len(STARTS)), key)
        return plan, planner.returns(model, state, plan[:, None], key)[:, 0]

    plans, earned = zip(*(solve(jax.random.key(seed)) for seed in range(4)), strict=True)
    return np.stack(plans), np.stack(earned)


def least(known, steps):
    return np.einsum("bi,ij,bj->b", STARTS, known.riccati(steps)[0], STARTS)


@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_a_linear_quadratic_problem_is_solved_to_within_two_per_cent(known, kind):
    options = PlannerOptions(kind=kind, horizon=15, iterations=15, discount=known.discount)
    _, earned = solved(known, options)
    excess = -earned / least(known, 15) - 1
    assert excess.min() > -1e-5 and excess.max() < 0.02


@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_the_best_policys_proposals_make_up_for_few_samples(known, kind):
    options = replace(FEW, kind=kind, num_policy_samples=8)
    alone, led = (
        -solved(known, options, actor)[1] / least(known, 15) - 1
        for actor in (None, Gain(known.riccati(LONG)[1]))
    )
    assert alone.min() > 0.1 and led.max() < 0.02


def test_a_value_at_the_horizon_makes_a_short_plan_act_as_the_longest(known):
    """A single step with the right value is already the best action; without it, it is not."""
    cost, gain = known.riccati(LONG)
    options = replace(FEW, horizon=1, num_samples=256, num_elites=16, iterations=8, min_std=0.0)
    sighted, blind = (
        solved(known, options, value=value)[0][:, :, 0] for value in (Quadratic(cost), None)
    )
    best_actions = -STARTS @ gain.T
    np.testing.assert_allclose(sighted, np.broadcast_to(best_actions, sighted.shape), atol=0.01)
    assert np.abs(blind - best_actions).max() > 0.1


def test_plans_keep_to_the_range_of_actions_and_make_the_most_of_it(known):
    """From far away full force is best; what lies beyond it, drawn or proposed, is not imagined."""
    options = replace(FEW, iterations=8, initial_std=3.0, num_samples=64)
    far, twice_as_much = np.array([[40.0, 0.0], [-40.0, 0.0]]), np.array([[0.05, 0.0]])
    for actor in (None, Gain(twice_as_much)):
        planner = planning.build(replace(options, num_policy_samples=8), known.spec(2, 1.0), actor)
        model = known.LinearQuadratic()
        search = jax.jit(lambda key, p=planner, m=model: p.plan(m, m.at(far), p.init_carry(2), key))
        plan = np.asarray(search(jax.random.key(0)))
        np.testing.assert_allclose(plan[:, :3, 0], [[-1] * 3, [1] * 3], atol=0.02)
        assert np.abs(plan).max() <= 1 + 1e-6


def test_deviations_are_those_of_the_elites(known):
    """One elite has none: later rounds draw nothing but it."""
    once, often = (
        solved(known, replace(FEW, num_elites=1, min_std=0.0, iterations=rounds))[0]
        for rounds in (1, 3)
    )
    np.testing.assert_allclose(once, often, atol=1e-6)


def test_a_search_begins_at_what_is_left_of_the_last_plan(known):
    """Where nothing is drawn around it, that is all there is."""
    model = known.LinearQuadratic()
    planner = planning.build(replace(FEW, initial_std=0.0, min_std=0.0), known.spec(2, 1.0))
    last = np.random.default_rng(0).uniform(-1, 1, (3, 15, 1)).astype(np.float32)
    act = jax.jit(lambda state, plan, key: planner(model, state, plan, key))
    plan, action = act(model.at(STARTS), last, jax.random.key(0))
    np.testing.assert_allclose(plan[:, :-1], last[:, 1:], atol=1e-6)
    np.testing.assert_array_equal(plan[:, -1], 0)
    np.testing.assert_allclose(action, last[:, 1], atol=1e-6)


def test_acting_step_by_step_costs_no_more_than_the_best_controller(known):
    cost, _ = known.riccati(LONG)
    model = known.LinearQuadratic()
    options = PlannerOptions(
        kind="mppi",
        horizon=3,
        num_samples=128,
        num_elites=16,
        min_std=0.01,
        discount=known.discount,
    )
    planner = planning.build(options, known.spec(2, 1.0), value=Quadratic(cost))

    def advance(carry, key):
        state, plan = carry
        plan, action = planner(model, state, plan, key)
        state = model.step(state, action, key)
        return (state, plan), state.earned

    start = (model.at(STARTS), planner.init_carry(len(STARTS)))
    keys = jax.random.split(jax.random.key(0), 40)
    (last, _), earned = jax.jit(lambda c, k: jax.lax.scan(advance, c, k))(start, keys)
    discounts = known.discount ** np.arange(40)[:, None]
    left = known.discount**40 * -Quadratic(cost)(last.where)
    paid = -(discounts * earned).sum(0) + left
    np.testing.assert_array_less(paid, 1.02 * least(known, LONG))


def test_a_return_is_the_discounted_sum_up_to_where_the_episode_ends(known):
    """Against a loop; what the last action before the end earned still counts."""
    model = known.LinearQuadratic(wall=0.8, risk=0.75)
    cost = known.riccati(LONG)[0]
    options = replace(FEW, discount=0.9)
    planner = planning.build(options, known.spec(2, 1.0), value=Quadratic(cost))
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 5, 15, 1)).astype(np.float32)
    actions[0] = 1.0
    key = jax.random.key(0)
    earn = jax.jit(lambda state, actions: planner.returns(model, state, actions, key))
    returns, step = earn(model.at(STARTS), actions), jax.jit(model.step)
    for b, start in enumerate(STARTS):
        for n in range(5):
            state, weight, expected = model.at(start), 1.0, 0.0
            for action in actions[b, n]:
                state = step(state, action, key)
                expected += weight * float(state.earned)
                weight *= 0.9 * (1 - float(state.ended))
            where = np.asarray(state.where)
            expected -= weight * where @ cost @ where
            np.testing.assert_allclose(returns[b, n], expected, rtol=1e-4)


def test_weights_are_those_of_the_formulae(rng):
    returns = rng.normal(size=(3, 20)).astype(np.float32)
    options = PlannerOptions(num_elites=5, temperature=0.7)
    cem, mppi = (np.asarray(planning.PLANNERS[k](returns, options)) for k in ("cem", "mppi"))
    for row in range(3):
        elites = np.argsort(returns[row])[-5:]
        equal, scaled = np.zeros(20), np.zeros(20)
        equal[elites] = 1 / 5
        scaled[elites] = np.exp(returns[row, elites] / (0.7 * returns[row, elites].std()))
        np.testing.assert_allclose(cem[row], equal, atol=1e-6)
        np.testing.assert_allclose(mppi[row], scaled / scaled.sum(), atol=1e-5)


@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_units_of_the_reward_change_no_weight_and_equal_returns_have_equal_weights(kind, rng):
    weigh, options = planning.PLANNERS[kind], PlannerOptions(num_elites=5)
    returns = rng.normal(size=(1, 20)).astype(np.float32)
    np.testing.assert_allclose(
        weigh(returns, options), weigh(1000 * returns - 7, options), atol=1e-3
    )
    np.testing.assert_allclose(weigh(np.ones((1, 20), np.float32), options), 1 / 20, atol=1e-6)


def test_a_candidate_on_which_the_model_diverges_never_wins(known):
    def plans(beyond):
        def value(features):
            return jnp.where(features[..., 0] > 0.6, beyond, features[..., 0])

        return solved(known, FEW, value=value)[0]

    np.testing.assert_array_equal(plans(jnp.nan), plans(-1e6))
    returns = jnp.array([[1.0, jnp.nan, 3.0, jnp.inf, 2.0], [jnp.nan] * 5])
    cleaned = replace_nonfinite(returns)
    np.testing.assert_array_equal(cleaned, [[1, 1, 3, 1, 2], [0, 0, 0, 0, 0]])
    assert select_elites(cleaned, 2)[0].tolist() == [False, False, True, False, True]


def test_every_option_changes_the_plan(known):
    cost, gain = known.riccati(LONG)
    model, actor, value = known.LinearQuadratic(), Gain(gain), Quadratic(cost)

    def first_actions(**changes):
        options = replace(FEW, **{"num_policy_samples": 1, **changes})
        planner = planning.build(options, known.spec(2, 1.0), actor, value)
        state, plan = model.at(STARTS), planner.init_carry(len(STARTS))
        return np.asarray(jax.jit(planner.plan)(model, state, plan, jax.random.key(0))[:, 0])

    cem, mppi = first_actions(), first_actions(kind="mppi")
    changes = {
        "horizon": 14, "num_samples": 17, "num_elites": 5, "iterations": 3,
        "num_policy_samples": 2, "use_value": False,
        "discount": 0.5, "initial_std": 0.5, "min_std": 0.6,
    }  # fmt: skip
    others = {"kind": mppi - cem} | {k: first_actions(**{k: v}) - cem for k, v in changes.items()}
    others["temperature"] = first_actions(kind="mppi", temperature=5.0) - mppi
    assert others.keys() == vars(FEW).keys()
    assert [name for name, change in others.items() if np.abs(change).max() < 1e-4] == []
    np.testing.assert_array_equal(first_actions(discount=None), first_actions(discount=0.5))


def test_what_cannot_be_planned_for_is_refused(known):
    spec = known.spec(2, 1.0)
    discrete = replace(spec, action=ActionSpec(True, 3))
    with pytest.raises(ConfigError, match=r"planner.kind=cem: requires continuous.*has 3 classes"):
        planning.validate(FEW, discrete)
    with pytest.raises(ConfigError, match="requires rewards"):
        planning.validate(FEW, replace(spec, has_reward=False))
    assert planning.build(PlannerOptions(), discrete) is None


def test_in_the_real_world_an_episode_is_its_seed_alone(known):
    spec = known.spec(3, 2.0)
    options = replace(FEW, num_samples=8, horizon=2)
    act = model_policy(known.Pendulum(3), planning.build(options, spec), spec)
    together, apart = (
        run_episodes("Pendulum-v1", spec, act, 3, 5, parallel, lanes=2).returns
        for parallel in (2, 1)
    )
    np.testing.assert_array_equal(together, apart)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_the_real_pendulum_is_swung_up_with_its_true_dynamics(known, kind):
    spec = known.spec(3, 2.0)
    act = model_policy(known.Pendulum(3), planning.build(PlannerOptions(kind=kind), spec), spec)
    assert run_episodes("Pendulum-v1", spec, act, 8, 0, lanes=8).returns.mean() > -300
