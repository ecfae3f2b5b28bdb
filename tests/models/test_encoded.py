"""The families whose latent an encoder reads: alike in filter, sizes and interface, apart in their
step.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import models
from worldmodel.config import (
    EncodedOptions,
    GRUOptions,
    KoopmanOptions,
    MLPOptions,
)
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.learner import divide
from worldmodel.models.koopman import phi

OPTIONS = {"koopman": KoopmanOptions(), "gru": GRUOptions(), "mlp": MLPOptions()}
KOOPMANS = [
    KoopmanOptions(spectrum=s, jordan=j) for s in ("damped", "fixed", "unit") for j in (0, 3)
]
EVERY = [*OPTIONS.values(), *KOOPMANS]
SPEC = DataSpec(
    {"observation": ObservationSpec((3,), "float32")}, ActionSpec(False, 2, (-1.0,) * 2, (1.0,) * 2)
)
KEY = jax.random.key(0)


def window(rng: np.random.Generator, batch: int = 4, rows: int = 8) -> Window:
    no = jnp.zeros((batch, rows), bool)
    return Window(
        observation={"observation": jnp.asarray(rng.normal(size=(batch, rows, 3)), jnp.float32)},
        action=jnp.asarray(rng.uniform(-1, 1, (batch, rows, 2)), jnp.float32),
        reward=jnp.asarray(rng.normal(size=(batch, rows)), jnp.float32),
        is_first=no.at[:, 0].set(True), is_last=no, is_terminal=no, mask=~no,
    )  # fmt: skip


def parameters(options: EncodedOptions, spec: DataSpec) -> int:
    shapes = jax.eval_shape(lambda key: divide(models.build(options, spec, key))[1], KEY)
    return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize("preset", ["tiny", "1m"])
def test_one_preset_means_one_number_of_parameters(preset: str, walker_spec: DataSpec) -> None:
    counts = [parameters(replace(o, preset=preset), walker_spec) for o in OPTIONS.values()]
    assert max(counts) < 1.05 * min(counts)


@pytest.mark.parametrize("options", EVERY, ids=repr)
def test_a_rollout_is_the_repeated_step(options: EncodedOptions, rng: np.random.Generator) -> None:
    model = models.build(options, SPEC, KEY)
    state = jnp.asarray(rng.normal(size=(4, model.feature_size)), jnp.float32) / 4
    actions = jnp.asarray(rng.uniform(-1, 1, (4, 20, 2)), jnp.float32)
    together = model.rollout(state, actions, KEY)
    for t in range(20):
        state = model.step(state, actions[:, t], KEY)
        scale = float(jnp.abs(state).max())
        np.testing.assert_allclose(together[:, t], state, atol=2e-5 * scale)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_filtering_in_two_pieces_equals_one_pass(
    options: EncodedOptions, rng: np.random.Generator
) -> None:
    model, whole = models.build(options, SPEC, KEY), window(rng)
    states = model.observe(whole, KEY)
    first, rest = (jax.tree.map(lambda x, s=s: x[:, s], whole) for s in (slice(0, 5), slice(5, 8)))
    start = model.observe(first, KEY)[:, -1]
    later = model.observe(rest, KEY, start, first.action[:, -1])
    np.testing.assert_allclose(later, states[:, 5:], atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_reset_forgets_state_and_action(
    options: EncodedOptions, rng: np.random.Generator
) -> None:
    model, seen = models.build(options, SPEC, KEY), window(rng)
    fresh = model.observe(seen, KEY)
    carried = jnp.ones((4, model.feature_size)) * 0.7
    again = model.observe(seen, KEY, carried, jnp.ones((4, 2)))
    np.testing.assert_allclose(again, fresh, atol=1e-6)
    inside = replace(seen, is_first=seen.is_first.at[:, 4].set(True))
    other = replace(inside, action=inside.action.at[:, :4].set(0.0))
    after, expected = model.observe(inside, KEY), model.observe(other, KEY)
    np.testing.assert_allclose(after[:, 4:], expected[:, 4:], atol=1e-6)
    assert float(jnp.abs(after[:, 3] - expected[:, 3]).max()) > 1e-4


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_parameter_learns_and_padding_does_not_matter(
    options: EncodedOptions, rng: np.random.Generator
) -> None:
    definition, params = divide(models.build(options, SPEC, KEY))
    # An untrained head, all zeros, would pass no gradient on.
    params["reward_head"]["output"]["kernel"] += 0.01

    @jax.jit
    def gradient(params: dict, batch: Window) -> tuple:
        def loss(params: dict) -> tuple:
            total, (metrics, states) = nnx.merge(definition, params).loss(batch, KEY)
            return total, metrics

        return jax.value_and_grad(loss, has_aux=True)(params)

    batch = window(rng)
    batch = replace(batch, mask=batch.mask.at[:, 6:].set(False))
    (total, metrics), gradients = gradient(params, batch)
    assert {"loss/rollout/observation", "loss/consistency", "loss/rollout/reward"} <= metrics.keys()
    dead = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(gradients)
        if not (bool(jnp.isfinite(g).all()) and bool(jnp.any(g != 0)))
    ]
    assert not dead
    noise = {"observation": batch.observation["observation"].at[:, 6:].set(99.0)}
    other = replace(batch, observation=noise, reward=batch.reward.at[:, 6:].set(1e6))
    assert float(gradient(params, other)[0][0]) == float(total)


@pytest.mark.parametrize("spectrum", ["damped", "fixed", "unit"])
def test_no_eigenvalue_leaves_the_unit_disc(spectrum: str, rng: np.random.Generator) -> None:
    """Whatever the parameters become: also far beyond what training makes of them."""
    model = models.build(KoopmanOptions(spectrum=spectrum), SPEC, KEY)
    for name in ("log_step", "frequency", "damping"):
        if hasattr(model, name):
            parameter = getattr(model, name)
            parameter[...] = jnp.asarray(rng.normal(size=parameter.shape) * 5, jnp.float32)
    log_size, _ = model.log_multipliers()
    assert bool((log_size <= 0).all())
    if spectrum == "unit":
        assert bool((log_size == 0).all())


def test_free_motion_needs_a_block() -> None:
    """With one, a velocity moves a position for ever, exactly; a damped diagonal must lose it."""

    def travelled(options: KoopmanOptions) -> float:
        model = models.build(options, SPEC, KEY)
        last = model.feature_size // 2 - 1
        state = jnp.zeros((1, model.feature_size)).at[0, -1].set(1.0)  # a velocity, no position
        control = model.control
        control.kernel[...] = jnp.zeros_like(control.kernel[...])
        states = model.rollout(state, jnp.zeros((1, 100, 2)), KEY)
        per_step = float(jnp.exp(model.log_step[last]))
        return float(states[0, -1, last]) / (100 * per_step)

    assert travelled(KoopmanOptions(spectrum="unit", jordan=1)) == pytest.approx(1.0, rel=1e-5)
    assert abs(travelled(KoopmanOptions(spectrum="damped", jordan=0))) < 0.9


def test_phi_is_exact_and_smooth_at_zero() -> None:
    z = np.array([0, 1e-9, 1e-5j, -1e-3 + 1e-3j, -0.5 + 2j, -3 + 0j], np.complex128)
    found = phi(jnp.asarray(z.real, jnp.float32), jnp.asarray(z.imag, jnp.float32))
    expected = np.where(z == 0, 1, np.expm1(z) / np.where(z == 0, 1, z))
    np.testing.assert_allclose(found.re, expected.real, rtol=1e-5)
    np.testing.assert_allclose(found.im, expected.imag, rtol=1e-4, atol=1e-7)
    gradient = jax.grad(lambda re, im: phi(re, im).re + phi(re, im).im, (0, 1))(0.0, 0.0)
    assert np.isfinite(gradient).all()
