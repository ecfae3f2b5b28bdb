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
    total, count = 0.0, 0
    weights = np.zeros(len(params["errors"]))
    for b, t in np.ndindex(window.mask.shape[0], window.mask.shape[1] - 1):
        before, after = window.observation["motion"][b, t : t + 2]
        transition = np.concatenate([before, window.action[b, t]])
        code = hash_vectors(jnp.asarray(transition), it.model.salt[...].astype(jnp.uint32))
        if not window.mask[b, t + 1] or bool(
            it.model.training_batch(window).held_out.reshape(4, 5)[b, t]
        ):
            continue
        unit, (shift, scale) = (
            (change, it.spec.reward_mean_std) if standardize else (1.0, (0.0, 1.0))
        )
        outcome = np.append((after - before) / unit, (window.reward[b, t] - shift) / scale)
        inputs = np.append((before - mean) / std, window.action[b, t])[None]
        location, variance = naive_members(networks, inputs, layer_norm)
        losses = np.square(outcome - location) / variance + np.log(variance)
        weight = np.asarray(poisson_weights(code, len(weights)), float)
        total, count = total + (weight * losses.mean((1, 2))).sum(), count + 1
    kernels = [layer["linear"]["kernel"] for layer in networks["hidden"].values()]
    squares = [np.square(k).sum() for k in (*kernels, networks["output"]["kernel"])]
    decay = 0.01 * 0.5 * np.dot([0.25, 0.5, 1.0], squares)
    bounds = 0.01 * (networks["max_log_var"].sum() - networks["min_log_var"].sum())
    assert count >= 15
    loss = it.learn(window, KEY)[0][0]
    assert float(loss) == pytest.approx(total / count + decay + bounds, rel=1e-4)


def test_the_variance_stays_within_its_bounds(subject: Callable) -> None:
    model = subject().model
    for bias, bound in ((-100.0, model.networks.min_log_var), (100.0, model.networks.max_log_var)):
        model.networks.output.bias[...] = jnp.full_like(model.networks.output.bias[...], bias)
        scale = model.networks(jnp.zeros((3, 5))).scale
        # The soft clamp of one bound moves the other by less than the softplus of their distance.
        limit = jnp.broadcast_to(jnp.exp(0.5 * bound[...]), scale.shape)
        np.testing.assert_allclose(scale, limit, rtol=0.01)


def test_held_out_transitions_have_no_gradient_and_alone_determine_the_errors(
    subject: Callable,
) -> None:
    it = subject(holdout_ratio=0.4, termination="learned")
    batch = jax.tree.map(
        np.asarray, it.compiled(lambda model, w: model.training_batch(w))(it.window)
    )
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
    assert (np.asarray(it.model.training_batch(it.window).weights) == 1).all()


def test_held_out_errors_are_squared_errors_of_the_means(subject: Callable) -> None:
    it = subject(holdout_ratio=0.4)
    batch, (errors, _) = it.model.training_batch(it.window), it.model.holdout_errors(it.window)
    location = np.asarray(it.model.networks(batch.inputs).location)
    expected = np.square(location - batch.targets).mean(-1)[:, np.asarray(batch.held_out)].sum(1)
    np.testing.assert_allclose(errors, expected, rtol=1e-5)


# ------------------------------------------------------------------------------------- imagination


def nearly_deterministic(it: Any) -> Ensemble:
    """The model with almost no variance, and members 1 and 3 as elites."""
    model = it.model
    for bound in (model.networks.min_log_var, model.networks.max_log_var):
        bound[...] = jnp.full_like(bound[...], -40.0)
    model.errors[...] = jnp.asarray([3.0, 1.0, 4.0, 2.0])
    return model


def random_state(model: Ensemble) -> tuple[EnsembleState, jax.Array]:
    point_key, action_key = jax.random.split(KEY)
    point = jax.random.normal(point_key, (BATCH, model.feature_size))
    action = jax.random.uniform(action_key, (BATCH, 2), minval=-1)
    return EnsembleState(point, jnp.zeros(BATCH)), action


def member_of(
    model: Ensemble, before: EnsembleState, action: jax.Array, after: EnsembleState
) -> np.ndarray:
    """(B,) the member that predicted the next state."""
    predicted = model.predict_members(before, action).location
    error = np.abs(predicted - model.targets(before, after)).max(-1)
    assert (np.sort(error, 0)[0] < 1e-3).all() and (np.sort(error, 0)[1] > 1e-2).all()
    return error.argmin(0)


def test_elements_are_assigned_to_elites_at_random_and_in_equal_numbers(subject: Callable) -> None:
    model = nearly_deterministic(subject())
    state, action = random_state(model)
    step, members = jax.jit(model.step), []
    for key in jax.random.split(KEY, 40):
        members.append(member_of(model, state, action, step(state, action, key)))
        counts = np.bincount(members[-1], minlength=4)
        assert counts[0] == counts[2] == 0 and abs(counts[1] - counts[3]) == 1
    share = (np.stack(members) == 1).mean(0)  # of every element
    assert (np.abs(share - 0.5) < 4 * 0.5 / 40**0.5).all()


@pytest.mark.parametrize("sampling, constant", [("step", False), ("rollout", True)])
def test_members_are_sampled_per_step_or_per_rollout(
    subject: Callable, sampling: str, constant: bool
) -> None:
    model = nearly_deterministic(subject(member_sampling=sampling))
    state, action = random_state(model)
    actions = jnp.stack([action, -action, action / 2], 1)
    states = jax.jit(model.rollout)(state, actions, KEY)
    states = jax.tree.map(lambda x, y: jnp.concatenate([x[:, None], y], 1), state, states)
    steps = [jax.tree.map(lambda x, t=t: x[:, t], states) for t in range(4)]
    members = [member_of(model, steps[t], actions[:, t], steps[t + 1]) for t in range(3)]
    assert all((members[0] == later).all() for later in members[1:]) == constant
    assert set(members[0]) == {1, 3}


def test_steps_are_samples_of_the_predicted_distribution(subject: Callable) -> None:
    model = subject(num_members=1, num_elites=1).model
    state, action = random_state(model)
    state, action = jax.tree.map(lambda x: jnp.repeat(x[:1], 20_000, 0), (state, action))
    samples = np.asarray(model.targets(state, model.step(state, action, KEY)))
    predicted = jax.tree.map(lambda x: np.asarray(x[0, 0]), model.predict_members(state, action))
    error = predicted.scale / 20_000**0.5
    assert (np.abs(samples.mean(0) - predicted.location) < 4 * error).all()
    np.testing.assert_allclose(samples.std(0), predicted.scale, rtol=0.03)


# --------------------------------------------------------------------------------- options and data


def test_a_termination_rule_ends_imagined_episodes() -> None:
    vector = ObservationSpec((11,), "float32", (1.0,) * 11, (0.1,) * 11, (), (), (0.05,) * 11)
    spec = DataSpec({"observation": vector}, ACTION)
    model = models.build(EnsembleOptions(**SMALL | {"termination": "hopper"}), spec, KEY)
    raw = np.zeros((2, 11), np.float32)
    raw[:, 0] = 1.2, 0.6
    state = EnsembleState(model.vectors.encode({"observation": jnp.asarray(raw)}), jnp.zeros(2))
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
