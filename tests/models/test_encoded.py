"""What the families with an encoder share: filter, rollouts, sizes and re-encoding."""

from __future__ import annotations

from dataclasses import replace

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


def build(options: EncodedOptions) -> models.WorldModel:
    """A model in which no layer is zero."""
    model = models.build(options, SPEC, jax.random.key(0))
    layers = (getattr(model, "turn", None), getattr(model, "path", None), model.reward_head.output)
    for layer in layers:
        if layer is not None:
            shape = layer.kernel[...].shape
            layer.kernel[...] = 0.1 * jax.random.normal(jax.random.key(1), shape)
    return model


def random_window(rng: np.random.Generator, batch: int, steps: int) -> Window:
    no = jnp.zeros((batch, steps), bool)
    return Window(
        observation={"observation": jnp.asarray(rng.normal(size=(batch, steps, 3)), jnp.float32)},
        action=jnp.asarray(rng.uniform(-1, 1, (batch, steps, 2)), jnp.float32),
        reward=jnp.asarray(rng.normal(size=(batch, steps)), jnp.float32),
        is_first=no.at[:, 0].set(True), is_last=no, is_terminal=no, mask=~no,
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


@pytest.mark.parametrize("every", [0, 3])
def test_a_rollout_equals_repeated_steps(
    options: EncodedOptions, every: int, rng: np.random.Generator
) -> None:
    model = build(replace(options, reencode_every=every))
    state = timesteps(jax.jit(model.observe)(random_window(rng, 4, 3), KEY), -1)
    actions = jnp.asarray(rng.uniform(-2, 2, (4, 8, 2)), jnp.float32)
    together = jax.jit(model.rollout)(state, actions, KEY)
    step = jax.jit(model.step)
    for t in range(8):
        state = step(state, actions[:, t], KEY)
        equal(timesteps(together, t), state)


def test_the_filter_corrects_the_step_by_the_gain(
    options: EncodedOptions, rng: np.random.Generator
) -> None:
    """In parallel or step by step, with a reset inside the window."""
    model = build(options)
    model.gain[...] = jnp.asarray(rng.normal(size=8), jnp.float32)
    window = random_window(rng, 4, 6)
    window = replace(window, is_first=window.is_first.at[1, 3].set(True))
    seen = np.asarray(jax.jit(model.encode)(window.observation))
    gain = np.asarray(jax.nn.sigmoid(model.gain[...]))
    states, step = jax.device_get(jax.jit(model.observe)(window, KEY)), jax.jit(model.step)
    equal(states.latent[:, 0], seen[:, 0])
    for t in range(1, 6):
        predicted = step(timesteps(states, t - 1), timesteps(window.action, t - 1), KEY).latent
        corrected = predicted + gain * (seen[:, t] - predicted)
        first = np.asarray(window.is_first)[:, t, None]
        equal(states.latent[:, t], np.where(first, seen[:, t], corrected))


def test_filtering_in_pieces_equals_filtering_at_once(
    options: EncodedOptions, rng: np.random.Generator
) -> None:
    model, window = build(options), random_window(rng, 4, 8)
    whole = jax.jit(model.observe)(window, KEY)
    first, second = timesteps(window, slice(0, 5)), timesteps(window, slice(5, 8))
    last = timesteps(jax.jit(model.observe)(first, KEY), -1)
    equal(
        timesteps(whole, slice(5, 8)),
        jax.jit(model.observe)(second, KEY, last, first.action[:, -1]),
    )


def test_actions_beyond_the_range_are_scaled_back(options: EncodedOptions) -> None:
    model = build(options)
    start = model.initial((1,))
    at_bound = jax.jit(model.step)(start, jnp.ones((1, 2)), KEY)
    equal(at_bound, jax.jit(model.step)(start, jnp.full((1, 2), 7.0), KEY))
    assert float(jnp.abs(at_bound.latent).max()) > 1e-4


# ------------------------------------------------------------------------------------- re-encoding


def test_latents_are_reencoded_every_k_steps() -> None:
    """After k steps, the latent is the encoding of the decoded means; before, it is not."""
    plain, reencoding = build(GRUOptions(**SMALL)), build(GRUOptions(**SMALL, reencode_every=2))
    action = jnp.ones((3, 2))
    once = jax.jit(reencoding.step)(plain.initial((3,)), action, KEY)
    equal(once, jax.jit(plain.step)(plain.initial((3,)), action, KEY))
    twice = jax.jit(plain.step)(once, action, KEY)
    means = {key: p.mean() for key, p in plain.observation(twice).items()}
    equal(jax.jit(reencoding.step)(once, action, KEY).latent, jax.jit(plain.encode)(means))
    assert float(jnp.abs(twice.latent - jax.jit(plain.encode)(means)).max()) > 1e-3


def test_only_latents_of_that_age_are_reencoded() -> None:
    model = build(GRUOptions(**SMALL, reencode_every=2))
    latent, action = jnp.ones((2, 8)) * 0.3, jnp.ones((2, 2))
    moved = model.advance(latent, model.control(action))
    after = jax.jit(model.step)(EncodedState(latent, jnp.asarray([0, 1])), action, KEY)
    assert after.age.tolist() == [1, 0]
    equal(after.latent[0], moved[0])
    assert float(jnp.abs(after.latent[1] - moved[1]).max()) > 1e-3


# -------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize(  # test_conformance.py has the others
    "options", ["gru", "koopman blocks", "mlp with linear_skip"], indirect=True
)
def test_the_loss_is_finite_with_gradients_everywhere(
    options: EncodedOptions, rng: np.random.Generator
) -> None:
    model, window = build(options), random_window(rng, 4, 8)
    graphdef, params = split_module(model)

    @jax.jit
    def gradient(params: dict) -> tuple:
        def loss(params: dict) -> tuple:
            return nnx.merge(graphdef, params).loss(window, KEY)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (total, (metrics, states)), grads = gradient(params)
    equal(states, jax.jit(model.observe)(window, KEY))
    parts = {name for name in metrics if name.startswith("loss/") and name != "loss/total"}
    assert float(total) == pytest.approx(float(sum(metrics[name] for name in parts)), rel=1e-5)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert bool(jnp.isfinite(grad).all()) and bool(jnp.any(grad != 0)), path


def test_the_rollout_does_not_depend_on_observations_after_the_burn_in(
    rng: np.random.Generator,
) -> None:
    """They change what the rollout is compared with, not the rollout."""
    model, window = build(KoopmanOptions(**SMALL, burn_in=2)), random_window(rng, 4, 8)
    seen = window.observation["observation"]

    @jax.jit
    def losses(seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        other = replace(window, observation={"observation": seen})
        metrics = model.loss(other, KEY)[1][0]
        return metrics["loss/rollout/reward"], metrics["loss/reward"]

    predicted, filtered = losses(seen)
    after, before = losses(seen.at[:, 3:].add(1)), losses(seen.at[:, 2].add(1))
    assert float(after[0]) == float(predicted) and float(after[1]) != float(filtered)
    assert float(before[0]) != float(predicted)


def test_padding_does_not_change_the_loss(
    options: EncodedOptions, rng: np.random.Generator
) -> None:
    model, window = build(options), random_window(rng, 4, 6)
    window = replace(window, mask=window.mask.at[:, 4:].set(False))
    noise = {"observation": window.observation["observation"].at[:, 4:].set(99.0)}
    other = replace(window, observation=noise, reward=window.reward.at[:, 4:].set(1e6))
    loss = jax.jit(lambda window: model.loss(window, KEY)[0])
    assert float(loss(window)) == pytest.approx(float(loss(other)), rel=1e-6)


def test_consistency_does_not_depend_on_the_scale_of_the_latent(rng: np.random.Generator) -> None:
    latents, error = rng.normal(size=(2, 3, 50, 4))
    mask = jnp.ones((3, 50), bool)
    small, large = (
        float(
            relative_distance(
                jnp.asarray(s * (latents + error)), jnp.asarray(s * latents), mask
            ).mean()
        )
        for s in (0.1, 10.0)
    )
    assert small == pytest.approx(large, rel=1e-4) and small == pytest.approx(1.0, rel=0.2)


def test_the_rank_is_the_number_of_directions_with_variance(rng: np.random.Generator) -> None:
    mask = jnp.ones((1, 4000), bool).at[:, 3000:].set(False)
    wide = rng.normal(size=(1, 4000, 3)) @ np.eye(3, 6) + 5.0
    line = rng.normal(size=(1, 4000, 1)) @ np.ones((1, 6))
    line[:, 3000:] = rng.normal(size=(1, 1000, 6))  # padding is excluded
    wide, line = (float(latent_metrics(jnp.asarray(x), mask)["latent/rank"]) for x in (wide, line))
    assert wide == pytest.approx(3, rel=0.02) and line == pytest.approx(1, rel=1e-4)


def test_the_linear_skip_is_initially_zero_and_is_added() -> None:
    plain = models.build(MLPOptions(**SMALL), SPEC, KEY)
    model = models.build(MLPOptions(**SMALL, linear_skip=True), SPEC, KEY)
    latent, actions = jax.random.normal(KEY, (4, 8)), jax.random.uniform(KEY, (4, 2)) - 0.5
    state = EncodedState(latent, jnp.zeros(4, jnp.int32))
    before = jax.jit(plain.step)(state, actions, KEY).latent
    equal(jax.jit(model.step)(state, actions, KEY).latent, before)
    a, b, c = (
        jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(8, 8), (2, 8), (8,)])
    )
    model.path.kernel[...], model.path.bias[...] = jnp.concatenate([a, b]), c
    equal(jax.jit(model.step)(state, actions, KEY).latent, before + latent @ a + actions @ b + c)


def test_filtered_scale_weights_the_losses_of_filtered_latents(rng: np.random.Generator) -> None:
    window = random_window(rng, 3, 9)
    losses = {
        scale: jax.jit(models.build(MLPOptions(**SMALL, filtered_scale=scale), SPEC, KEY).loss)(
            window, KEY
        )
        for scale in (0.0, 1.0)
    }
    _, (metrics, _) = losses[1.0]
    filtered = metrics["loss/observation"] + metrics["loss/reward"] + metrics["loss/terminal"]
    np.testing.assert_allclose(losses[1.0][0] - losses[0.0][0], filtered, rtol=1e-5)


def test_a_filter_with_zero_gain_only_predicts(rng: np.random.Generator) -> None:
    model = models.build(MLPOptions(**SMALL, gain=-100.0), SPEC, KEY)
    window = random_window(rng, 3, 9)
    states = jax.jit(model.observe)(window, KEY)
    rollout = jax.jit(model.rollout)(timesteps(states, 0), window.action[:, :-1], KEY)
    equal(rollout.latent, states.latent[:, 1:])
