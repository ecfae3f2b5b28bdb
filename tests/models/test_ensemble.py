"""The probabilistic ensemble: likelihood, held-out and bootstrap data, and sampling of elites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel import models
from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import build_config
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.errors import ConfigError
from worldmodel.models.ensemble import Ensemble, EnsembleOptions, EnsembleState
from worldmodel.nn.bootstrap import hash_vectors, poisson_weights

KEY = jax.random.key(0)
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = {"num_members": 4, "num_elites": 2, "units": 8, "layers": 2, "termination": "never"}
ACTION = ActionSpec(False, 2, (-1.0, -1.0), (1.0, 1.0))
BATCH = 11  # not divisible by the number of elites


@pytest.fixture
def subject(make_subject: Callable, dataset_of: Callable) -> Callable:
    """From options to a small untrained ensemble on a dataset of the point."""
    dataset = dataset_of("vector")
    return lambda **options: make_subject(EnsembleOptions(**SMALL | options), dataset, {})


# -------------------------------------------------------------------------------------- the losses


def naive_members(networks: Any, x: np.ndarray, layer_norm: bool) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances (M, N, D + 1), one member after the other."""
    means, variances = [], []
    for m in range(networks["output"]["kernel"].shape[0]):
        h = x
        for layer in networks["hidden"].values():
            h = h @ layer["linear"]["kernel"][m] + layer["linear"]["bias"][m]
            if layer_norm:
                h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
                h = h * layer["norm"]["scale"][m] + layer["norm"]["bias"][m]
            h = h / (1 + np.exp(-h))
        h = h @ networks["output"]["kernel"][m] + networks["output"]["bias"][m]
        mean, log_variance = np.split(h, 2, -1)
        high, low = networks["max_log_var"][m], networks["min_log_var"][m]
        log_variance = high - np.log1p(np.exp(high - log_variance))
        log_variance = low + np.log1p(np.exp(log_variance - low))
        means.append(mean)
        variances.append(np.exp(log_variance))
    return np.stack(means), np.stack(variances)


@pytest.mark.parametrize("layer_norm, standardize", [(True, True), (False, False)])
def test_the_loss_is_the_likelihood_of_the_bootstrap_samples(
    subject: Callable, layer_norm: bool, standardize: bool
) -> None:
    """Compared with loops over members and transitions."""
    it = subject(layer_norm=layer_norm, standardize_outputs=standardize, weight_decay=0.01)
    params = jax.tree.map(lambda x: np.asarray(x, float), it.params)
    networks, window, spec = params["networks"], it.window, it.spec.observations["motion"]
    mean, std, change = (np.asarray(x) for x in (spec.mean, spec.std, spec.delta_rms))
    before, after = window.observation["motion"][:, :-1], window.observation["motion"][:, 1:]
    transitions = np.concatenate([before, window.action[:, :-1]], -1)

    def batch_and_weights(model: Ensemble, window: Window, x: np.ndarray) -> tuple:
        weights = poisson_weights(hash_vectors(x, model.salt[...].astype(jnp.uint32)), model.size)
        return model.training_batch(window).held_out, weights

    held_out, weights = it.compiled(batch_and_weights)(window, transitions)
    unit, (shift, scale) = (change, it.spec.reward_mean_std) if standardize else (1.0, (0.0, 1.0))
    total, count = 0.0, 0
    for b, t in np.argwhere(window.mask[:, 1:] & ~held_out.reshape(4, 5)):
        step = (after[b, t] - before[b, t]) / unit
        outcome = np.append(step, (window.reward[b, t] - shift) / scale)
        inputs = np.append((before[b, t] - mean) / std, window.action[b, t])[None]
        location, variance = naive_members(networks, inputs, layer_norm)
        losses = np.square(outcome - location) / variance + np.log(variance)
        weight = weights[:, b, t].astype(float)
        total, count = total + (weight * losses.mean((1, 2))).sum(), count + 1
    kernels = [layer["linear"]["kernel"] for layer in networks["hidden"].values()]
    squares = [np.square(k).sum() for k in (*kernels, networks["output"]["kernel"])]
    decay = 0.01 * 0.5 * np.dot([0.25, 0.5, 1.0], squares)
    bounds = 0.01 * (networks["max_log_var"].sum() - networks["min_log_var"].sum())
    assert count >= 15
    loss = it.learn(window, KEY)[0][0]
    assert float(loss) == pytest.approx(total / count + decay + bounds, rel=1e-4)


def test_the_variance_stays_within_its_bounds(subject: Callable) -> None:
    it = subject()

    def at_bounds(model: Ensemble, bias: float) -> tuple[jax.Array, ...]:
        networks = model.networks
        networks.output.bias[...] = jnp.full(networks.output.bias.shape, bias)
        bounds = networks.min_log_var[...], networks.max_log_var[...]
        return networks(jnp.zeros((3, 5))).scale, *bounds

    scale_at = it.compiled(at_bounds)
    for bias, bound in ((-100.0, 1), (100.0, 2)):
        outputs = scale_at(bias)
        # The soft clamp of one bound moves the other by less than the softplus of their distance.
        limit = np.broadcast_to(np.exp(0.5 * outputs[bound]), outputs[0].shape)
        np.testing.assert_allclose(outputs[0], limit, rtol=0.01)


def test_held_out_transitions_have_no_gradient_and_alone_determine_the_errors(
    subject: Callable,
) -> None:
    it = subject(holdout_ratio=0.4, termination="learned")
    batch = it.compiled(lambda model, window: model.training_batch(window))(it.window)
    held_out = batch.held_out.reshape(4, 5)
    assert 3 <= held_out.sum() <= 15 and not (batch.held_out & batch.learned).any()

    def with_other_rewards(where: np.ndarray) -> Any:
        reward = it.window.reward.copy()
        reward[:, :-1] += np.where(where, 1.0, 0.0)
        return replace(it.window, reward=reward)

    errors_of = it.compiled(lambda model, window: model.holdout_errors(window))
    learned = batch.learned.reshape(4, 5)
    gradient, (errors, count) = it.learn(it.window, KEY)[1], errors_of(it.window)
    for where, trains in ((held_out, False), (learned, True)):
        window = with_other_rewards(where)
        same = jax.tree.map(np.array_equal, gradient, it.learn(window, KEY)[1])
        assert all(jax.tree.leaves(same)) != trains
        assert np.array_equal(errors_of(window)[0], errors) == trains
    assert count == held_out.sum()


def test_without_bootstrap_all_weights_are_one(subject: Callable) -> None:
    it = subject(bootstrap=False)
    assert (it.compiled(lambda model, w: model.training_batch(w).weights)(it.window) == 1).all()


def test_held_out_errors_are_squared_errors_of_the_means(subject: Callable) -> None:
    it = subject(holdout_ratio=0.4)

    def errors_and_parts(model: Ensemble, window: Window) -> tuple:
        batch = model.training_batch(window)
        return model.holdout_errors(window)[0], batch, model.networks(batch.inputs).location

    errors, batch, location = it.compiled(errors_and_parts)(it.window)
    expected = np.square(location - batch.targets).mean(-1)[:, batch.held_out].sum(1)
    np.testing.assert_allclose(errors, expected, rtol=1e-5)


# ------------------------------------------------------------------------------------- imagination


def nearly_deterministic(model: Ensemble) -> Ensemble:
    """The model with almost no variance, and members 1 and 3 as elites."""
    for bound in (model.networks.min_log_var, model.networks.max_log_var):
        bound[...] = jnp.full(bound.shape, -40.0)
    model.errors[...] = jnp.asarray([3.0, 1.0, 4.0, 2.0])
    return model


STATE = EnsembleState(
    np.random.default_rng(0).normal(size=(BATCH, 3)).astype(np.float32), np.zeros(BATCH, np.float32)
)
ACTIONS = np.random.default_rng(1).uniform(-1, 1, (BATCH, 2)).astype(np.float32)


def members_of(predicted: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """(...) the member whose prediction (M, ..., D + 1) is the outcome (..., D + 1)."""
    error = np.abs(predicted - outcomes).max(-1)
    assert (np.sort(error, 0)[0] < 1e-3).all() and (np.sort(error, 0)[1] > 1e-2).all()
    return error.argmin(0)


def test_elements_are_assigned_to_elites_at_random_and_in_equal_numbers(subject: Callable) -> None:
    def outcomes(model: Ensemble, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = nearly_deterministic(model)
        after = jax.vmap(lambda key: model.step(STATE, ACTIONS, key))(keys)
        predicted = model.predict_members(STATE, ACTIONS).location
        return predicted[:, None], model.targets(STATE, after)

    members = members_of(*subject().compiled(outcomes)(jax.random.split(KEY, 40)))
    for each in members:
        counts = np.bincount(each, minlength=4)
        assert counts[0] == counts[2] == 0 and abs(counts[1] - counts[3]) == 1
    share = (members == 1).mean(0)  # of every element
    assert (np.abs(share - 0.5) < 4 * 0.5 / 40**0.5).all()


@pytest.mark.parametrize("sampling, constant", [("step", False), ("rollout", True)])
def test_members_are_sampled_per_step_or_per_rollout(
    subject: Callable, sampling: str, constant: bool
) -> None:
    def outcomes(model: Ensemble, actions: np.ndarray) -> tuple[jax.Array, jax.Array]:
        model = nearly_deterministic(model)
        after = model.rollout(STATE, actions, KEY)
        before = jax.tree.map(
            lambda x, y: jnp.concatenate([x[:, None], y[:, :-1]], 1), STATE, after
        )
        return model.predict_members(before, actions).location, model.targets(before, after)

    actions = np.stack([ACTIONS, -ACTIONS, ACTIONS / 2], 1)
    members = members_of(*subject(member_sampling=sampling).compiled(outcomes)(actions))
    assert (members == members[:, :1]).all() == constant
    assert set(members[:, 0]) == {1, 3}


def test_steps_are_samples_of_the_predicted_distribution(subject: Callable) -> None:
    def sampled(model: Ensemble) -> tuple:
        state, action = jax.tree.map(lambda x: jnp.repeat(x[:1], 20_000, 0), (STATE, ACTIONS))
        outcomes = model.targets(state, model.step(state, action, KEY))
        return outcomes, model.predict_members(STATE, ACTIONS)

    samples, predicted = subject(num_members=1, num_elites=1).compiled(sampled)()
    location, scale = predicted.location[0, 0], predicted.scale[0, 0]
    assert (np.abs(samples.mean(0) - location) < 4 * scale / 20_000**0.5).all()
    np.testing.assert_allclose(samples.std(0), scale, rtol=0.03)


# --------------------------------------------------------------------------------- options and data


def test_a_termination_rule_ends_imagined_episodes() -> None:
    vector = ObservationSpec((11,), "float32", (1.0,) * 11, (0.1,) * 11, (), (), (0.05,) * 11)
    spec = DataSpec({"observation": vector}, ACTION)
    model = models.build(EnsembleOptions(**SMALL | {"termination": "hopper"}), spec, KEY)
    raw = np.zeros((2, 11), np.float32)
    raw[:, 0] = 1.2, 0.6
    state = EnsembleState(model.vectors.normalize({"observation": jnp.asarray(raw)}), jnp.zeros(2))
    np.testing.assert_allclose(model.terminal(state).mean(), [0.0, 1.0], atol=1e-20)


def test_termination_never_supports_several_vectors() -> None:
    vectors = {name: ObservationSpec((size,), "float32") for name, size in (("a", 2), ("b", 3))}
    model = models.build(EnsembleOptions(**SMALL), DataSpec(vectors, ACTION), KEY)
    np.testing.assert_allclose(model.terminal(model.initial((4,))).mean(), 0.0, atol=1e-20)


@pytest.mark.parametrize(
    "options, shape, expected",
    [
        ({}, (16, 16, 3), "supports vectors only.*image are images; accepted: model=diffusion"),
        ({"termination": "hopper"}, (17,), "one vector of 11 numbers.*accepted: learned or never"),
    ],
)
def test_unsupported_observations_are_refused(options: dict, shape: tuple, expected: str) -> None:
    kind = "uint8" if len(shape) == 3 else "float32"
    spec = DataSpec({"image": ObservationSpec(shape, kind)}, ACTION)
    with pytest.raises(ConfigError, match=expected):
        models.build(EnsembleOptions(**SMALL | options), spec, KEY)


def build(*words: str) -> Any:
    return build_config(CONFIGS, parse_overrides(["model=ensemble", *words]))


@pytest.mark.parametrize(
    "words, expected",
    [
        (["model.num_elites=6"], "model.num_elites=6: .* model.num_members=5"),
        (["model.ema_decay=0.9"], "accepted: model.ema_decay=0 or model.holdout_ratio=0"),
        (["training.joint=true"], "accepted: model.holdout_ratio=0"),
    ],
)
def test_incompatible_options_are_refused(words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        build(*words)


def test_the_model_sets_training_options_unless_they_are_given() -> None:
    stage = build("training.world_model.window=5").training.world_model
    assert (stage.batch_size, stage.agc_clip, stage.window) == (256, 0.0, 5)
    assert build("model.holdout_ratio=0", "training.joint=true").training.joint
    assert build("model.holdout_ratio=0", "model.ema_decay=0.9").model.ema_decay == 0.9
