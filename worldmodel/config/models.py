"""Options of the world models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from worldmodel.config.option import option


def averaging(default: float) -> Any:
    """The option that every family has, each with its own default."""
    help = "decay of the average of the parameters that is judged and imagined with (0: the last)"
    return option(default, help, low=0.0, high=0.99999)


@dataclass
class ModelOptions:
    """What every family of world models has."""

    name: str = option(MISSING, "family of the world model")
    ema: float = averaging(0.0)


# DreamerV3: deter = 8 x hidden, classes = depth = hidden / 16. `tiny` is ours, for CPUs.
RSSM_PRESETS: dict[str, dict[str, int]] = {
    name: dict(
        zip(("deter", "hidden", "classes", "latents", "depth", "blocks"), sizes, strict=True)
    )
    for name, sizes in {
        "tiny": (128, 64, 8, 8, 4, 2),
        "1m": (512, 64, 4, 32, 4, 8),
        "12m": (2048, 256, 16, 32, 16, 8),
        "25m": (3072, 384, 24, 32, 24, 8),
        "50m": (4096, 512, 32, 32, 32, 8),
        "100m": (6144, 768, 48, 32, 48, 8),
        "200m": (8192, 1024, 64, 32, 64, 8),
        "400m": (12288, 1536, 96, 32, 96, 8),
    }.items()
}


@dataclass
class RSSMOptions(ModelOptions):
    """DreamerV3's recurrent state-space model."""

    name: str = option("rssm", "family of the world model")
    preset: str = option(
        "tiny", "size; the options below override single numbers", choices=tuple(RSSM_PRESETS)
    )
    deter: int | None = option(None, "units of the recurrent state (divisible by blocks)", low=8)
    hidden: int | None = option(None, "units of every hidden layer", low=1)
    classes: int | None = option(None, "classes of each categorical latent", low=2)
    latents: int | None = option(None, "number of categorical latents", low=1)
    depth: int | None = option(None, "base channels of the image encoder and decoder", low=1)
    blocks: int | None = option(None, "blocks of the recurrent kernels", low=1)
    unimix: float = option(
        0.01, "share of the uniform distribution in every latent", low=0.0, high=1.0
    )
    free_nats: float = option(1.0, "KL below this many nats is not pushed further down", low=0.0)
    dynamics_scale: float = option(1.0, "weight of KL(sg(posterior) || prior)", low=0.0)
    representation_scale: float = option(0.1, "weight of KL(posterior || sg(prior))", low=0.0)


@dataclass
class ObservedOptions(ModelOptions):
    """No dynamics: the state is what was observed. Nothing to train, nothing to imagine."""

    name: str = option("observed", "family of the world model")


@dataclass
class OracleOptions(ObservedOptions):
    """The true environment steps: nothing to train."""

    name: str = option("oracle", "family of the world model")
    environment: str | None = option(
        None, "Gymnasium id: Pendulum-v1, or a MuJoCo one that observes positions and velocities"
    )


# Units of every hidden layer, base channels of images. Koopman, gru and mlp have the same number of
# parameters at a preset; from `1m` on, that of the RSSM's preset of this name.
ENCODED_PRESETS: dict[str, tuple[int, int]] = {
    "tiny": (64, 4),
    "1m": (184, 4),
    "12m": (752, 16),
    "25m": (1120, 24),
    "50m": (1504, 32),
}


@dataclass
class EncodedOptions(ModelOptions):
    """What families have whose latent an encoder reads from every observation."""

    preset: str = option(
        "tiny", "size; the options below override single numbers", choices=tuple(ENCODED_PRESETS)
    )
    units: int | None = option(None, "units of every hidden layer", low=1)
    depth: int | None = option(None, "base channels of the image encoder and decoder", low=1)
    latent: int | None = option(None, "numbers of the latent", low=2)
    burn_in: int = option(
        3, "rows of a window that lead up to the one that predictions start from", low=0
    )
    consistency_scale: float = option(
        1.0, "weight of the distance between predicted and filtered latents", low=0.0
    )
    filtered_scale: float = option(
        1.0, "weight of what filtered latents say, beside what predicted ones do", low=0.0
    )
    gain: float = option(
        2.0, "gain of the filter at first, before the sigmoid (2: 0.88 of what is seen, -4: 0.02)"
    )
    reencode: int = option(
        0, "decode and encode again after so many steps without observations (0: never)", low=0
    )


@dataclass
class KoopmanOptions(EncodedOptions):
    """A latent that moves linearly."""

    name: str = option("koopman", "family of the world model")
    spectrum: str = option(
        "damped",
        "eigenvalues: learned and damped, fixed, learned on the unit circle, or real 2x2 blocks "
        "that can integrate",
        choices=("damped", "fixed", "unit", "blocks"),
    )
    bilinear: bool = option(False, "actions also turn the latent faster or slower")
    linear: bool = option(
        False, "linear encoder and decoder, which learn affine systems exactly (vectors only)"
    )


@dataclass
class GRUOptions(EncodedOptions):
    """A latent moved by a gated recurrent unit."""

    name: str = option("gru", "family of the world model")


@dataclass
class MLPOptions(EncodedOptions):
    """A latent moved by a residual multilayer perceptron."""

    name: str = option("mlp", "family of the world model")
    linear_path: bool = option(
        False, "a linear map beside the network, which then has what is not linear left to learn"
    )


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


@dataclass
class DiffusionOptions(DenoisedOptions):
    """The next observation is denoised, given a short history and the action."""

    name: str = option("diffusion", "family of the world model")
    history: int = option(
        2,
        "rows that the next one is predicted from",
        low=1,
        high=64,
    )
    self_fed: int = option(
        2, "most rows of a training history that are the model's own samples", low=0
    )
    self_fed_scale: float = option(0.5, "weight of the loss that follows each of them", low=0.0)


@dataclass
class TrajectoryDiffusionOptions(DenoisedOptions):
    """Whole pieces of trajectories are denoised, led by the policy."""

    name: str = option("trajectory_diffusion", "family of the world model")
    rows: int = option(16, "rows of a piece (at most training.world_model.window)", low=2)
    hold_start: bool = option(True, "policies' rollouts begin at the given state, or anywhere")
    guidance: float = option(0.5, "strength of the policy's guidance (0: none)", low=0.0)
    guidance_schedule: str = option(
        "posterior",
        "over noise levels: the variance that is left, or as published by steps done",
        choices=("posterior", "published"),
    )
    normalize_guidance: bool = option(True, "divide the score by its size over the piece")
    sampler_steps: int = option(16, "noise levels of a sample (heun: twice the calls)", low=1)
    noise_high: float = option(20.0, "highest noise level, from which it starts", low=1e-6)
    log_noise_mean: float = option(-0.5, "mean of the logarithm of noise levels in training")


# preset -> members, elites, units and hidden layers of each. `published` is that of MOPO.
ENSEMBLE_PRESETS: dict[str, tuple[int, int, int, int]] = {
    "tiny": (5, 3, 64, 2),
    "small": (5, 3, 128, 3),
    "published": (7, 5, 200, 4),
}


@dataclass
class EnsembleOptions(ModelOptions):
    """Networks that each predict, as a normal distribution, what a step changes."""

    name: str = option("ensemble", "family of the world model")
    preset: str = option(
        "tiny", "size; the options below override single numbers", choices=tuple(ENSEMBLE_PRESETS)
    )
    members: int | None = option(None, "networks", low=1)
    elites: int | None = option(
        None, "members that are imagined with: the best on held-out rows", low=1
    )
    units: int | None = option(None, "units of every hidden layer", low=1)
    layers: int | None = option(None, "hidden layers of each member", low=1)
    layer_norm: bool = option(True, "LayerNorm in every hidden layer")
    standardize_outputs: bool = option(
        True, "predict in units of what a step typically changes, not in raw units"
    )
    bootstrap: bool = option(True, "every member learns from a resampling of the rows of its own")
    holdout: float = option(
        0.05,
        "share of rows kept from training, to find each member's best parameters (0: last)",
        low=0.0,
        high=0.5,
    )
    weight_decay: float = option(
        1e-4, "L2 of the output layer; hidden ones have 1/4, 1/2, then 3/4 of it", low=0.0
    )
    termination: str = option(
        "learned",
        "what ends an episode: a learned head, the rule of a MuJoCo environment, or nothing",
        choices=("learned", "halfcheetah", "hopper", "walker2d", "never"),
    )
    member: str = option(
        "step",
        "a random elite is drawn for every step, or for a whole rollout",
        choices=("step", "rollout"),
    )

    def sizes(self) -> tuple[int, int, int, int]:
        """Members, elites, units and layers."""
        own = (self.members, self.elites, self.units, self.layers)
        preset = ENSEMBLE_PRESETS[self.preset]
        return tuple(p if o is None else o for o, p in zip(own, preset, strict=True))
