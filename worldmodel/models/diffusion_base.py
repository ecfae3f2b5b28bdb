"""What the diffusion families share: the points that are noised, and options of their sampling.

A point represents one observation: its vectors, standardized by training statistics and
concatenated, or, if there are images, the latent of a pretrained, frozen autoencoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.config import Config, ModelOptions, ema_decay_option, option
from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.models.autoencoder import Autoencoder
from worldmodel.models.interface import State
from worldmodel.models.latent import LatentModel
from worldmodel.nn.actions import join_columns, split_vector, vector_entries
from worldmodel.nn.distributions import Distribution
from worldmodel.nn.learner import detached
from worldmodel.nn.samplers import Sampler
from worldmodel.nn.vectors import Vectors, image_keys, typical_change

# preset -> units and blocks of the denoiser, units of heads and autoencoder, base channels.
DIFFUSION_PRESETS: dict[str, tuple[int, int, int, int]] = {
    "tiny": (96, 2, 64, 4),
    "1m": (256, 4, 128, 4),
    "12m": (1024, 4, 256, 16),
}


@dataclass
class BaseDiffusionOptions(ModelOptions):
    """Noise levels and samplers, as in EDM (Karras et al., 2022)."""

    ema_decay: float = ema_decay_option(0.998)
    preset: str = option("tiny", "size", choices=tuple(DIFFUSION_PRESETS))
    latent_dim: int = option(
        32, "dimensions of the autoencoder's latent, in which images are denoised", low=2
    )
    p_mean: float = option(-1.2, "mean of the log noise level in training")
    p_std: float = option(1.2, "standard deviation of the log noise level in training", low=0.0)
    sampler: str = option(
        "euler", "solver of the sampler", choices=("euler", "heun"), sampling=True
    )
    sampler_steps: int = option(
        3, "noise levels of the sampler (heun: twice the calls)", low=1, sampling=True
    )
    sigma_min: float = option(0.002, "lowest noise level of the sampler", low=1e-6, sampling=True)
    sigma_max: float = option(5.0, "highest noise level of the sampler", low=1e-6, sampling=True)
    rho: float = option(7.0, "density of noise levels near the lowest", low=1.0, sampling=True)
    s_churn: float = option(0.0, "noise added during sampling (0: none)", low=0.0, sampling=True)
    s_tmin: float = option(0.0, "lowest level at which it is added", low=0.0, sampling=True)
    s_tmax: float = option(100.0, "highest level at which it is added", low=0.0, sampling=True)
    s_noise: float = option(1.0, "scale of the noise added", low=0.0, sampling=True)

    def errors(self, config: Config) -> Iterator[str]:
        if self.sigma_min >= self.sigma_max:
            yield (
                f"model.sigma_min={self.sigma_min:g} must be below model.sigma_max="
                f"{self.sigma_max:g}"
            )
        if self.s_churn and self.s_tmin > self.s_tmax:
            yield (
                f"model.s_tmin={self.s_tmin:g} is above model.s_tmax={self.s_tmax:g}, so that "
                "model.s_churn has no effect"
            )


class BaseDiffusionModel(LatentModel):
    """Families implement the rest of the interface, and `point`."""

    autoencoder: Autoencoder | None  # for images
    vectors: Vectors  # without images
    vectors_change: tuple[float, ...]

    @classmethod
    def pretrained_modules(cls, options: ModelOptions, spec: DataSpec) -> tuple[str, ...]:
        return ("autoencoder",) if image_keys(spec) else ()

    def add_points(
        self, options: BaseDiffusionOptions, spec: DataSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ) -> None:
        """Adds the codec between observations and points."""
        _, _, hidden, depth = DIFFUSION_PRESETS[options.preset]
        self.action, self.dtype, self.hidden_size = spec.action, dtype, hidden
        if image_keys(spec):
            size = options.latent_dim
            self.autoencoder = Autoencoder(spec, size, hidden, depth, rngs=rngs, dtype=dtype)
            self.point_size = size
        else:
            self.autoencoder, self.vectors = None, Vectors.of(spec, standardized=True)
            self.vectors_change, self.point_size = typical_change(spec), self.vectors.size

    def encode(self, observation: Mapping[str, jax.Array]) -> jax.Array:
        """Points (..., D) of observations (..., shape), without gradient in the autoencoder."""
        if self.autoencoder is None:
            return self.vectors.normalize(observation)
        return jax.lax.stop_gradient(self.autoencoder.encode(observation))

    def point(self, state: State) -> jax.Array:
        """The point (..., D) of a state."""
        raise self._missing("point")

    def observation(self, state: State) -> Mapping[str, Distribution]:
        point = self.point(state)
        if self.autoencoder is None:
            return self.vectors.predict(point)
        return detached(self.autoencoder).decode(point)

    def change(self) -> jax.Array:
        """(D,) the typical change of each number of a point in a step."""
        if self.autoencoder is None:
            return jnp.asarray(self.vectors_change)
        return jax.lax.stop_gradient(self.autoencoder.change())

    def action_points(self, action: jax.Array) -> jax.Array:
        """Inputs (..., A) of the network for actions, with variance 1 for uniform ones."""
        if self.action.discrete:
            return self.action_vector(action) * self.action.size**0.5
        if self.action.kind == "mixed":
            columns, _ = vector_entries(self.action)
            units = np.sqrt([n or 3 for n in self.action.classes])[columns]
            return jnp.clip(self.action_vector(action), -1.0, 1.0) * units
        return jnp.clip(action, -1.0, 1.0) * 3**0.5

    def actions_of(self, points: jax.Array) -> jax.Array:
        """Actions (..., K), or classes (...), of inputs (..., A): the inverse of `action_points`,
        with the largest of the numbers of a class.
        """
        if self.action.discrete:
            return jnp.argmax(points, -1).astype(jnp.int32)
        if self.action.kind == "mixed":
            numbers, classes = split_vector(points, self.action)
            numbers = jnp.clip(numbers / 3**0.5, -1.0, 1.0)
            return join_columns(numbers, jnp.argmax(classes, -1), self.action)
        return jnp.clip(points / 3**0.5, -1.0, 1.0)

    def policy_score(self, policy: Any, points: jax.Array) -> jax.Array:
        """Gradient (..., A) of a policy's log pi in the inputs for actions; those of one-hot
        classes keep their sum.
        """
        if self.action.discrete:
            score = policy.log_probabilities
            return (score - score.mean(-1, keepdims=True)) / self.action.size**0.5

        def likelihood(points: jax.Array) -> jax.Array:
            if self.action.kind != "mixed":
                return policy.log_prob(points / 3**0.5).sum()
            numbers, _ = split_vector(points, self.action)
            return policy.numbers.log_prob(numbers / 3**0.5).sum()

        score = jax.grad(likelihood)(points)
        if self.action.kind == "mixed":
            score += class_scores(policy.classes.log_probabilities, self.action)
        return score


def class_scores(log_probabilities: jax.Array, action: ActionSpec) -> jax.Array:
    """(..., A) of J choices among at most C classes, (..., J, C): each log-probability less the
    mean of its choice, in units of the one-hot inputs; 0 for numbers.
    """
    columns, labels = vector_entries(action)
    choice = np.cumsum(np.asarray(action.classes) > 0) - 1  # of each column
    sizes = np.array([n for n in action.classes if n])[:, None]
    exists = np.arange(sizes.max()) < sizes
    mean = jnp.where(exists, log_probabilities, 0.0).sum(-1, keepdims=True) / sizes
    scores = (log_probabilities - mean) / np.sqrt(sizes)
    return jnp.where(labels < 0, 0.0, scores[..., choice[columns], np.maximum(labels, 0)])


def build_sampler(options: BaseDiffusionOptions) -> Sampler:
    return Sampler(
        steps=options.sampler_steps,
        method=options.sampler,
        sigma_min=options.sigma_min,
        sigma_max=options.sigma_max,
        rho=options.rho,
        s_churn=options.s_churn,
        s_tmin=options.s_tmin,
        s_tmax=options.s_tmax,
        s_noise=options.s_noise,
    )
