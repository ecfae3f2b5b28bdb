"""How alike two images are, beside the squared error: PSNR and SSIM."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

RANGE = 255.0
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def psnr(image: jax.Array, truth: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio (...) in dB of images (..., height, width, channels) in [0, 255];
    infinite where they are the same.
    """
    error = jnp.square(image - truth).mean((-3, -2, -1))
    return 10 * jnp.log10(RANGE**2 / error)


def ssim(image: jax.Array, truth: jax.Array) -> jax.Array:
    """Structural similarity (...) of images (..., height, width, channels) in [0, 255], 1 where
    they are the same (Wang et al., IEEE Trans. Image Process. 2004, eq. 13 and 15): local means,
    variances and covariance under a Gaussian window, wherever all of it is inside the image; the
    mean over places and channels. Images smaller than the window have a smaller one.
    """
    mx, my = _smooth(image), _smooth(truth)
    # About the local means, squares lose fewer digits if a constant is taken off first.
    x, y = image - RANGE / 2, truth - RANGE / 2
    ox, oy = mx - RANGE / 2, my - RANGE / 2
    xx, yy, xy = _smooth(x * x) - ox * ox, _smooth(y * y) - oy * oy, _smooth(x * y) - ox * oy
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    alike = (2 * mx * my + c1) * (2 * xy + c2) / ((mx**2 + my**2 + c1) * (xx + yy + c2))
    return alike.mean((-3, -2, -1))


def _smooth(x: jax.Array) -> jax.Array:
    """Weighted means over the window, along both axes of an image: sums of shifted images."""
    weights = _weights(min(x.shape[-3:-1]))
    for axis in (-3, -2):
        kept = x.shape[axis] - len(weights) + 1
        shifted = (jax.lax.slice_in_dim(x, i, i + kept, axis=axis) for i in range(len(weights)))
        x = sum(float(w) * s for w, s in zip(weights, shifted, strict=True))
    return x


def _weights(size: int) -> np.ndarray:
    """A normalised Gaussian, of an odd width that fits."""
    half = (min(WINDOW, size) - 1) // 2
    weights = np.exp(-np.square(np.arange(-half, half + 1) / SIGMA) / 2)
    return weights / weights.sum()
