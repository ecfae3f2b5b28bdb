"""Planners compared with optimal plans and with their formulas."""

from dataclasses import replace
from functools import cache

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
from worldmodel.planning.weights import replace_nonfinite, select_elites

STARTS = np.array([[0.4, 0.0], [-0.3, 0.4], [0.2, 0.2]])  # with optimal actions within [-1, 1]
LONG = 300  # steps, after which the cost has converged
FEW = PlannerOptions(
    kind="cem", horizon=15, num_samples=16, num_elites=4, iterations=2, discount=0.99
)


class Gain(nnx.Module):
    """The action -K x, with a little noise in samples."""

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
    """Plans from STARTS with several keys, (keys, B, H, A), and their returns (keys, B)."""
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
def test_a_linear_quadratic_problem_is_solved_to_within_two_percent(known, kind):
    options = PlannerOptions(kind=kind, horizon=15, iterations=15, discount=known.discount)
    _, earned = solved(known, options)
    excess = -earned / least(known, 15) - 1
    assert excess.min() > -1e-5 and excess.max() < 0.02


@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_proposals_of_the_optimal_policy_make_up_for_few_samples(known, kind):
    options = replace(FEW, kind=kind, num_policy_samples=8)
    alone, led = (
        -solved(known, options, actor)[1] / least(known, 15) - 1
        for actor in (None, Gain(known.riccati(LONG)[1]))
    )
    assert alone.min() > 0.1 and led.max() < 0.02


def test_with_the_true_value_a_single_step_plan_is_optimal(known):
    """Without the value it is not."""
    cost, gain = known.riccati(LONG)
    options = replace(FEW, horizon=1, num_samples=256, num_elites=16, iterations=8, min_std=0.0)
    sighted, blind = (
        solved(known, options, value=value)[0][:, :, 0] for value in (Quadratic(cost), None)
    )
    best_actions = -STARTS @ gain.T
    np.testing.assert_allclose(sighted, np.broadcast_to(best_actions, sighted.shape), atol=0.01)
    assert np.abs(blind - best_actions).max() > 0.1


def test_plans_use_the_whole_range_of_actions_and_stay_within_it(known):
    """From far away full force is optimal; samples and proposals beyond it are clipped."""
    options = replace(FEW, iterations=8, initial_std=3.0, num_samples=64)
    far, twice_as_much = np.array([[40.0, 0.0], [-40.0, 0.0]]), np.array([[0.05, 0.0]])
    for actor in (None, Gain(twice_as_much)):
        planner = planning.build(replace(options, num_policy_samples=8), known.spec(2, 1.0), actor)
        model = known.LinearQuadratic()
        search = jax.jit(lambda key, p=planner, m=model: p.plan(m, m.at(far), p.init_carry(2), key))
        plan = np.asarray(search(jax.random.key(0)))
        np.testing.assert_allclose(plan[:, :3, 0], [[-1] * 3, [1] * 3], atol=0.02)
        assert np.abs(plan).max() <= 1 + 1e-6


def test_standard_deviations_are_those_of_the_elites(known):
    """A single elite has zero deviation: later iterations sample only it."""
    once, often = (
        solved(known, replace(FEW, num_elites=1, min_std=0.0, iterations=rounds))[0]
        for rounds in (1, 3)
    )
    np.testing.assert_allclose(once, often, atol=1e-6)


def test_a_search_starts_from_the_rest_of_the_last_plan(known):
    """With zero deviation, the result is the rest of the last plan."""
    model = known.LinearQuadratic()
    planner = planning.build(replace(FEW, initial_std=0.0, min_std=0.0), known.spec(2, 1.0))
    last = np.random.default_rng(0).uniform(-1, 1, (3, 15, 1)).astype(np.float32)
    act = jax.jit(lambda state, plan, key: planner(model, state, plan, key))
    plan, action = act(model.at(STARTS), last, jax.random.key(0))
    np.testing.assert_allclose(plan[:, :-1], last[:, 1:], atol=1e-6)
    np.testing.assert_array_equal(plan[:, -1], 0)
    np.testing.assert_allclose(action, last[:, 1], atol=1e-6)


def test_replanning_costs_no_more_than_the_optimal_controller(known):
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


def test_a_return_is_the_discounted_sum_until_the_end_of_the_episode(known):
    """Compared with a loop; the reward of the action that ends the episode counts."""
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


def test_weights_follow_the_formulas(rng):
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
def test_weights_do_not_depend_on_the_unit_of_the_reward(kind, rng):
    weigh, options = planning.PLANNERS[kind], PlannerOptions(num_elites=5)
    returns = rng.normal(size=(1, 20)).astype(np.float32)
    np.testing.assert_allclose(
        weigh(returns, options), weigh(1000 * returns - 7, options), atol=1e-3
    )
    np.testing.assert_allclose(weigh(np.ones((1, 20), np.float32), options), 1 / 20, atol=1e-6)


def test_candidates_on_which_the_model_diverges_are_not_selected(known):
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

    @cache
    def search(kind, **shapes):
        """A function of the numbers among the options, compiled for the others."""

        def first_actions(numbers):
            options = replace(FEW, kind=kind, **{"num_policy_samples": 1, **shapes}, **numbers)
            weigh, used = planning.PLANNERS[kind], value if options.use_value else None
            planner = planning.Planner(options, weigh, 1, actor, used)
            state, plan = model.at(STARTS), planner.init_carry(len(STARTS))
            return planner.plan(model, state, plan, jax.random.key(0))[:, 0]

        return jax.jit(first_actions)

    def first_actions(kind="cem", **changes):
        numbers = {k: getattr(FEW, k) for k in ("discount", "initial_std", "min_std")}
        numbers["temperature"] = FEW.temperature
        if changes.get("discount", 0.5) is None:
            del numbers["discount"]
        numbers |= {k: changes.pop(k) for k in list(changes) if k in numbers}
        return np.asarray(search(kind, **changes)(numbers))

    cem, mppi = first_actions(), first_actions("mppi")
    changes = {
        "horizon": 14, "num_samples": 17, "num_elites": 5, "iterations": 3,
        "num_policy_samples": 2, "use_value": False,
        "discount": 0.5, "initial_std": 0.5, "min_std": 0.6,
    }  # fmt: skip
    others = {"kind": mppi - cem} | {k: first_actions(**{k: v}) - cem for k, v in changes.items()}
    others["temperature"] = first_actions("mppi", temperature=5.0) - mppi
    assert others.keys() == vars(FEW).keys()
    assert [name for name, change in others.items() if np.abs(change).max() < 1e-4] == []
    np.testing.assert_array_equal(first_actions(discount=None), first_actions(discount=0.5))


def test_discrete_actions_and_datasets_without_rewards_are_refused(known):
    spec = known.spec(2, 1.0)
    discrete = replace(spec, action=ActionSpec(True, 3))
    with pytest.raises(ConfigError, match=r"planner.kind=cem: requires continuous.*has 3 classes"):
        planning.validate(FEW, discrete)
    with pytest.raises(ConfigError, match="requires rewards"):
        planning.validate(FEW, replace(spec, has_reward=False))
    assert planning.build(PlannerOptions(), discrete) is None


def test_real_episodes_depend_on_their_seed_alone(known):
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
def test_the_real_pendulum_is_swung_up_with_the_true_dynamics(known, kind):
    spec = known.spec(3, 2.0)
    act = model_policy(known.Pendulum(3), planning.build(PlannerOptions(kind=kind), spec), spec)
    assert run_episodes("Pendulum-v1", spec, act, 8, 0, lanes=8).returns.mean() > -300
