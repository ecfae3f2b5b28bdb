"""Koopman models: stability of the spectra, exact learning of affine systems, and free motion."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import models
from worldmodel.config import Config, NoPolicy, StageOptions, TrainingOptions
from worldmodel.data.loader import DeviceLoader
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import ConfigError
from worldmodel.models.koopman import RATE, SPECTRA, Koopman, KoopmanOptions, Spectrum
from worldmodel.nn.learner import split_module
from worldmodel.training import mesh as meshes
from worldmodel.training.dispatch import make_dispatch, stage_keys
from worldmodel.training.learners import trained_modules
from worldmodel.training.plan import plan_stages

ACTION = ActionSpec(False, 1, (-1.0,), (1.0,))
RAW = DataSpec({"x": ObservationSpec((2,), "float32")}, ACTION)  # normalized by symlog
KEY = jax.random.key(0)

# ---------------------------------------------------------------------------------------- spectra


def random_spectrum(kind: str, seed: int, size: float, modes: int = 16) -> Spectrum:
    rng = np.random.default_rng(seed)
    graphdef, params = split_module(SPECTRA[kind](modes))
    moved = jax.tree.map(
        lambda x: np.float32(x) + size * rng.normal(size=x.shape).astype(np.float32), params
    )
    return nnx.merge(graphdef, moved)


step_of = nnx.jit(lambda spectrum, turn: spectrum.step(turn)[0])


def matrices(spectrum: Spectrum, turn: np.ndarray | float = 0.0) -> np.ndarray:
    """A of every pair, (..., 2, 2), in double precision."""
    a, b, c, d = (np.asarray(entry, np.float64) for entry in step_of(spectrum, turn))
    return np.stack([np.stack([a, b], -1), np.stack([c, d], -1)], -2)


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("size", [0.0, 1.0, 10.0])
def test_eigenvalues_stay_in_the_unit_disc(kind: str, size: float) -> None:
    """For all parameters and all changes of the speed of rotation."""
    for seed in range(5):
        spectrum = random_spectrum(kind, seed, size)
        turn = size * np.random.default_rng(seed).normal(size=(8, 16)).astype(np.float32)
        turn[0] = 0
        block = matrices(spectrum, turn)
        largest = np.abs(np.linalg.eigvals(block)).max(-1)
        assert np.isfinite(block).all() and (largest <= 1 + 1e-6).all()
        if kind == "unit":
            assert (largest >= 1 - 1e-6).all()
        if kind != "blocks":
            assert (np.linalg.norm(block, 2, (-2, -1)) <= 1 + 1e-6).all()


def test_powers_of_blocks_grow_at_most_linearly() -> None:
    """norm(A^k) <= 1 + k max(p^2, q^2) of a step."""
    for seed in range(5):
        spectrum = random_spectrum("blocks", seed, 0.3)
        length = float(np.exp(spectrum.log_step[...])) * spectrum.modes
        _, _, upper, lower = (np.asarray(x) for x in spectrum.generator(0.0))
        block = matrices(spectrum)
        for k in (1, 10, 100, 1000):
            norms = np.linalg.norm(np.linalg.matrix_power(block, k), 2, (-2, -1))
            assert (norms <= 1.001 * (1 + k * length * np.maximum(upper, lower))).all()


def test_blocks_represent_free_motion_exactly() -> None:
    """[[1, step], [0, 1]] at q = v = 0; the other kinds have normal matrices only."""
    blocks = SPECTRA["blocks"](3)
    blocks.side[...], blocks.damping[...] = jnp.zeros(3), jnp.zeros(3)
    actual = matrices(blocks)
    np.testing.assert_array_equal(actual[:, 0, 0], 1)
    np.testing.assert_array_equal(actual[:, 1], np.tile([0, 1], (3, 1)))
    assert (actual[:, 0, 1] > 0.1).all()
    for kind in ("damped", "fixed", "unit"):
        other = matrices(random_spectrum(kind, 0, 1.0))
        np.testing.assert_allclose(other @ other.swapaxes(1, 2), other.swapaxes(1, 2) @ other)


@pytest.mark.parametrize("kind", ["damped", "fixed", "unit"])
@pytest.mark.parametrize("modes", [4, 512])
def test_initial_frequencies_do_not_alias(kind: str, modes: int) -> None:
    """omega_j = j pi with steps of 1 / m: distinct angles from 0 to below half a turn."""
    block = matrices(SPECTRA[kind](modes))
    angle = np.arctan2(block[:, 0, 1], block[:, 0, 0])
    np.testing.assert_allclose(angle, np.pi * np.arange(modes) / modes, atol=1e-5)
    size = np.sqrt(np.linalg.det(block))
    np.testing.assert_allclose(size, 1 if kind == "unit" else np.exp(RATE / modes), rtol=1e-5)


# -------------------------------------------------------------------------------------- the model


def test_without_actions_latents_are_powers_of_the_eigenvalues() -> None:
    model: Any = models.build(KoopmanOptions(units=8, latent_dim=8), RAW, KEY)
    model.push.kernel[...] = jnp.zeros_like(model.push.kernel[...])
    state = model.initial((1,))._replace(latent=jnp.ones((1, 8)))
    latent = jax.jit(model.rollout)(state, np.zeros((1, 100, 1)), KEY).latent[0, -1]
    re, im = (np.asarray(x, np.float64) for x in jax.jit(model.eigenvalues)())
    expected = (1 + 1j) * (re - 1j * im) ** 100  # pairs rotate from the second number to the first
    np.testing.assert_allclose(latent, np.concatenate([expected.real, expected.imag]), atol=1e-5)


def test_bilinear_actions_rotate_the_latent() -> None:
    options = KoopmanOptions(units=8, latent_dim=8, spectrum="unit", bilinear=True)
    model: Any = models.build(options, RAW, KEY)
    model.push.kernel[...] = jnp.zeros_like(model.push.kernel[...])
    model.turn.kernel[...] = jnp.ones_like(model.turn.kernel[...])
    start = np.tile(np.arange(1.0, 9.0, dtype=np.float32), (2, 1))
    state = model.initial((2,))._replace(latent=start)
    moved = np.asarray(jax.jit(model.step)(state, np.array([[0.2], [0.9]]), KEY).latent)
    sizes = np.hypot(*np.split(moved, 2, -1))
    np.testing.assert_allclose(sizes, np.hypot(*np.split(start, 2, -1)), rtol=1e-5)
    assert np.abs(moved[0] - moved[1]).min() > 1e-4


@pytest.mark.parametrize("kind", SPECTRA)
def test_eigenvalues_are_those_of_a_step_for_action_zero(kind: str) -> None:
    """Including the bias of the layer of the rotation."""
    options = KoopmanOptions(units=8, latent_dim=8, spectrum=kind, bilinear=True)
    model: Any = models.build(options, RAW, KEY)
    model.turn.bias[...] = jnp.asarray([0.3, -0.1, 0.2, 0.0])

    @jax.jit
    def both(x: jax.Array) -> tuple:
        step = jax.jacobian(lambda x: model.advance(x, model.control(jnp.zeros(1))))
        return step(x), model.eigenvalues()

    jacobian, (re, im) = jax.device_get(both(np.zeros(8, np.float32)))
    assert (im >= 0).all()
    actual = np.sort_complex(np.concatenate([re + 1j * im, re - 1j * im]))
    expected = np.sort_complex(np.linalg.eigvals(np.asarray(jacobian, np.float64)))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("bilinear", [False, True])
def test_effects_of_actions_depend_on_the_state_only_if_bilinear(bilinear: bool) -> None:
    model: Any = models.build(KoopmanOptions(units=8, latent_dim=8, bilinear=bilinear), RAW, KEY)
    if bilinear:
        model.turn.kernel[...] = jnp.ones_like(model.turn.kernel[...])

    @jax.jit
    def effect(latent: float) -> jax.Array:
        x, action = jnp.full((1, 8), latent), jnp.ones((1, 1))
        return model.advance(x, model.control(action)) - model.advance(x, model.control(-action))

    apart = float(np.abs(effect(0.0) - effect(5.0)).max())
    assert (apart > 1e-2) == bilinear


def test_linear_codecs_extrapolate() -> None:
    """A start a hundred times farther away ends a hundred times farther away."""
    statistics = ((1.0, 2.0), (2.0, 3.0), (-3.0, -4.0), (5.0, 8.0))
    observed = ObservationSpec((2,), "float32", *statistics, normalization="standardize")
    model: Any = models.build(
        KoopmanOptions(linear=True, units=8, latent_dim=4), DataSpec({"x": observed}, ACTION), KEY
    )

    @jax.jit
    def end(x: np.ndarray) -> jax.Array:
        state = model.initial((1,))._replace(latent=model.encode({"x": x[None]}))
        states = model.rollout(state, jnp.ones((1, 50, 1)), KEY)
        return model.observation(states)["x"].mean()[0, -1]

    x, zero = np.float32([0.3, -0.7]), np.zeros(2, np.float32)
    near, far = (np.asarray(end(c * x) - end(zero)) for c in (1, 100))
    np.testing.assert_allclose(far, 100 * near, atol=1e-3)
    assert np.abs(far).min() > 0.05


def test_unsupported_observations_and_sizes_are_refused(image_spec: DataSpec) -> None:
    options = KoopmanOptions(linear=True)
    with pytest.raises(ConfigError, match="requires vectors, and image are images"):
        models.build(options, image_spec, KEY)
    with pytest.raises(ConfigError, match="symlog.*data.normalize"):
        models.build(options, RAW, KEY)
    with pytest.raises(ConfigError, match="latent_dim=7: accepted: even"):
        models.build(KoopmanOptions(latent_dim=7), RAW, KEY)


# ------------------------------------------------------------------------------- affine systems


class Affine(NamedTuple):
    """x' = A x + B u + c, from normal starts with standard deviation `start`."""

    A: np.ndarray
    B: np.ndarray
    c: np.ndarray
    start: np.ndarray


def oscillators() -> Affine:
    """Two damped oscillators in a random basis, with an offset."""
    rng, diagonal = np.random.default_rng(3), np.zeros((4, 4))
    for at, size, angle in ((0, 0.99, 0.3), (2, 0.97, 1.2)):
        c, s = np.cos(angle), np.sin(angle)
        diagonal[at : at + 2, at : at + 2] = size * np.array([[c, -s], [s, c]])
    mixture = rng.normal(size=(4, 4))
    A = mixture @ diagonal @ np.linalg.inv(mixture)
    return Affine(A, mixture @ rng.normal(size=4), mixture @ [0.1, 0.2, -0.1, 0.3], np.ones(4))


def double_integrator() -> Affine:
    """Position and velocity of a mass under a control and a weak constant force."""
    dt, force = 0.1, -0.01
    push = np.array([dt**2 / 2, dt])
    return Affine(np.array([[1, dt], [0, 1]]), push, force * push, np.array([1, 0.3]))


def dataset_of(system: Affine, episodes: int, seed: int, steps: int = 60) -> Trajectories:
    rng, size = np.random.default_rng(seed), len(system.start)
    x, u = np.zeros((episodes, steps + 1, size)), rng.uniform(-1, 1, (episodes, steps + 1))
    x[:, 0] = rng.normal(size=(episodes, size)) * system.start
    for t in range(steps):
        x[:, t + 1] = x[:, t] @ system.A.T + u[:, t, None] * system.B + system.c
    u[:, -1] = 0
    return Trajectories(
        observations={"x": x.reshape(-1, size).astype(np.float32)},
        actions=u.reshape(-1, 1).astype(np.float32),
        rewards=None,
        lengths=np.full(episodes, steps + 1),
        terminated=np.zeros(episodes, bool),
        action_spec=ACTION,
        source="an affine system",
    )


def trained(system: Affine, spectrum: str, steps: int, learning_rate: float) -> tuple:
    """A linear model, and its relative error at 50 steps on held-out episodes."""
    training, held_out = dataset_of(system, 200, 0), dataset_of(system, 20, 1)
    spec = training.spec({"x": "standardize"})
    stage = StageOptions(
        steps=steps,
        batch_size=32,
        window=51,
        learning_rate=learning_rate,
        warmup_steps=50,
        lr_decay_fraction=0.9,
    )
    config = Config(
        data=GymnasiumData(),
        model=KoopmanOptions(linear=True, spectrum=spectrum, latent_dim=4, units=8, burn_in=0),
        policy=NoPolicy(),
        training=TrainingOptions(world_model=stage),
    )
    learner = plan_stages(config, spec)["world_model"].build_learner()
    batches, keys = DeviceLoader.build(training, 32, 51, 0), stage_keys(0, "world_model")
    dispatch = make_dispatch(learner, batches, meshes.all_devices(), steps)
    state, _ = dispatch(learner.init(keys.init), batches.arrays(), batches.feed(0, 1), keys.steps)
    model = trained_modules(learner, state)["model"]
    return model, error_at_50(model, held_out, np.asarray(spec.observations["x"].std))


def error_at_50(model: Koopman, held_out: Trajectories, std: np.ndarray) -> float:
    x = held_out.observations["x"].reshape(held_out.num_episodes, -1, len(std))
    u = jnp.asarray(held_out.actions.reshape(len(x), -1, 1)[:, :50])
    start = model.initial((len(x),))._replace(latent=model.encode({"x": jnp.asarray(x[:, 0])}))
    predicted = model.observation(model.rollout(start, u, KEY))["x"].mean()[:, -1]
    error, signal = (predicted - x[:, 50]) / std, (x[:, 50] - x[:, 50].mean(0)) / std
    share = float(np.sqrt(np.square(error).mean() / np.square(signal).mean()))
    print(f"error at 50 steps: {share:.1e} of the signal")
    return share


@pytest.mark.slow
def test_an_affine_system_and_its_eigenvalues_are_learned() -> None:
    system = oscillators()
    model, share = trained(system, "damped", 2000, 1e-2)
    assert share < 1e-4
    re, im = (np.asarray(x) for x in model.eigenvalues())
    true = np.linalg.eigvals(system.A)
    true = np.sort_complex(true[true.imag > 0])
    np.testing.assert_allclose(np.sort_complex(re + 1j * im), true, atol=1e-2)


@pytest.mark.slow
def test_only_blocks_learn_free_motion() -> None:
    system = double_integrator()
    assert trained(system, "blocks", 3000, 2e-2)[1] < 1e-4
    for spectrum in ("damped", "unit", "fixed"):
        assert trained(system, spectrum, 3000, 2e-2)[1] > 1e-2
