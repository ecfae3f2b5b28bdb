"""What the families with an encoder share: filter, rollouts, sizes and re-encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import models
from worldmodel.config import ModelOptions
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.models.encoded import (
    ENCODED_PRESETS,
    EncodedOptions,
    EncodedState,
    latent_metrics,
    relative_distance,
)
from worldmodel.models.gru import GRUOptions
from worldmodel.models.koopman import KoopmanOptions
from worldmodel.models.mlp import MLPOptions
from worldmodel.models.rssm import RSSMOptions
from worldmodel.nn.learner import split_module

SMALL = {"units": 16, "latent_dim": 8, "depth": 2}
FAMILIES = {
    "koopman": KoopmanOptions(**SMALL),
    "koopman blocks": KoopmanOptions(**SMALL, spectrum="blocks", bilinear=True),
    "gru": GRUOptions(**SMALL),
    "mlp": MLPOptions(**SMALL),
    "mlp with linear_skip": MLPOptions(**SMALL, linear_skip=True),
}
SPEC = DataSpec(
    {"observation": ObservationSpec((3,), "float32")}, ActionSpec(False, 2, (-1.0,) * 2, (1.0,) * 2)
)
KEY = jax.random.key(7)  # these families are deterministic


@pytest.fixture(params=FAMILIES)
def options(request: pytest.FixtureRequest) -> EncodedOptions:
    return FAMILIES[request.param]


def build(options: EncodedOptions) -> Any:
    """A model in which no layer is zero."""
    model: Any = models.build(options, SPEC, jax.random.key(0))
    layers = (getattr(model, "turn", None), getattr(model, "path", None), model.reward_head.output)
    for layer in layers:
        if layer is not None:
            noise = np.random.default_rng(1).normal(size=layer.kernel.shape)
            layer.kernel[...] = jnp.asarray(0.1 * noise, jnp.float32)
    return model


def random_window(rng: np.random.Generator, batch: int, steps: int) -> Window:
    no = np.zeros((batch, steps), bool)
    return Window(
        observation={"observation": rng.normal(size=(batch, steps, 3)).astype(np.float32)},
        action=rng.uniform(-1, 1, (batch, steps, 2)).astype(np.float32),
        reward=rng.normal(size=(batch, steps)).astype(np.float32),
        is_first=no | (np.arange(steps) == 0), is_last=no, is_terminal=no, mask=~no,
    )  # fmt: skip


def equal(a: object, b: object, atol: float = 1e-5) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def timesteps(tree: object, steps: slice | int) -> object:
    return jax.tree.map(lambda x: np.asarray(x)[:, steps], tree)


@pytest.mark.parametrize("preset", ENCODED_PRESETS)
def test_presets_have_the_same_size_in_every_family(preset: str, walker_spec: DataSpec) -> None:
    def count(options: ModelOptions) -> int:
        shapes = jax.eval_shape(
            lambda key: split_module(models.build(options, walker_spec, key))[1], KEY
        )
        return sum(x.size for x in jax.tree.leaves(shapes))

    counts = [count(kind(preset=preset)) for kind in (KoopmanOptions, GRUOptions, MLPOptions)]
    assert max(counts) < 1.05 * min(counts)
    if preset != "tiny":
        assert counts[0] == pytest.approx(count(RSSMOptions(preset=preset)), rel=0.05)


# ------------------------------------------------------------------------------- filter and rollout


def test_the_filter_corrects_the_step_by_the_gain(
    options: EncodedOptions, rng: np.random.Generator
) -> None:
    """In parallel or step by step, with a reset inside the window."""
    model = build(options)
    gain = rng.normal(size=8).astype(np.float32)
    model.gain[...] = jnp.asarray(gain)
    window = random_window(rng, 4, 6)
    window.is_first[1, 3] = True
    encoded = np.asarray(jax.jit(model.encode)(window.observation))
    states, step = jax.device_get(jax.jit(model.observe)(window, KEY)), jax.jit(model.step)
    equal(states.latent[:, 0], encoded[:, 0])
    for t in range(1, 6):
        predicted = step(timesteps(states, t - 1), window.action[:, t - 1], KEY).latent
        corrected = predicted + (encoded[:, t] - predicted) / (1 + np.exp(-gain))
        equal(states.latent[:, t], np.where(window.is_first[:, t, None], encoded[:, t], corrected))


def test_actions_beyond_the_range_are_scaled_back() -> None:
    model = build(FAMILIES["gru"])
    start, step = model.initial((1,)), jax.jit(model.step)
    at_bound = step(start, np.ones((1, 2)), KEY)
    equal(at_bound, step(start, np.full((1, 2), 7.0), KEY))
    assert np.abs(at_bound.latent).max() > 1e-4


# ------------------------------------------------------------------------------------- re-encoding


def test_latents_are_reencoded_every_k_steps(rng: np.random.Generator) -> None:
    """A latent of that age becomes the encoding of the decoded means; a younger one is kept."""
    plain, reencoding = build(GRUOptions(**SMALL)), build(GRUOptions(**SMALL, reencode_every=2))
    latent = rng.normal(size=(2, 8)).astype(np.float32)
    actions = rng.uniform(-1, 1, (2, 3, 2)).astype(np.float32)

    @jax.jit
    def moved_and_encoded(state: EncodedState, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = plain.step(state, action, KEY)
        means = {key: p.mean() for key, p in plain.observation(moved).items()}
        return moved.latent, plain.encode(means)

    start, step = EncodedState(latent, np.array([0, 1], np.int32)), jax.jit(reencoding.step)
    moved, encoded = jax.device_get(moved_and_encoded(start, actions[:, 0]))
    state = step(start, actions[:, 0], KEY)
    assert state.age.tolist() == [1, 0]
    equal(state.latent, np.stack([moved[0], encoded[1]]))
    assert np.abs(moved - encoded).max(1).min() > 1e-3
    rollout = jax.jit(reencoding.rollout)(start, actions, KEY)
    for t in range(3):
        equal(timesteps(rollout, t), state)
        state = step(state, actions[:, min(t + 1, 2)], KEY)


# -------------------------------------------------------------------------------------------- loss


@pytest.fixture(scope="module")
def losses() -> Callable[[Window, float], tuple]:
    """(window, filtered_scale) -> the loss and the metrics of a model, compiled once."""
    graphdef, params = split_module(build(MLPOptions(**SMALL, burn_in=2)))

    @jax.jit
    def loss(window: Window, filtered_scale: float) -> tuple:
        model = nnx.merge(graphdef, params)
        model.options = MLPOptions(**SMALL, burn_in=2, filtered_scale=filtered_scale)
        total, (metrics, _) = model.loss(window, KEY)
        return total, metrics

    return lambda *inputs: jax.device_get(loss(*inputs))


def test_the_rollout_does_not_depend_on_observations_after_the_burn_in(
    losses: Callable, rng: np.random.Generator
) -> None:
    """They change what the rollout is compared with, not the rollout."""
    window = random_window(rng, 4, 8)

    def of_reward(*steps: int) -> tuple[float, float]:
        """The losses of the reward from predicted and from filtered latents, with other
        observations at these steps.
        """
        observation = window.observation["observation"].copy()
        observation[:, list(steps)] += 1
        _, metrics = losses(replace(window, observation={"observation": observation}), 1.0)
        return metrics["loss/rollout/reward"], metrics["loss/reward"]

    (predicted, filtered), after, before = of_reward(), of_reward(3, 4, 5, 6, 7), of_reward(2)
    assert after[0] == predicted and after[1] != filtered
    assert before[0] != predicted


def test_consistency_does_not_depend_on_the_scale_of_the_latent(rng: np.random.Generator) -> None:
    latents, error = rng.normal(size=(2, 3, 50, 4)).astype(np.float32)
    distance, mask = jax.jit(relative_distance), np.ones((3, 50), bool)
    small, large = (
        float(distance(s * (latents + error), s * latents, mask).mean())
        for s in np.float32([0.1, 10.0])
    )
    assert small == pytest.approx(large, rel=1e-4) and small == pytest.approx(1.0, rel=0.2)


def test_the_rank_is_the_number_of_directions_with_variance(rng: np.random.Generator) -> None:
    mask = np.arange(4000)[None] < 3000
    wide = rng.normal(size=(1, 4000, 3)) @ np.eye(3, 6) + 5.0
    line = rng.normal(size=(1, 4000, 1)) @ np.ones((1, 6))
    line[:, 3000:] = rng.normal(size=(1, 1000, 6))  # padding is excluded
    metrics = jax.jit(latent_metrics)
    wide, line = (float(metrics(x, mask)["latent/rank"]) for x in (wide, line))
    assert wide == pytest.approx(3, rel=0.02) and line == pytest.approx(1, rel=1e-4)


def test_the_linear_skip_is_initially_zero_and_is_added() -> None:
    plain = models.build(MLPOptions(**SMALL), SPEC, KEY)
    model: Any = models.build(MLPOptions(**SMALL, linear_skip=True), SPEC, KEY)
    rng = np.random.default_rng(0)
    latent, actions, a, b, c = (
        rng.normal(size=shape).astype(np.float32) for shape in ((4, 8), (4, 2), (8, 8), (2, 8), 8)
    )
    actions = np.tanh(actions)
    state = EncodedState(latent, np.zeros(4, np.int32))
    before = jax.jit(plain.step)(state, actions, KEY).latent
    equal(jax.jit(model.step)(state, actions, KEY).latent, before)
    model.path.kernel[...], model.path.bias[...] = jnp.concatenate([a, b]), jnp.asarray(c)
    equal(jax.jit(model.step)(state, actions, KEY).latent, before + latent @ a + actions @ b + c)


def test_filtered_scale_weights_the_losses_of_filtered_latents(
    losses: Callable, rng: np.random.Generator
) -> None:
    window = random_window(rng, 4, 8)
    (without, _), (total, metrics) = losses(window, 0.0), losses(window, 1.0)
    filtered = metrics["loss/observation"] + metrics["loss/reward"] + metrics["loss/terminal"]
    np.testing.assert_allclose(total - without, filtered, rtol=1e-5)


def test_a_filter_with_zero_gain_only_predicts(rng: np.random.Generator) -> None:
    model = models.build(MLPOptions(**SMALL, gain=-100.0), SPEC, KEY)
    window = random_window(rng, 4, 6)
    states = jax.jit(model.observe)(window, KEY)
    rollout = jax.jit(model.rollout)(timesteps(states, 0), window.action[:, :-1], KEY)
    equal(rollout.latent, states.latent[:, 1:])
