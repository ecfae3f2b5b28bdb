"""The contract of world models, for every registered family.

A new family is tested as soon as it registers. If it needs options to be small, or differs from
what is expected of most (see `Facts`), it gets an entry in tests/families.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import (
    ALL_FIELDS,
    CASES,
    FAMILIES,
    KEY,
    OTHER_KEY,
    assert_close,
    class_of,
    max_difference,
    modified,
    on,
    options_of,
    timestep,
)

from worldmodel import models
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.errors import UserError
from worldmodel.imagination import imagine
from worldmodel.models import WorldModel
from worldmodel.policies.actor_critic import ActorCriticOptions, build_heads
from worldmodel.runs.checkpoints import named_leaves

slow = pytest.mark.slow
TRAINABLE = [name for name in FAMILIES if class_of(name).trainable]

# ----------------------------------------------------------------------------------- the interface

OPTIONAL = {
    "member_step",
    "make_step",
    "rollout",
    "rollout_policy",
    "predict_members",
    "eigenvalues",
}


def required_methods() -> set[str]:
    methods = {name for name, value in vars(WorldModel).items() if inspect.isfunction(value)}
    return {name for name in methods if not name.startswith("_")} - OPTIONAL


def test_a_missing_method_is_reported_with_its_family() -> None:
    class Incomplete(WorldModel):
        pass

    assert {"loss", "observe", "step", "features", "reward"} <= required_methods()
    for name in required_methods():
        arguments = list(inspect.signature(getattr(Incomplete(), name)).parameters)
        with pytest.raises(NotImplementedError, match=f"Incomplete does not implement `{name}`"):
            getattr(Incomplete(), name)(*arguments)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_implement_all_required_methods(family: str) -> None:
    cls = class_of(family)
    assert issubclass(cls, WorldModel)
    assert not [n for n in required_methods() if getattr(cls, n) is getattr(WorldModel, n)]


@on(*CASES, always=("vector",))
def test_states_features_and_predictions_have_the_documented_shapes(subject: Any) -> None:
    """States have the same structure from all methods, so that a scan can carry them."""
    spec, (batch, length) = subject.spec, subject.window.shape
    float32 = jnp.dtype("float32")

    def outputs(model: WorldModel, window: Window) -> tuple:
        states = model.observe(window, KEY)
        first = timestep(states, 0)
        initial = [model.initial(axes) for axes in ((batch, length), (batch,), ())]
        sequences, single = [states], [first]
        if model.has_dynamics:
            sequences.append(model.rollout(first, window.action, KEY))
            single.append(model.step(first, window.action[:, 0], KEY))
        predictions = model.observation(states)
        means = {key: prediction.mean() for key, prediction in predictions.items()}
        values = [p.loss(window.observation[key]) for key, p in predictions.items()]
        values += [model.terminal(states).mean(), model.terminal(states).loss(window.is_terminal)]
        if spec.has_reward:
            values += [model.reward(states).mean(), model.reward(states).loss(window.reward)]
        features = [model.features(s) for s in (states, first)]
        return initial, sequences, single, features, means, values

    def shapes(tree: Any, dropped: int = 0) -> Any:
        return jax.tree.map(lambda x: (x.shape[dropped:], x.dtype), tree)

    initial, sequences, single, *rest = jax.eval_shape(outputs, subject.model, subject.window)
    features, means, values = rest
    assert all(shapes(states) == shapes(initial[0]) for states in sequences)
    assert all(shapes(states) == shapes(initial[1]) for states in single)
    assert shapes(initial[2]) == shapes(initial[1], dropped=1)
    size = subject.model.feature_size
    assert shapes(features) == [((batch, length, size), float32), ((batch, size), float32)]
    assert shapes(means) == {
        k: ((batch, length, *o.shape), float32) for k, o in spec.observations.items()
    }
    assert shapes(values) == [((batch, length), float32)] * len(values)
    assert subject.model.hidden_size > 0


@slow
@pytest.mark.parametrize("family", FAMILIES)
def test_unsupported_images_are_refused_with_what_is_accepted(family: str) -> None:
    side = 48 if class_of(family).supports_images else 16  # not square, or no images at all
    spec = DataSpec({"image": ObservationSpec((side, 16, 3), "uint8")}, ActionSpec(True, 3))
    with pytest.raises(UserError, match="accepted"):
        models.build(options_of(family), spec, KEY)


# -------------------------------------------------------------------------------------- the losses


@on(*CASES, always=("vector",), only="trainable")
def test_losses_are_finite_and_every_parameter_has_a_gradient(subject: Any) -> None:
    (loss, (metrics, states)), gradient = subject.learn(subject.window, KEY)
    assert {x.dtype for x in jax.tree.leaves(subject.params)} == {jnp.dtype("float32")}
    assert all(x.shape == () and x.dtype == jnp.float32 for x in [loss, *metrics.values()])
    assert float(metrics["loss/total"]) == float(loss)
    assert ("loss/reward" in metrics) == subject.spec.has_reward
    gradient = named_leaves(gradient)
    assert not [name for name, x in {**metrics, **gradient}.items() if not np.isfinite(x).all()]
    frozen = type(subject.model).pretrained_modules(subject.options, subject.spec)
    without = {name for name, x in gradient.items() if not np.any(x)}
    prefixes = frozen + subject.facts.untrained
    assert without == {name for name in gradient if name.startswith(prefixes)}
    assert_close(states, subject.observe(subject.window, KEY))


@on(*CASES, always=("vector",), only="trainable")
def test_padding_does_not_change_the_loss(subject: Any) -> None:
    """The first episode has four steps; the rest of its window is padding."""
    assert not subject.window.mask[0, 4:].any() and subject.window.mask[1:].all()
    other = modified(subject.window, slice(4, None), ALL_FIELDS)
    padded = jax.tree.map(lambda x, y: np.concatenate([y[:1], x[1:]]), subject.window, other)
    (loss, (metrics, _)), gradient = subject.learn(subject.window, KEY)
    (other_loss, (other_metrics, _)), other_gradient = subject.learn(padded, KEY)
    assert_close((loss, metrics, gradient), (other_loss, other_metrics, other_gradient))


@on("vector", "discrete", always=("vector",), only="trainable")
def test_rewards_are_learned_at_the_state_after_the_action(subject: Any) -> None:
    """The last reward and the last action of a window are therefore not learned from."""
    reference = subject.learn(subject.window, KEY)[0][0]

    def changes_loss(t: int, *fields: str) -> bool:
        window = modified(subject.window, slice(t, t + 1), fields)
        difference = float(subject.learn(window, KEY)[0][0] - reference)
        return abs(difference) > 1e-5 * abs(float(reference))

    assert [changes_loss(t, "reward") for t in range(6)] == [True] * 5 + [False]
    assert not changes_loss(5, "action", "reward")


@on("no_reward")
def test_reward_of_a_model_trained_without_rewards_is_an_error(subject: Any) -> None:
    with pytest.raises(UserError, match="without rewards"):
        subject.model.reward(subject.model.initial((2,)))


@on("vector", only="trainable")
def test_the_shortest_window_has_a_finite_loss(subject: Any) -> None:
    """Two steps are the minimum; the window starts inside an episode."""
    inside = timestep(subject.window, slice(2, 4))
    loss = subject.compiled(lambda model, window: model.loss(window, KEY)[0])
    assert np.isfinite(loss(inside))


@slow
@pytest.mark.parametrize("family", TRAINABLE)
def test_losses_metrics_and_gradients_are_float32_with_bfloat16(
    family: str, subjects: Callable
) -> None:
    subject = subjects(family, "vector", jnp.bfloat16)
    (loss, (metrics, _)), gradient = subject.learn(subject.window, KEY)
    leaves = [loss, *metrics.values(), *jax.tree.leaves(gradient)]
    assert {x.dtype for x in leaves} == {jnp.dtype("float32")}
    assert all(np.isfinite(x).all() for x in leaves)
    reference = subjects(family, "vector").learn(subject.window, KEY)[0][0]
    assert float(loss) == pytest.approx(float(reference), rel=0.1)


# -------------------------------------------------------------------------------------- the filter


@on("vector", "discrete", "mixed", always=("vector",))
def test_the_filter_is_causal(subject: Any) -> None:
    """State t depends on the steps up to t, and on the actions before it."""
    states = subject.observe(subject.window, KEY)
    other = subject.observe(modified(subject.window, slice(3, None), ALL_FIELDS), KEY)
    assert_close(timestep(states, slice(3)), timestep(other, slice(3)))
    window = modified(subject.window, slice(3, None), ("action", "reward"))
    assert_close(timestep(states, slice(4)), timestep(subject.observe(window, KEY), slice(4)))
    assert max_difference(timestep(states, 3), timestep(other, 3)) > 1e-4


@on("vector", "discrete", "mixed", always=("vector",))
def test_a_first_step_ignores_the_previous_state_and_action(subject: Any) -> None:
    window = subject.window
    states = subject.observe(window, KEY)
    before = timestep(subject.observe(modified(window, slice(None), ALL_FIELDS), OTHER_KEY), 4)
    action = modified(window, slice(None), ("action",)).action[:, 4]
    assert_close(states, subject.observe(window, KEY, before, action))
    continued = replace(window, is_first=np.zeros_like(window.mask))
    difference = max_difference(states, subject.observe(continued, KEY, before, action))
    assert (difference > 1e-4) == subject.facts.has_memory


@on("vector", "discrete", "mixed", always=("vector",))
def test_a_first_step_inside_a_window_resets_the_state(subject: Any) -> None:
    window = replace(subject.window, is_first=subject.window.is_first | (np.arange(6) == 3))
    other = modified(window, slice(3), ALL_FIELDS)
    states, others = subject.observe(window, KEY), subject.observe(other, KEY)
    assert_close(timestep(states, slice(3, None)), timestep(others, slice(3, None)))
    assert max_difference(timestep(states, 2), timestep(others, 2)) > 1e-4


@on("vector", "discrete", "mixed", always=("vector",))
def test_a_filter_continues_from_a_state(subject: Any) -> None:
    """Up to rounding, if it is not random. Programs of other tests serve: the filter is causal, so
    the second half of a window may come first.
    """
    if "observe" in subject.facts.random:
        pytest.skip("a random filter is compared by its moments")
    window = replace(subject.window, is_first=np.zeros_like(subject.window.mask))
    before, action = timestep(subject.observe(subject.window, KEY), 0), window.action[:, 0]
    whole = subject.observe(window, KEY, before, action)
    halves = jax.tree.map(lambda x: np.concatenate([x[:, 3:], x[:, :3]], 1), window)

    def features(states: Any, steps: slice) -> np.ndarray:
        return np.asarray(subject.model.features(timestep(states, steps)))

    second = subject.observe(halves, KEY, timestep(whole, 2), window.action[:, 2])
    assert_close(features(second, slice(3)), features(whole, slice(3, 6)))
    second = subject.observe(halves, KEY, before, action)
    difference = max_difference(features(second, slice(3)), features(whole, slice(3, 6)))
    assert (difference > 1e-4) == subject.facts.has_memory


@on("vector", "discrete")
def test_filtering_in_pieces_equals_filtering_at_once(subject: Any) -> None:
    """The mean features and squared features of many filters of one record agree: within the
    sampling error if the filter is random, else up to rounding.
    """
    count = 1024
    window = jax.tree.map(lambda x: np.repeat(x[-1:], count, 0), subject.window)
    features_of = subject.compiled(lambda model, states: model.features(states))

    def filtered(pieces: tuple[slice, ...], carry: bool = True) -> np.ndarray:
        state, action = subject.model.initial((count,)), np.zeros_like(window.action[:, 0])
        for key, piece in zip(jax.random.split(KEY, len(pieces)), pieces, strict=True):
            states = subject.observe(timestep(window, piece), key, state, action)
            if carry:
                state, action = timestep(states, -1), window.action[:, piece][:, -1]
        features = features_of(timestep(states, -1)).astype(np.float64)
        return np.concatenate([features, np.square(features)], -1)

    def close(a: np.ndarray, b: np.ndarray) -> bool:
        error = np.sqrt((a.var(0) + b.var(0)) / count)
        return bool((np.abs(a.mean(0) - b.mean(0)) <= 5 * error + 1e-4).all())

    whole, halves = (slice(0, 6),), (slice(0, 3), slice(3, 6))
    steps = tuple(slice(t, t + 1) for t in range(6))
    assert close(filtered(whole), filtered(halves))
    assert close(filtered(whole), filtered(steps))
    assert close(filtered(whole), filtered(steps, carry=False)) != subject.facts.has_memory


# ------------------------------------------------------------------------------------- imagination


@on("vector", "discrete", "mixed", always=("vector",), only="has_dynamics")
def test_a_rollout_equals_repeated_steps(subject: Any) -> None:
    """Step t has the t-th of the keys that the rollout's key is split into. A family that samples
    rollouts as a whole equals its step for a single action.
    """
    state = timestep(subject.observe(subject.window, KEY), 0)
    actions = subject.window.action[:, 1:5]
    if not subject.model.autoregressive:
        rollout = subject.rollout(state, actions[:, :1], OTHER_KEY)
        assert_close(timestep(rollout, 0), subject.step(state, actions[:, 0], OTHER_KEY))
        return
    states = subject.rollout(state, actions, OTHER_KEY)
    for t, key in enumerate(jax.random.split(OTHER_KEY, 4)):
        state = subject.step(state, actions[:, t], key)
        assert_close(timestep(states, t), state)


@on("vector", "discrete", "mixed", "parts", always=("vector",), only="has_dynamics")
def test_rollouts_depend_on_the_actions(subject: Any) -> None:
    state = timestep(subject.observe(subject.window, KEY), 0)
    other = modified(subject.window, slice(None), ("action",))
    rollouts = [subject.rollout(state, w.action[:, :4], KEY) for w in (subject.window, other)]
    assert max_difference(*rollouts) > 1e-4


@on("vector", always=("vector",))
def test_results_are_deterministic_given_the_key(subject: Any) -> None:
    """And depend on it only where something is sampled."""
    state, action = subject.model.initial((4,)), subject.window.action[:, 0]
    functions = {
        "loss": lambda key: subject.learn(subject.window, key)[0][0],
        "observe": lambda key: subject.observe(subject.window, key),
        "step": lambda key: subject.step(state, action, key),
    }
    supported = {"loss": subject.model.trainable, "step": subject.model.has_dynamics}
    for name, function in functions.items():
        if not supported.get(name, True):
            with pytest.raises(UserError, match="accepted"):
                function(KEY)
            continue
        assert_close(function(KEY), function(KEY), tolerance=0)
        differs = max_difference(function(KEY), function(OTHER_KEY)) > 1e-6
        assert differs == (name in subject.facts.random)


def imagine_actions(model: WorldModel, start: Any, actions: jax.Array) -> Any:
    return imagine(model, start, actions, 4, KEY)


@on("vector", "discrete", "mixed", "parts", only="has_dynamics")
def test_a_policy_acts_in_imagined_rollouts(subject: Any) -> None:
    action = subject.spec.action
    start = timestep(subject.observe(subject.window, KEY), 2)

    def imagine_policy(model: WorldModel, start: Any) -> Any:
        actor, _ = build_heads(ActorCriticOptions(layers=1), model, action, KEY, jnp.float32)
        return imagine(model, start, actor, 4, KEY)

    rollout = subject.compiled(imagine_policy)(start)
    assert rollout.features.shape == (4, 5, subject.model.feature_size)
    assert rollout.rewards.shape == rollout.continues.shape == (4, 4)
    assert rollout.actions.shape == (4, 4, *action.shape)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(rollout))
    assert ((rollout.continues >= 0) & (rollout.continues <= 1)).all()
    assert_close(timestep(rollout.states, 0), start)
    if "step" not in subject.facts.random:
        assert_close(subject.compiled(imagine_actions)(start, rollout.actions), rollout)


@on("vector", only="has_dynamics")
def test_imagined_rewards_have_gradients_in_the_actions(subject: Any) -> None:
    start = timestep(subject.observe(subject.window, KEY), 2)

    def total_reward(actions: jax.Array, model: WorldModel, start: Any) -> jax.Array:
        return imagine_actions(model, start, actions).rewards.sum()

    gradient_of = subject.compiled(lambda model, start, a: jax.grad(total_reward)(a, model, start))
    gradient = gradient_of(start, subject.window.action[:, :4])
    assert np.isfinite(gradient).all() and np.any(gradient, axis=(0, 2)).all()
