"""The denoiser and its samplers, on data with a known optimal denoiser."""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel.nn.denoising import (
    denoiser,
    denoising_loss,
    preconditioning,
    sample_training_sigmas,
)
from worldmodel.nn.samplers import Sampler, initial_noise, sample

KEY = jax.random.key(0)
MEAN, VARIANCE = np.float32([1.5, -0.5]), np.float32([0.6, 2.0])
HIGH = 20.0  # the highest level; 80 would only cost float32 precision
BAND = {"s_tmin": 0.05, "s_tmax": 15.0}
# Enough steps for a discretization error below 1 % of the variance.
SAMPLERS = {
    "euler": Sampler(512, "euler", sigma_max=HIGH),
    "heun": Sampler(64, "heun", sigma_max=HIGH),
    "euler-churn": Sampler(768, "euler", sigma_max=HIGH, s_churn=10.0, **BAND),
    "heun-churn": Sampler(160, "heun", sigma_max=HIGH, s_churn=40.0, **BAND),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def of_gaussian(x: jax.Array, level: jax.Array) -> jax.Array:
    """The exact denoiser of N(MEAN, VARIANCE)."""
    return MEAN + VARIANCE / (VARIANCE + level**2) * (x - MEAN)


def at_highest_level(count: int, high: float = HIGH) -> np.ndarray:
    """N(MEAN, VARIANCE) at the highest level, unlike N(0, high^2) without error."""
    noise = np.random.default_rng(1).normal(size=(count, 2))
    noise = (noise - noise.mean(0)) / noise.std(0)  # without sampling error
    return (MEAN + np.sqrt(VARIANCE + high**2) * noise).astype(np.float32)


# ------------------------------------------------------------------------------------ the denoiser


@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_inputs_and_targets_of_the_network_have_unit_variance(spread: float) -> None:
    x, e = np.random.default_rng(0).normal(size=(2, 40_000)) * [[spread], [1.0]]
    for level in (0.01, 0.3, 1.0, 20.0):
        c = jax.tree.map(float, preconditioning(jnp.float32(level), spread))
        noised = x + level * e
        assert np.std(c.c_in * noised) == pytest.approx(1.0, rel=0.02)
        assert np.std((x - c.c_skip * noised) / c.c_out) == pytest.approx(1.0, rel=0.02)
        assert c.c_noise == pytest.approx(math.log(level) / 4, abs=1e-6)


def test_the_loss_is_the_weighted_error_of_the_denoiser() -> None:
    def network(x: jax.Array, noise: jax.Array) -> jax.Array:
        return jnp.sin(2 * x) + noise[..., None]

    @jax.jit
    def loss_and_weighted_error(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        level = sample_training_sigmas(jax.random.key(2), (50,), -1.2, 1.2)
        noised = x + level[:, None] * jax.random.normal(KEY, x.shape)
        error = jnp.square(denoiser(network, 0.7)(noised, level) - x).sum(-1)
        weighted = preconditioning(level, 0.7).weight * error
        return denoising_loss(network, x, level, KEY, 0.7), weighted

    x = 0.7 * np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    np.testing.assert_allclose(*loss_and_weighted_error(x), rtol=1e-3)


def test_training_levels_are_log_normal() -> None:
    logs = np.log(sample_training_sigmas(KEY, (40_000,), -1.2, 0.8))
    assert float(logs.mean()) == pytest.approx(-1.2, abs=0.02)
    assert float(logs.std()) == pytest.approx(0.8, rel=0.02)


# -------------------------------------------------------------------------------------- the levels


def test_levels_decrease_as_published() -> None:
    levels = Sampler(18, sigma_min=0.002, sigma_max=80.0, rho=7.0).sigmas()
    assert levels[0] == pytest.approx(80.0) and levels[-1] == pytest.approx(0.002)
    assert (np.diff(levels) < 0).all()
    steps = np.diff(levels ** (1 / 7))
    np.testing.assert_allclose(steps, steps[0])
    assert Sampler(1).sigmas() == pytest.approx([80.0])


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"sigma_min": 0.0}, {"sigma_max": 0.001}, {"method": "x"}]
)
def test_invalid_samplers_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="needs|accepted"):
        Sampler(**{"steps": 4} | wrong)


# ------------------------------------------------------------------------------------ the samplers


@every_sampler
def test_a_gaussian_is_sampled_with_its_mean_and_variance(sampler: Sampler) -> None:
    draw = jax.jit(lambda x, key: sample(of_gaussian, x, sampler, key))
    samples = np.asarray(draw(at_highest_level(10_000), KEY))
    np.testing.assert_allclose(samples.mean(0), MEAN, atol=0.04)
    np.testing.assert_allclose(samples.var(0), VARIANCE, rtol=0.03)


def test_a_deterministic_path_keeps_quantiles() -> None:
    """Along the exact path, every point keeps its distance in standard deviations."""
    sampler = Sampler(200, "heun", sigma_max=5.0)
    x = at_highest_level(100, 5.0)
    actual = jax.jit(lambda x: sample(of_gaussian, x, sampler, KEY))(x)
    before_last = MEAN + (x - MEAN) * np.sqrt((VARIANCE + 0.002**2) / (VARIANCE + 5.0**2))
    np.testing.assert_allclose(actual, of_gaussian(before_last, 0.002), atol=2e-3)


@pytest.mark.parametrize(  # Euler's steps with churn are tested above
    "sampler",
    [
        pytest.param(sampler, id=name, marks=[pytest.mark.slow] * (name == "euler-churn"))
        for name, sampler in SAMPLERS.items()
    ],
)
def test_a_mixture_is_sampled_with_the_weights_of_its_modes(sampler: Sampler) -> None:
    share, place, variance = 0.3, 2.0, 0.09

    def denoise(x: jax.Array, level: jax.Array) -> jax.Array:
        """Exact, for share N(-place, variance) + (1 - share) N(place, variance)."""
        total = variance + jnp.square(level)
        odds = math.log(share / (1 - share)) - 2 * place * x / total
        mode = place * (1 - 2 * jax.nn.sigmoid(odds))  # the posterior mean of the modes
        return mode + variance / total * (x - mode)

    count, rng = 20_000, np.random.default_rng(0)
    modes = np.where(np.arange(count) < share * count, -place, place)[:, None]
    x = (modes + math.sqrt(variance + HIGH**2) * rng.normal(size=(count, 1))).astype(np.float32)
    samples = np.asarray(jax.jit(lambda x, key: sample(denoise, x, sampler, key))(x, KEY))
    left, right = samples[samples < 0], samples[samples > 0]
    assert len(left) / count == pytest.approx(share, abs=0.012)
    assert left.mean() == pytest.approx(-place, rel=0.02)
    assert right.mean() == pytest.approx(place, rel=0.02)
    assert left.var() == pytest.approx(variance, rel=0.04)
    assert right.var() == pytest.approx(variance, rel=0.04)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_churn_raises_point_and_level_together(method: str) -> None:
    """Compared with two explicit steps."""
    sampler = Sampler(2, method, sigma_min=1.0, sigma_max=4.0, rho=1.0, s_churn=0.4, s_noise=1.1)
    x = at_highest_level(5, 4.0)
    points, levels = [], (4.0, 1.0)
    for key, level in zip(jax.random.split(KEY, 2), levels, strict=True):
        raised = 1.2 * level
        noise = 1.1 * math.sqrt(raised**2 - level**2) * np.asarray(jax.random.normal(key, x.shape))
        point = x + noise
        slope = (point - of_gaussian(point, raised)) / raised
        points.append(point)
        if level == 4.0:
            x = point + (1.0 - raised) * slope
            if method == "heun":
                there = (x - of_gaussian(x, 1.0)) / 1.0
                x = point + (1.0 - raised) * (slope + there) / 2
        else:
            x = point - raised * slope
    assert np.abs(points[0] - at_highest_level(5, 4.0)).min() > 0  # noise was added
    draw = jax.jit(lambda x: sample(of_gaussian, x, sampler, KEY))
    actual = draw(at_highest_level(5, 4.0))
    np.testing.assert_allclose(actual, x, rtol=1e-5, atol=1e-5)


def test_churn_is_added_between_its_levels_and_is_bounded() -> None:
    def levels_of(sampler: Sampler) -> list[float]:
        levels: list[float] = []

        def denoise(x: jax.Array, level: jax.Array) -> jax.Array:
            jax.debug.callback(lambda level: levels.append(float(level)), level, ordered=True)
            return of_gaussian(x, level)

        jax.jit(lambda x: sample(denoise, x, sampler, KEY))(at_highest_level(2))
        jax.effects_barrier()
        return levels

    sampler = Sampler(6, "euler", sigma_max=HIGH, s_churn=1e9, s_tmin=0.05, s_tmax=5.0)
    expected = [s * (math.sqrt(2) if 0.05 <= s <= 5.0 else 1.0) for s in sampler.sigmas()]
    assert levels_of(sampler) == pytest.approx(expected, rel=1e-5)
    assert levels_of(replace(sampler, s_churn=0.0)) == pytest.approx(sampler.sigmas().tolist())


@pytest.mark.parametrize("method, calls", [("euler", 5), ("heun", 9)])
def test_heun_calls_the_denoiser_twice_per_step_but_the_last(method: str, calls: int) -> None:
    counted = []

    def denoise(x: jax.Array, level: jax.Array) -> jax.Array:
        jax.debug.callback(lambda level: counted.append(float(level)), level, ordered=True)
        return of_gaussian(x, level)

    sampler = Sampler(5, method, sigma_max=HIGH)
    jax.jit(lambda x: sample(denoise, x, sampler, KEY))(at_highest_level(2))
    jax.effects_barrier()
    assert len(counted) == calls
    assert min(counted) > 0


@every_sampler
def test_gradients_through_a_sampler_are_finite(sampler: Sampler) -> None:
    def ending(scale: jax.Array, x: jax.Array) -> jax.Array:
        def network(x: jax.Array, noise: jax.Array) -> jax.Array:
            return scale * jnp.tanh(x) + noise[..., None]

        return jnp.square(sample(denoiser(network), x, replace(sampler, steps=6), KEY)).mean()

    gradients = jax.jit(jax.grad(ending, (0, 1)))(jnp.float32(0.5), at_highest_level(4))
    assert all(bool(jnp.isfinite(g).all()) and bool(jnp.any(g != 0)) for g in gradients)


@pytest.mark.parametrize("steps", [1, 3])
def test_few_steps_suffice_for_a_constant_denoiser(steps: int) -> None:
    """A denoiser that does not depend on the point needs one call."""
    aim = jnp.array([0.3, -2.0])
    x = initial_noise(KEY, (7, 2), Sampler(steps, "euler"))
    actual = sample(
        lambda x, level: jnp.broadcast_to(aim, x.shape), x, Sampler(steps, "euler"), KEY
    )
    np.testing.assert_allclose(actual, jnp.broadcast_to(aim, (7, 2)), rtol=1e-5)


def test_sampling_starts_at_the_highest_level() -> None:
    assert float(
        initial_noise(KEY, (20_000, 2), Sampler(3, sigma_max=80.0)).std()
    ) == pytest.approx(80, rel=0.02)
