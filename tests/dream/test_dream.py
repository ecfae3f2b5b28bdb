"""The pure functions of a dream: initial states, steps, ends and the cost of uncertainty."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import models
from worldmodel.data.loader import pad_episodes
from worldmodel.data.trajectories import Trajectories
from worldmodel.dream import Dream, build_dream
from worldmodel.dream.options import DreamOptions
from worldmodel.errors import ConfigError
from worldmodel.models import termination
from worldmodel.models.diffusion import DiffusionOptions
from worldmodel.models.ensemble import EnsembleOptions
from worldmodel.models.gru import GRUOptions
from worldmodel.models.koopman import KoopmanOptions
from worldmodel.models.observed import ObservedOptions
from worldmodel.models.trajectory_diffusion import TrajectoryDiffusionOptions

KEY = jax.random.key(0)
Make = Callable[..., Dream]
MANY = 400  # dreams of a batch: the same in all tests, which share compiled programs
reset, step = jax.jit(Dream.reset, static_argnums=2), jax.jit(Dream.step)
terminal = jax.jit(lambda dream, state: dream.model.terminal(state.model).mean())


def actions_for(dream: Dream, shape: tuple[int, ...]) -> jax.Array:
    """Random actions in raw units."""
    if dream.action_spec.discrete:
        return jax.random.randint(KEY, shape, 0, dream.action_spec.size)
    low, high = jnp.asarray(dream.action_spec.low), jnp.asarray(dream.action_spec.high)
    return jax.random.uniform(KEY, (*shape, dream.action_spec.size), minval=low, maxval=high)


def assert_same(actual: object, expected: object, exact: bool = False) -> None:
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        tolerance = {} if exact else {"rtol": 1e-5, "atol": 1e-5}
        compare = np.testing.assert_array_equal if exact else np.testing.assert_allclose
        compare(a, b, **tolerance)


# --------------------------------------------------------------------------------- steps


def test_a_dream_of_the_true_dynamics_is_the_environment(true_pendulum: Make) -> None:
    dream, real = true_pendulum(), gymnasium.make("Pendulum-v1").unwrapped
    state, observation = reset(dream, KEY, None)
    cosine, sine, speed = np.asarray(observation["observation"], np.float64)
    real.reset(seed=0)
    real.state = np.array([np.arctan2(sine, cosine), speed])
    for action in 1.2 * actions_for(dream, (40,)):  # some are outside the bounds
        state, observation, reward, terminated, truncated, info = step(dream, state, action, KEY)
        expected, cost, *_ = real.step(np.asarray(action))
        np.testing.assert_allclose(observation["observation"], expected, atol=1e-3)
        np.testing.assert_allclose(reward, cost, rtol=1e-3, atol=1e-3)
        assert not terminated and not truncated and info == {}


@pytest.mark.parametrize("kind", ["true_pendulum", "hopping", "stochastic"])
def test_single_mapped_and_scanned_dreams_are_equal(
    kind: str, request: pytest.FixtureRequest
) -> None:
    dream: Dream = request.getfixturevalue(kind)()
    count, steps = 3, 4
    keys = jax.random.split(KEY, (steps, count))
    actions = actions_for(dream, (steps, count))

    def scanned(dream: Dream) -> tuple:
        begin = jax.vmap(dream.reset)(keys[0])
        advance = jax.vmap(dream.step)

        def one(state: object, inputs: tuple) -> tuple:
            state, *outputs = advance(state, *inputs)
            return state, outputs

        return begin, jax.lax.scan(one, begin[0], (actions, keys))[1]

    (_, first), later = jax.device_get(jax.jit(scanned)(dream))
    for i in range(count):
        state, observation = reset(dream, keys[0, i], None)
        assert_same(observation, jax.tree.map(lambda x, i=i: x[i], first))
        for t in range(steps):
            state, *outputs = step(dream, state, actions[t, i], keys[t, i])
            assert_same(outputs, jax.tree.map(lambda x, t=t, i=i: x[t, i], later))


def test_actions_outside_their_bounds_are_clipped(hopping: Make) -> None:
    dream = hopping()
    state, _ = reset(dream, KEY, MANY)
    beyond = 3 * actions_for(dream, (MANY,))
    actual = step(dream, state, beyond, KEY)
    assert_same(actual, step(dream, state, jnp.clip(beyond, -1, 1), KEY), exact=True)
    smaller = step(dream, state, 0.3 * beyond, KEY)
    assert (actual.observation["observation"] != smaller.observation["observation"]).any()


@pytest.mark.parametrize("kind", ["true_pendulum", "stochastic"])
def test_a_batch_has_the_shapes_of_single_dreams(kind: str, request: pytest.FixtureRequest) -> None:
    dream: Dream = request.getfixturevalue(kind)()

    def begun(batch: int | None) -> tuple:
        state, observation = dream.reset(KEY, batch)
        action = actions_for(dream, () if batch is None else (batch,))
        return state, observation, dream.step(state, action, KEY)

    alone, batch = (jax.eval_shape(lambda count=count: begun(count)) for count in (None, 5))
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(batch), strict=True):
        assert (5, *a.shape) == b.shape and a.dtype == b.dtype


SMALL = {
    "koopman": KoopmanOptions(units=8, latent_dim=8, depth=2, reencode_every=2),
    "diffusion": DiffusionOptions(sampler_steps=2),
}


@pytest.mark.parametrize("family", SMALL)
def test_a_dream_is_the_rollout_of_the_model(family: str, hoppers: Trajectories) -> None:
    spec = hoppers.spec()
    model = models.build(SMALL[family], spec, KEY)
    chosen = DreamOptions(context=2, time_limit=50)
    dream = build_dream(model, spec, hoppers, np.arange(hoppers.num_episodes), chosen)
    state, _ = reset(dream, KEY, 3)
    actions = actions_for(dream, (4, 3))  # Hopper's bounds: raw units are the model's

    @nnx.jit
    def predict(
        model: models.WorldModel, state: object, action: jax.Array, key: jax.Array
    ) -> tuple:
        state = model.step(state, action, jax.random.split(key)[0])
        return state, model.observation(state)["observation"].mean(), model.reward(state).mean()

    expected = state.model
    for action, key in zip(actions, jax.random.split(KEY, 4), strict=True):
        expected, *predicted = predict(model, expected, action, key)
        state, observation, reward, *_ = step(dream, state, action, key)
        np.testing.assert_allclose(observation["observation"], predicted[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(reward, predicted[1], rtol=1e-3, atol=1e-4)


def test_images_have_the_type_and_range_of_the_dataset(stochastic: Make) -> None:
    dream = stochastic()
    state, observation = reset(dream, KEY, MANY)
    image = observation["image"]
    assert image.dtype == jnp.uint8 and image.shape == (MANY, 16, 16, 1)
    mean = jax.jit(lambda state: dream.model.observation(state)["image"].mean())(state.model)
    np.testing.assert_allclose(image, mean, atol=0.501)


# ----------------------------------------------------------------------------- initial states


@pytest.mark.parametrize("context", [3, 50])
def test_an_initial_state_is_filtered_from_the_context(hoppers: Trajectories, context: int) -> None:
    spec = hoppers.spec()
    model = models.build(GRUOptions(units=8, latent_dim=8, depth=2), spec, KEY)
    options = DreamOptions(context=context, time_limit=5)
    initial_states = build_dream(
        model, spec, hoppers, np.array([7, 3, 1, 9]), options
    ).initial_states
    observe = nnx.jit(lambda model, window: model.observe(window, KEY).latent[0, -1])
    filtered = {}
    for number, episode in zip([7, 3, 1, 9], range(4), strict=True):
        rows = pad_episodes(hoppers.select(np.array([episode])))
        last = int(hoppers.lengths[episode]) - 1
        for row in range(min(context - 1, last - 1), last):
            cut = slice(max(0, row - context + 1), row + 1)
            window = jax.tree.map(lambda x, cut=cut: x[:, cut], rows)
            filtered[number, row] = observe(model, window), rows.action[0, row]
    places = list(zip(initial_states.episode.tolist(), initial_states.step.tolist(), strict=True))
    assert places == list(filtered)
    for place, (latent, action) in enumerate(filtered.values()):
        np.testing.assert_allclose(initial_states.state.latent[place], latent, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(initial_states.action[place], action)


def test_initial_states_are_limited_and_spread_over_all_episodes(true_pendulum: Make) -> None:
    initial_states = true_pendulum(max_initial_states=100).initial_states
    assert initial_states.size == 100 and set(initial_states.episode.tolist()) == set(range(12))
    beginnings = true_pendulum(start_from="first_step", context=4).initial_states
    assert beginnings.episode.tolist() == list(range(12)) and set(beginnings.step.tolist()) == {3}


def test_initial_states_are_drawn_uniformly(true_pendulum: Make) -> None:
    dream = true_pendulum(max_initial_states=10)
    state, _ = reset(dream, KEY, 10_000)
    counts = np.bincount(state.start, minlength=10)
    assert counts.sum() == 10_000
    assert np.square(counts - 1000).sum() / 1000 < 33.7  # chi-square of 9, exceeded once in 10,000


# -------------------------------------------------------------------------------- ends


def test_the_time_limit_truncates_and_does_not_terminate(true_pendulum: Make) -> None:
    dream = true_pendulum(time_limit=3)
    state, _ = reset(dream, KEY, 4)
    for expected in (False, False, True):
        state, _, _, terminated, truncated, _ = step(dream, state, actions_for(dream, (4,)), KEY)
        assert not terminated.any() and (truncated == expected).all()


def test_a_dream_ends_by_the_termination_rule_of_the_model(hopping: Make) -> None:
    dream = hopping()
    state, _ = reset(dream, KEY, MANY)
    action = actions_for(dream, (MANY,))
    _, observation, _, terminated, truncated, _ = step(dream, state, action, KEY)
    ended = termination.hopper(observation["observation"])
    np.testing.assert_array_equal(terminated, ended)
    assert 20 < terminated.sum() < 380 and not truncated.any()


def test_ends_are_sampled_with_the_predicted_probability(stochastic: Make) -> None:
    dream, total, expected, variance = stochastic(), 0, 0.0, 0.0
    for key in jax.random.split(KEY, 10):
        state, _ = reset(dream, key, MANY)
        state, _, _, terminated, _, _ = step(dream, state, actions_for(dream, (MANY,)), key)
        probability = np.asarray(terminal(dream, state), np.float64)
        total += int(terminated.sum())
        expected += probability.sum()
        variance += (probability * (1 - probability)).sum()
    assert 0.2 < expected / (10 * MANY) < 0.8
    assert abs(total - expected) < 4 * np.sqrt(variance)


# ------------------------------------------------------------------------------ uncertainty


predict_members = jax.jit(lambda dream, state, action: dream.model.predict_members(state, action))


def spread_of(dream: Dream, state: object, action: jax.Array) -> np.ndarray:
    """Standard deviation of the members' mixture: root of the mean variance over dimensions."""
    members = predict_members(dream, state, action)
    location, scale = np.asarray(members.location), np.asarray(members.scale)
    mixture = (scale**2 + location**2).mean(0) - location.mean(0) ** 2
    return np.sqrt(mixture.mean(-1))


def test_the_mean_uncertainty_on_the_dataset_costs_penalty_scale_reward_deviations(
    hopping: Make, hoppers: Trajectories
) -> None:
    free, paid = hopping(), hopping(penalty="ensemble_std", penalty_scale=0.7)
    state, _ = reset(free, KEY, MANY)
    action = actions_for(free, (MANY,))
    mean = spread_of(free, free.initial_states.state, free.initial_states.action).mean()
    uncertainty = spread_of(free, state.model, action)
    cost = 0.7 * hoppers.spec().reward_mean_std[1] * uncertainty / mean
    plain, costly = step(free, state, action, KEY), step(paid, state, action, KEY)
    np.testing.assert_allclose(plain[2] - costly[2], cost, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(costly[5]["penalty"], cost, rtol=1e-4)
    np.testing.assert_allclose(costly[5]["ensemble_std"], uncertainty, rtol=1e-4)
    assert_same(plain[1], costly[1])


def test_a_dream_is_truncated_above_the_quantile_of_uncertainty_on_the_dataset(
    hopping: Make,
) -> None:
    dream = hopping(truncation_quantile=0.8)
    state, _ = reset(dream, KEY, MANY)
    action, begin = actions_for(dream, (MANY,)), dream.initial_states
    limit = np.quantile(spread_of(dream, begin.state, begin.action), 0.8)
    beyond = spread_of(dream, state.model, action) > limit
    _, _, _, terminated, truncated, info = step(dream, state, action, KEY)
    np.testing.assert_array_equal(truncated, beyond)
    np.testing.assert_array_equal(info["uncertainty_truncated"], beyond)
    assert 0 < beyond.sum() < MANY
    assert (terminated & ~truncated).any() and (truncated & ~terminated).any()


def test_one_elite_predicts_a_whole_dream(hopping: Make) -> None:
    dream = hopping(member_sampling="episode")
    state, _ = reset(dream, KEY, MANY)
    assert set(state.member.tolist()) == {0, 1, 2}
    action, model = actions_for(dream, (MANY,)), dream.model
    later, *_ = step(dream, state, action, KEY)
    np.testing.assert_array_equal(later.member, state.member)
    members = jax.device_get(predict_members(dream, state.model, action))
    noise = np.asarray(jax.random.normal(jax.random.split(KEY)[0], members.location.shape[1:]))
    drawn = np.asarray(model.elites())[state.member], np.arange(MANY)
    expected = model.next_state(state.model, members.location[drawn] + members.scale[drawn] * noise)
    np.testing.assert_allclose(later.model.point, expected.point, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------- invalid input


def error_of(model: models.WorldModel, dataset: Trajectories, **changes: object) -> str:
    chosen = DreamOptions(**{"context": 1, "time_limit": 5, **changes})
    with pytest.raises(ConfigError) as raised:
        build_dream(model, dataset.spec(), dataset, np.arange(dataset.num_episodes), chosen)
    return str(raised.value)


def shapes_of(options: object, dataset: Trajectories) -> models.WorldModel:
    """A model without values, which takes no time to build."""
    return nnx.eval_shape(lambda: models.build(options, dataset.spec(), KEY))


def test_a_model_that_does_not_go_step_by_step_is_refused(hoppers: Trajectories) -> None:
    whole = error_of(shapes_of(TrajectoryDiffusionOptions(segment_length=4), hoppers), hoppers)
    assert "samples whole trajectories" in whole and "accepted: model=diffusion, ensemble" in whole
    assert "has no dynamics" in error_of(shapes_of(ObservedOptions(), hoppers), hoppers)


def test_uncertainty_needs_members_and_dreams_need_rewards(hoppers: Trajectories) -> None:
    gru = models.build(GRUOptions(units=8, latent_dim=8, depth=2), hoppers.spec(), KEY)
    assert "no members" in error_of(gru, hoppers, penalty="ensemble_std")
    assert "no members" in error_of(gru, hoppers, truncation_quantile=0.9)
    assert "one of several members" in error_of(gru, hoppers, member_sampling="episode")
    single = EnsembleOptions(num_members=2, num_elites=1, units=8, layers=1)
    alone = shapes_of(single, hoppers)
    assert "one of several members" in error_of(alone, hoppers, member_sampling="episode")
    fields = {f: getattr(hoppers, f) for f in ("observations", "actions", "lengths", "terminated")}
    rewardless = Trajectories(
        **fields, rewards=None, action_spec=hoppers.action_spec, source="none"
    )
    assert "without rewards" in error_of(gru, rewardless)
