"""PSNR and SSIM beside plain loops over the definition."""

import jax
import numpy as np
import pytest

from worldmodel.evaluation.sampled_rollouts import psnr, ssim


def naive_ssim(x, y):
    """Wang et al. 2004, eq. 13, window by window, in double precision."""
    half = (min(11, *x.shape[:2]) - 1) // 2
    offsets = np.arange(-half, half + 1)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights = (weights / weights.sum())[..., None]
    size, found = 2 * half + 1, []
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    for i in range(x.shape[0] - size + 1):
        for j in range(x.shape[1] - size + 1):
            a, b = (z[i : i + size, j : j + size].astype(float) for z in (x, y))
            ma, mb = ((weights * z).sum((0, 1)) for z in (a, b))
            va, vb = (weights * (a - ma) ** 2).sum((0, 1)), (weights * (b - mb) ** 2).sum((0, 1))
            cov = (weights * (a - ma) * (b - mb)).sum((0, 1))
            found.append(
                (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
            )
    return np.mean(found)


def pair(height=18, width=15, channels=3):
    generator = np.random.default_rng(0)
    slope = 8.0 * np.arange(height)[:, None, None] + 3.0 * np.arange(width)[None, :, None]
    x = np.clip(slope + generator.normal(0, 20, (height, width, channels)), 0, 255)
    return x.astype(np.float32), np.clip(x + generator.normal(0, 15, x.shape), 0, 255).astype("f4")


@pytest.mark.parametrize("size", [(18, 15, 3), (9, 8, 1)])
def test_ssim_is_that_of_the_definition(size):
    x, y = pair(*size)
    found = np.asarray(jax.jit(ssim)(np.stack([x, x]), np.stack([y, x])))
    np.testing.assert_allclose(found, [naive_ssim(x, y), 1.0], atol=1e-5)
    assert found[0] < 0.95


def test_ssim_of_flat_bright_images_loses_no_digits():
    x, y = np.full((1, 9, 8, 1), 250, np.float32), np.full((1, 9, 8, 1), 240, np.float32)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 250 * 240 + c1) / (250**2 + 240**2 + c1)
    assert float(jax.jit(ssim)(x, y)[0]) == pytest.approx(expected, abs=1e-4)


def test_psnr_is_that_of_the_mean_square():
    x, y = pair()
    expected = 10 * np.log10(255**2 / np.mean((x.astype(float) - y) ** 2))
    assert float(psnr(x, y)) == pytest.approx(expected, rel=1e-5)
    assert float(psnr(x, x)) == np.inf
