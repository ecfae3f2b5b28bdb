"""An autoencoder of single observations: what diffusion works on where pixels would be too many.

It is trained first, as a stage of its own, and frozen. Deterministic, with what Rozet et al. (arXiv
2507.02608) found enough: latents that saturate, and a little noise before they are decoded. Means
and variances of the latents are drawn to 0 and 1, which is the range that denoisers are made for,
and how far a step moves them is learned beside.
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
from worldmodel.nn.codecs import Decoder, Encoder
from worldmodel.nn.distributions import Distribution
from worldmodel.nn.layers import Linear

LIMIT = 5.0  # no latent is larger
NOISE = 0.01  # before decoding
MOMENTS_SCALE = 0.1  # weight of the latents' distance from mean 0, variance 1
FIRST_CHANGE = 0.2  # of a latent in a step, until more is known


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
        halves = (size // 2, size - size // 2)
        self.decoder = Decoder(spec, *halves, units, depth, 1, rngs=rngs, dtype=dtype)
        self.log_change = nnx.Param(jnp.full(size, jnp.log(FIRST_CHANGE)))
        self.size = size

    def change(self) -> jax.Array:
        """(size,) how far a step typically moves each latent."""
        return jnp.exp(self.log_change[...])

    def encode(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        latent = self.to_latent(self.encoder(observation)).astype(jnp.float32)
        return latent * jax.lax.rsqrt(1 + jnp.square(latent / LIMIT))

    def decode(self, latent: jax.Array) -> Mapping[str, Distribution]:
        return self.decoder(latent)

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, None]]:
        """Error of every observation after encoding and decoding, over real rows."""
        latent = self.encode(window.observation)
        said = self.decode(latent + NOISE * jax.random.normal(key, latent.shape))
        terms = {
            name: (prediction.loss(window.observation[name]), window.mask)
            for name, prediction in said.items()
        }
        total, metrics = total_loss(terms, {}, window.shape)
        mean, variance = _moments(latent, window.mask)
        moments = (jnp.square(mean) + jnp.square(jnp.log(variance))).mean()
        off, spread = _moments(jnp.diff(latent, axis=1), has_predecessor(window)[:, 1:])
        change = jax.lax.stop_gradient(jnp.log(jnp.square(off) + spread) / 2)
        apart = jnp.square(self.log_change[...] - change).mean()
        total = total + MOMENTS_SCALE * moments + apart
        size = masked_mean(jnp.square(latent).mean(-1), window.mask)
        metrics |= {"loss/moments": moments, "loss/change": apart, "loss/total": total}
        metrics["latent/mean_square"] = size
        return total, (metrics, None)


def _moments(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance (S,) of x (B, T, S) where `mask` (B, T); no variance is 0."""
    share = (mask / jnp.maximum(mask.sum(), 1))[..., None]
    mean = (share * x).sum((0, 1))
    return mean, (share * jnp.square(x - mean)).sum((0, 1)) + 1e-6
