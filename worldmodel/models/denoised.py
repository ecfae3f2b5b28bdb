"""What the diffusion families share: the points that are noised, and how they are denoised.

A point is what one observation says: its vectors, standardised by training statistics, end to end;
or, where there are images, the latent of an autoencoder that was trained first and is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import DENOISED_PRESETS, DenoisedOptions, ModelOptions
from worldmodel.data.spec import DataSpec
from worldmodel.models.autoencoder import Autoencoder
from worldmodel.models.interface import State
from worldmodel.models.latent import LatentModel
from worldmodel.models.points import Vectors
from worldmodel.nn.codecs import image_keys
from worldmodel.nn.distributions import Distribution
from worldmodel.nn.learner import detached
from worldmodel.nn.samplers import Sampler


class DenoisedModel(LatentModel):
    """Families give the rest of the interface, and `point`."""

    autoencoder: Autoencoder | None

    @classmethod
    def parts(cls, options: ModelOptions, spec: DataSpec) -> tuple[str, ...]:
        return ("autoencoder",) if image_keys(spec) else ()

    def add_points(
        self, options: DenoisedOptions, spec: DataSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ) -> None:
        """Makes what turns observations into points and back."""
        _, _, hidden, depth = DENOISED_PRESETS[options.preset]
        self.options, self.action, self.dtype = options, spec.action, dtype
        self.hidden_size = hidden
        images = image_keys(spec)
        self.vectors = None if images else Vectors.of(spec)
        arguments = (spec, options.latent, hidden, depth)
        self.autoencoder = Autoencoder(*arguments, rngs=rngs, dtype=dtype) if images else None
        self.point_size = (self.autoencoder or self.vectors).size

    def encode(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        """Points (..., D) of observations (..., shape), without gradient to the autoencoder."""
        if self.autoencoder is None:
            return self.vectors.encode(observation)
        return jax.lax.stop_gradient(self.autoencoder.encode(observation))

    def point(self, state: State) -> jax.Array:
        """The point (..., D) that a state stands for."""
        raise self._lacking("point")

    def observation(self, state: State) -> Mapping[str, Distribution]:
        point = self.point(state)
        if self.autoencoder is None:
            return self.vectors.decode(point)
        return detached(self.autoencoder).decode(point)

    def change(self) -> jax.Array:
        """(D,) how far a step typically moves each number of a point."""
        if self.autoencoder is None:
            return self.vectors.change()
        return jax.lax.stop_gradient(self.autoencoder.change())

    def action_points(self, action: jax.Array) -> jax.Array:
        """Actions as the network sees them, (..., A): uniform ones have variance 1."""
        if self.action.discrete:
            return self.action_vector(action) * self.action.size**0.5
        return jnp.clip(action, -1.0, 1.0) * 3**0.5


def sampler_of(options: DenoisedOptions) -> Sampler:
    return Sampler(
        steps=options.sampler_steps,
        method=options.sampler,
        low=options.noise_low,
        high=options.noise_high,
        rho=options.rho,
        churn=options.churn,
        churn_low=options.churn_low,
        churn_high=options.churn_high,
        churn_noise=options.churn_noise,
    )
