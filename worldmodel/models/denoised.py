"""What the diffusion families share: the points that are noised, and how they are denoised.

A point is what one observation says: its vectors, standardised by training statistics, end to end;
or, where there are images, the latent of an autoencoder that was trained first and is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import Config, ModelOptions, averaging, option
from worldmodel.data.spec import DataSpec
from worldmodel.models.autoencoder import Autoencoder
from worldmodel.models.interface import State
from worldmodel.models.latent import LatentModel
from worldmodel.models.points import Vectors
from worldmodel.nn.codecs import image_keys
from worldmodel.nn.distributions import Distribution
from worldmodel.nn.learner import detached
from worldmodel.nn.samplers import Sampler

# preset -> units and blocks of the denoiser, units of heads and autoencoder, base channels.
DENOISED_PRESETS: dict[str, tuple[int, int, int, int]] = {
    "tiny": (96, 2, 64, 4),
    "1m": (256, 4, 128, 4),
    "12m": (1024, 4, 256, 16),
}


@dataclass
class DenoisedOptions(ModelOptions):
    """What diffusion families have."""

    ema: float = averaging(0.998)
    preset: str = option("tiny", "size", choices=tuple(DENOISED_PRESETS))
    latent: int = option(
        32, "numbers of the autoencoder's latent, which images are denoised in", low=2
    )
    log_noise_mean: float = option(-1.2, "mean of the logarithm of noise levels in training")
    log_noise_std: float = option(1.2, "standard deviation of that logarithm", low=0.0)
    sampler: str = option("euler", "how samples are drawn", choices=("euler", "heun"))
    sampler_steps: int = option(3, "noise levels of a sample (heun: twice the calls)", low=1)
    noise_low: float = option(0.002, "lowest noise level of the sampler", low=1e-6)
    noise_high: float = option(5.0, "highest noise level, from which it starts", low=1e-6)
    rho: float = option(7.0, "how much denser levels lie near the lowest", low=1.0)
    churn: float = option(0.0, "noise added anew on the way of a sample (0: none)", low=0.0)
    churn_low: float = option(0.0, "lowest level at which it is added", low=0.0)
    churn_high: float = option(100.0, "highest level at which it is added", low=0.0)
    churn_noise: float = option(1.0, "scale of the noise added", low=0.0)

    def check(self, config: Config) -> Iterator[str]:
        if self.noise_low >= self.noise_high:
            yield (
                f"model.noise_low={self.noise_low:g} must be below model.noise_high="
                f"{self.noise_high:g}"
            )
        if self.churn and self.churn_low > self.churn_high:
            yield (
                f"model.churn_low={self.churn_low:g} is above model.churn_high={self.churn_high:g}"
                ": no noise would be added anew"
            )


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
