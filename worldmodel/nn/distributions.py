"""Distributions of models and policies, as pytrees of arrays.

Each has `mean()` and `loss(target)`, the negative log-likelihood or squared error, summed over the
dimensions of one event. Those that can be sampled have `sample(key)`. All is computed in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

MAX_SEPARATE_LOSSES = 16


class Distribution(Protocol):
    """The predictive distribution of an observation, a reward or an end."""

    def mean(self) -> jax.Array: ...

    def loss(self, target: jax.Array) -> jax.Array: ...


def symlog(x: jax.Array) -> jax.Array:
    """sign(x) ln(1 + |x|) (DreamerV3, eq. 9)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: jax.Array) -> jax.Array:
    """The inverse of `symlog`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SymlogMSE:
    """A vector (..., D) by its symlog, whose squared error, summed over D, is the loss."""

    location: jax.Array

    def mean(self) -> jax.Array:
        return symexp(self.location.astype(jnp.float32))

    def loss(self, target: jax.Array) -> jax.Array:
        return jnp.square(self.location.astype(jnp.float32) - symlog(target)).sum(-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ScaledMSE:
    """A vector (..., D) by `location` = (x - shift) / scale; the loss is the squared error of the
    location, summed over D. shift, scale: (D,)
    """

    location: jax.Array
    shift: jax.Array
    scale: jax.Array

    def mean(self) -> jax.Array:
        return self.location.astype(jnp.float32) * self.scale + self.shift

    def loss(self, target: jax.Array) -> jax.Array:
        target = (target - self.shift) / self.scale
        return jnp.square(self.location.astype(jnp.float32) - target).sum(-1)


def losses(
    predictions: Mapping[str, Distribution], targets: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """The loss (...) of each prediction by name; of more than `MAX_SEPARATE_LOSSES` vectors, their
    sum: a program of one loss each takes minutes to compile for hundreds.
    """
    kinds = [
        [name for name, p in predictions.items() if isinstance(p, kind)]
        for kind in (SymlogMSE, ScaledMSE)
    ]
    vectors = {name for names in kinds for name in names}
    if len(vectors) <= MAX_SEPARATE_LOSSES:
        return {name: p.loss(targets[name]) for name, p in predictions.items()}
    total = jnp.zeros(())
    for names in filter(None, kinds):
        parts = [predictions[name] for name in names]
        joint: Any = jax.tree.map(lambda *x: jnp.concatenate(x, -1), *parts)
        total = total + joint.loss(jnp.concatenate([targets[name] for name in names], -1))
    rest = {n: p.loss(targets[n]) for n, p in predictions.items() if n not in vectors}
    return {f"{len(vectors)}_vectors": total} | rest


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ScalarMSE:
    """A scalar (...); the loss is the squared error in units of `scale`."""

    location: jax.Array
    scale: float = field(metadata={"static": True})

    def mean(self) -> jax.Array:
        return self.location

    def loss(self, target: jax.Array) -> jax.Array:
        return jnp.square((self.location - target) / self.scale)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageMSE:
    """An image (..., height, width, channels) with `pixels` in [0, 1]; targets are uint8."""

    pixels: jax.Array

    def mean(self) -> jax.Array:
        return self.pixels.astype(jnp.float32) * 255

    def loss(self, target: jax.Array) -> jax.Array:
        error = self.pixels.astype(jnp.float32) - target.astype(jnp.float32) / 255
        return jnp.square(error).sum((-3, -2, -1))


NUM_BINS, MAX_SYMLOG = 255, 20.0
MAX_SCALAR = float(np.expm1(MAX_SYMLOG))  # the largest number that a two-hot code represents


def twohot_bins(count: int = NUM_BINS) -> np.ndarray:
    """(count,) bin centers: symexp of an even grid over [-20, 20], exactly symmetric about 0."""
    half = np.linspace(-MAX_SYMLOG, 0.0, count // 2 + 1)
    half = np.sign(half) * np.expm1(np.abs(half))
    return np.concatenate([half, -half[:-1][::-1]]).astype(np.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TwoHot:
    """A scalar (...) as a categorical (..., bins) over fixed bins (DreamerV3, eq. 8-10)."""

    logits: jax.Array

    def mean(self) -> jax.Array:
        """Sum of p x bin, in pairs from both ends, so that equal logits give exactly 0."""
        probabilities = jax.nn.softmax(self.logits.astype(jnp.float32))
        bins = jnp.asarray(twohot_bins(self.logits.shape[-1]))
        half = bins.shape[0] // 2
        low, high = probabilities[..., :half], probabilities[..., -half:][..., ::-1]
        # The bins are antisymmetric, so each pair contributes (p_high - p_low) x |bin|.
        return ((high - low) * bins[-half:][::-1]).sum(-1)

    def loss(self, target: jax.Array) -> jax.Array:
        """Cross-entropy to weights on the two bins around the target, linear in raw units."""
        logits = self.logits.astype(jnp.float32)
        return jax.nn.logsumexp(logits, -1) - twohot_dot(logits, target)


def twohot_dot(values: jax.Array, target: jax.Array) -> jax.Array:
    """Inner product of `values` (..., bins) with the two-hot code of `target` (...), which is not
    materialized.
    """
    bins = jnp.asarray(twohot_bins(values.shape[-1]))
    target = jnp.clip(target.astype(jnp.float32), bins[0], bins[-1])
    above = jnp.clip(jnp.searchsorted(bins, target, side="right"), 1, bins.shape[0] - 1)
    low, high = bins[above - 1], bins[above]
    weight = (target - low) / (high - low)
    pair = jnp.take_along_axis(values, jnp.stack([above - 1, above], -1), axis=-1)
    return pair[..., 0] * (1 - weight) + pair[..., 1] * weight


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bernoulli:
    """A binary variable (...)."""

    logit: jax.Array

    def mean(self) -> jax.Array:
        return jax.nn.sigmoid(self.logit.astype(jnp.float32))

    def loss(self, target: jax.Array) -> jax.Array:
        logit = self.logit.astype(jnp.float32)
        target = target.astype(jnp.float32)
        return -(target * jax.nn.log_sigmoid(logit) + (1 - target) * jax.nn.log_sigmoid(-logit))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Normal:
    """Independent normals over the last axis (..., D)."""

    location: jax.Array
    scale: jax.Array

    def mean(self) -> jax.Array:
        return self.location

    def mode(self) -> jax.Array:
        return self.location

    def sample(self, key: jax.Array) -> jax.Array:
        return self.location + self.scale * jax.random.normal(key, self.location.shape)

    def log_prob(self, value: jax.Array) -> jax.Array:
        z = (value - self.location) / self.scale
        return (-0.5 * jnp.square(z) - jnp.log(self.scale) - 0.5 * jnp.log(2 * jnp.pi)).sum(-1)

    def loss(self, target: jax.Array) -> jax.Array:
        return -self.log_prob(target)

    def entropy(self) -> jax.Array:
        return (0.5 * jnp.log(2 * jnp.pi * jnp.e) + jnp.log(self.scale)).sum(-1)

    def kl(self, other: Normal) -> jax.Array:
        """KL(self || other) (...), in nats."""
        ratio = jnp.square(self.scale / other.scale)
        off = jnp.square((self.location - other.location) / other.scale)
        return 0.5 * (ratio + off - 1 - jnp.log(ratio)).sum(-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TanhNormal:
    """tanh of independent normals over the last axis (..., D): values in (-1, 1)."""

    location: jax.Array
    scale: jax.Array

    def mode(self) -> jax.Array:
        """tanh of the mode of the normal."""
        return jnp.tanh(self.location)

    def sample(self, key: jax.Array) -> jax.Array:
        return self.sample_and_log_prob(key)[0]

    def sample_and_log_prob(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A sample (..., D) and its log density (...), exact also near the bounds."""
        before = self._normal.sample(key)
        return jnp.tanh(before), self._log_prob_before(before)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Values at the bounds are clipped to the interior."""
        inside = jnp.clip(value, -1 + 1e-6, 1 - 1e-6)
        return self._log_prob_before(jnp.arctanh(inside))

    @property
    def _normal(self) -> Normal:
        return Normal(self.location, self.scale)

    def _log_prob_before(self, before: jax.Array) -> jax.Array:
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), which does not round to log 0.
        slope = 2 * (jnp.log(2.0) - before - jax.nn.softplus(-2 * before))
        return self._normal.log_prob(before) - slope.sum(-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Categorical:
    """One of C classes, by normalized log-probabilities (..., C); values are integers (...)."""

    log_probabilities: jax.Array

    @classmethod
    def from_logits(cls, logits: jax.Array, unimix: float = 0.0) -> Categorical:
        """Softmax of the logits, mixed with a share `unimix` of the uniform distribution, in
        float32.
        """
        log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
        if unimix:
            uniform = unimix / logits.shape[-1]
            log_probabilities = jnp.log((1 - unimix) * jnp.exp(log_probabilities) + uniform)
        return cls(log_probabilities)

    @property
    def probabilities(self) -> jax.Array:
        return jnp.exp(self.log_probabilities)

    def mean(self) -> jax.Array:
        return self.probabilities

    def mode(self) -> jax.Array:
        return jnp.argmax(self.log_probabilities, -1)

    def sample(self, key: jax.Array) -> jax.Array:
        """Classes (...)."""
        return jnp.argmax(self.sample_onehot(jax.random.uniform(key, self._batch)), -1)

    def sample_onehot(self, uniform: jax.Array) -> jax.Array:
        """One-hot classes (..., C) by the inverse distribution function at `uniform` (...) in [0,
        1).

        Needs one random number per variable, where the Gumbel trick needs C. The gradient is the
        straight-through estimator.
        """
        probabilities = self.probabilities
        upper = jnp.cumsum(jax.lax.stop_gradient(probabilities), -1)
        # Rounding may leave the last upper bound below 1: scale by it, so that one class is
        # sampled.
        point = uniform[..., None] * upper[..., -1:]
        below = (point < upper).astype(jnp.float32)
        onehot = below - jnp.concatenate([jnp.zeros_like(below[..., :1]), below[..., :-1]], -1)
        return onehot + probabilities - jax.lax.stop_gradient(probabilities)

    def log_prob(self, value: jax.Array) -> jax.Array:
        return jnp.take_along_axis(self.log_probabilities, value[..., None], -1)[..., 0]

    def loss(self, target: jax.Array) -> jax.Array:
        return -self.log_prob(target)

    def entropy(self) -> jax.Array:
        return -(self.probabilities * self.log_probabilities).sum(-1)

    def kl(self, other: Categorical) -> jax.Array:
        """KL(self || other) (...), in nats."""
        difference = self.log_probabilities - other.log_probabilities
        return (self.probabilities * difference).sum(-1)

    def detach(self) -> Categorical:
        return Categorical(jax.lax.stop_gradient(self.log_probabilities))

    @property
    def _batch(self) -> tuple[int, ...]:
        return self.log_probabilities.shape[:-1]
