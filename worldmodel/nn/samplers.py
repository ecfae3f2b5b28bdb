"""Samplers of EDM (Karras et al., arXiv 2206.00364, algorithms 1 and 2): from noise to data along
decreasing noise levels, with a denoiser D(x; s). The slope of the path is d = (x - D(x; s)) / s.

With churn, noise is added before a step and the level raised to match; denoiser, slope and step
then all use the raised level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.nn.denoising import Denoise

METHODS = ("euler", "heun")
MAX_CHURN = math.sqrt(2) - 1  # per step: never more new noise than present
MAX_UNROLLED = 8  # up to so many steps are unrolled, which is faster than a loop


@dataclass(frozen=True)
class Sampler:
    """Settings of a sampler, named as by EDM.

    steps: noise levels from `sigma_max` to `sigma_min`; Euler calls the denoiser once for each,
        Heun 2 steps - 1 times
    rho: how much denser the levels are near `sigma_min`
    s_churn: noise added over all steps, at levels in [s_tmin, s_tmax], scaled by `s_noise`; 0: the
        path is deterministic

    Raises ValueError for settings out of range.
    """

    steps: int
    method: str = "heun"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r}: accepted: {', '.join(METHODS)}")
        if self.steps < 1 or not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"{self}: needs steps >= 1 and 0 < sigma_min < sigma_max")

    def sigmas(self) -> np.ndarray:
        """(steps,) float64, decreasing from `sigma_max` to `sigma_min`; 0 follows the last one."""
        share = np.arange(self.steps) / max(self.steps - 1, 1)
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return (first + share * (last - first)) ** self.rho


class _Step(NamedTuple):
    """One step, or all, (steps,): the level before it, the level raised by churn, the standard
    deviation of the noise added, and the level after it (0 for the last).
    """

    level: Any
    raised: Any
    added: Any
    following: Any


def initial_noise(key: jax.Array, shape: tuple[int, ...], sampler: Sampler) -> jax.Array:
    """Points (shape) at the highest level: N(0, sigma_max^2)."""
    return sampler.sigma_max * jax.random.normal(key, shape)


def sample(denoise: Denoise, x: jax.Array, sampler: Sampler, key: jax.Array) -> jax.Array:
    """Samples from points x (..., D) at the highest level. `key` is used with churn only."""
    keys = jax.random.split(key, sampler.steps)

    def churned(x: jax.Array, step: _Step, key: jax.Array) -> jax.Array:
        return x + step.added * jax.random.normal(key, x.shape) if sampler.s_churn else x

    def advance(x: jax.Array, inputs: tuple[_Step, jax.Array]) -> tuple[jax.Array, None]:
        step, key = inputs
        x = churned(x, step, key)
        slope = (x - denoise(x, step.raised)) / step.raised
        moved = x + (step.following - step.raised) * slope
        if sampler.method == "heun":
            end_slope = (moved - denoise(moved, step.following)) / step.following
            moved = x + (step.following - step.raised) * (slope + end_slope) / 2
        return moved, None

    steps = _steps(sampler)
    inner = jax.tree.map(lambda values: jnp.asarray(values[:-1], jnp.float32), steps)
    unroll = max(1, min(sampler.steps - 1, MAX_UNROLLED))
    x, _ = jax.lax.scan(advance, x, (inner, keys[:-1]), unroll=unroll)
    # The last step, to level 0, returns the denoised point. It is outside the loop, because even a
    # discarded division by 0 has NaN gradients.
    last = jax.tree.map(lambda values: jnp.asarray(values[-1], jnp.float32), steps)
    return denoise(churned(x, last, keys[-1]), last.raised)


def _steps(sampler: Sampler) -> _Step:
    levels = sampler.sigmas()
    churned = (sampler.s_tmin <= levels) & (levels <= sampler.s_tmax)
    share = np.where(churned, min(sampler.s_churn / sampler.steps, MAX_CHURN), 0.0)
    raised = (1 + share) * levels
    added = sampler.s_noise * np.sqrt(np.square(raised) - np.square(levels))
    return _Step(levels, raised, added, np.append(levels[1:], 0.0))
