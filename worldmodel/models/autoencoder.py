"""A deterministic autoencoder of single observations, in whose latents diffusion models work.

A stage of its own trains it first, and it is then frozen. As in Rozet et al. (arXiv 2507.02608),
the latents saturate and a little noise is added before decoding. Means and variances of the latents
are regularized towards 0 and 1, as denoisers expect, and the typical change in a step is learned.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.models.interface import Metrics
from worldmodel.models.latent import has_predecessor, masked_mean, total_loss
from worldmodel.nn.codecs import Decoder, DecoderSizes, Encoder
from worldmodel.nn.distributions import Distribution, losses
from worldmodel.nn.layers import Linear

LIMIT = 5.0  # bound of the latents
NOISE = 0.01  # standard deviation of the noise before decoding
MOMENTS_SCALE = 0.1  # weight of the regularization of mean and variance
INITIAL_CHANGE = 0.2  # of a latent in a step, before training


class Autoencoder(nnx.Module):
    """Observations {name: (..., shape)} -> latents (..., size) and back."""

    def __init__(
        self,
        spec: DataSpec,
        size: int,
        units: int,
        depth: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        self.encoder = Encoder(spec, units, depth, rngs=rngs, dtype=dtype)
        self.to_latent = Linear(self.encoder.size, size, rngs=rngs, dtype=dtype)
        sizes = DecoderSizes(size // 2, size - size // 2, units, depth)
        self.decoder = Decoder(spec, sizes, rngs=rngs, dtype=dtype)
        self.log_change = nnx.Param(jnp.full(size, jnp.log(INITIAL_CHANGE)))
        self.size = size

    def change(self) -> jax.Array:
        """(size,) the typical change of each latent in a step."""
        return jnp.exp(self.log_change[...])

    def encode(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        latent = self.to_latent(self.encoder(observation)).astype(jnp.float32)
        return latent * jax.lax.rsqrt(1 + jnp.square(latent / LIMIT))

    def decode(self, latent: jax.Array) -> Mapping[str, Distribution]:
        return self.decoder(latent)

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, None]]:
        """Reconstruction error of every observation, and the regularization of the latents."""
        latent = self.encode(window.observation)
        predictions = self.decode(latent + NOISE * jax.random.normal(key, latent.shape))
        reconstruction = losses(predictions, window.observation)
        mask = window.observation_mask
        terms = {name: (loss, mask) for name, loss in reconstruction.items()}
        total, metrics = total_loss(terms, {}, window.shape)
        mean, variance = _moments(latent, mask)
        moments = (jnp.square(mean) + jnp.square(jnp.log(variance))).mean()
        changed = (has_predecessor(window) & mask)[:, 1:]
        shift, spread = _moments(jnp.diff(latent, axis=1), changed)
        change = jax.lax.stop_gradient(jnp.log(jnp.square(shift) + spread) / 2)
        change_loss = jnp.square(self.log_change[...] - change).mean()
        total = total + MOMENTS_SCALE * moments + change_loss
        metrics |= {"loss/moments": moments, "loss/change": change_loss, "loss/total": total}
        metrics["latent/mean_square"] = masked_mean(jnp.square(latent).mean(-1), mask)
        return total, (metrics, None)


def _moments(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance (S,) of x (B, T, S) over `mask` (B, T); variances are positive."""
    weight = (mask / jnp.maximum(mask.sum(), 1))[..., None]
    mean = (weight * x).sum((0, 1))
    return mean, (weight * jnp.square(x - mean)).sum((0, 1)) + 1e-6
