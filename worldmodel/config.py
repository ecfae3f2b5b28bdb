"""Every option of the trainer, as typed dataclasses. This is the only schema.

`command_line.py` registers them with Hydra, `checks.py` compares values with the limits given
here, `help_text.py` prints them. Nothing here imports JAX: a mistake is reported before anything
slow starts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with one line of help and what it accepts (`low`, `high`: inclusive).

    On a list, limits and choices hold for every element.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


# --------------------------------------------------------------------------------------------- data


NORMALIZATIONS = ("none", "standardize", "min_max")


@dataclass
class DataOptions:
    """What every data source has."""

    name: str = option(MISSING, "data source")
    path: str | None = option(None, "file or folder the logs are read from")
    environment: str | None = option(
        None, "Gymnasium id of the real environment, for returns (none: not measured)"
    )
    holdout: float = option(
        0.1, "share of the episodes kept from training, to judge the model", low=0.0, high=0.9
    )
    normalize: list[str] = option(
        ["standardize"],
        "how models see vectors, by training statistics: standardize, min_max or none (symlog); "
        "KIND for all, KEY:KIND for one observation",
    )
    action_low: list[float] | None = option(
        None, "lower bounds of the actions, one a dimension (none: declared there, or the least)"
    )
    action_high: list[float] | None = option(
        None, "upper bounds of the actions, one a dimension (none: declared there, or the greatest)"
    )
    longest_episode: int | None = option(
        None, "longer episodes are cut after so many transitions, as by time-outs", low=1
    )
    on_bad_episode: str = option(
        "error", "an episode with faults stops the run, or is left out", choices=("error", "skip")
    )
    cache: str = option(
        "auto",
        "keep logs decoded on disk, memory-mapped; auto: large ones",
        choices=("auto", "always", "never"),
    )
    cache_dir: str = option("datasets", "folder that keeps collected and decoded logs")
    delivery: str = option(
        "auto",
        "where batches come from: rows on the device, or streamed from the host; auto: by size",
        choices=("auto", "resident", "streamed"),
    )
    workers: int = option(
        0, "processes that make streamed batches (0: threads of this one)", low=0, high=256
    )


@dataclass
class TFDSData(DataOptions):
    """RLDS: a prepared TFDS directory, or a TFDS builder by its name."""

    name: str = option("tfds", "data source")
    builder: str | None = option(
        None, "TFDS builder in place of a path, such as d4rl_mujoco_halfcheetah/v0-medium"
    )
    split: str = option("train", "TFDS split to read")


@dataclass
class HDF5Data(DataOptions):
    """D4RL's HDF5 layout: a file, a folder of files or a pattern."""

    name: str = option("hdf5", "data source")


@dataclass
class NPZData(DataOptions):
    """NumPy archives (README lists the keys; OGBench's among them): file, folder or pattern."""

    name: str = option("npz", "data source")


@dataclass
class MinariData(DataOptions):
    """A local Minari data set; `path`: the folder that holds it, if not Minari's own."""

    name: str = option("minari", "data source")
    dataset: str | None = option(None, "id of the data set, such as D4RL/pen/human-v2")


@dataclass
class TableData(DataOptions):
    """CSV or Parquet tables: a file, a folder of files or a pattern."""

    name: str = option("table", "data source")
    observations: list[str] = option(MISSING, "columns that are observed, as one vector")
    actions: list[str] = option(MISSING, "columns that are acted")
    reward: str | None = option(None, "column of the reward of the row's action (none: no reward)")
    episode: str | None = option(
        None, "column that tells episodes apart (none: every file is one episode)"
    )
    time: str | None = option(None, "column of the time, which must not go backwards")
    terminal: str | None = option(
        None, "column that is true where the episode really ended (none: they never do)"
    )
    discrete: bool = option(False, "the single column of actions holds classes 0, 1, ...")


@dataclass
class GymnasiumData(DataOptions):
    """Logs of a Gymnasium environment, collected on first use, kept in `cache_dir`."""

    name: str = option("gymnasium", "data source")
    environment: str | None = option(
        None, "Gymnasium id of the environment to log and to judge policies in"
    )
    behaviours: list[str] = option(
        ["uniform", "sticky", "ornstein_uhlenbeck"], "behaviour policies, in turn by episode"
    )
    episodes: int = option(200, "episodes to log", low=1)
    collect_seed: int = option(
        0, "seed of the collection (apart from `seed`: all runs share the logs)", low=0
    )


# -------------------------------------------------------------------------------------------- model


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


# ------------------------------------------------------------------------------------------- policy


@dataclass
class PolicyOptions:
    """What every policy algorithm has."""

    name: str = option(MISSING, "policy algorithm")


@dataclass
class NoPolicy(PolicyOptions):
    """Train the world model alone."""

    name: str = option("none", "policy algorithm")


@dataclass
class ActorCriticOptions(PolicyOptions):
    """DreamerV3's actor-critic, trained on imagined rollouts."""

    name: str = option("actor_critic", "policy algorithm")
    hidden: int | None = option(
        None, "units of every hidden layer (none: a preset's, by the model)", low=1
    )
    layers: int = option(3, "hidden layers of actor and critic", low=1)
    horizon: int = option(15, "imagined steps from every start", low=1)
    discount: float = option(1 - 1 / 333, "discount per step", low=0.0, high=1.0)
    lambda_: float = option(0.95, "lambda of the lambda-return", low=0.0, high=1.0)
    entropy: float = option(3e-4, "weight of the policy's entropy", low=0.0)
    gradient: str = option(
        "reinforce",
        "how the actor learns; dynamics: through the model, continuous actions only",
        choices=("reinforce", "dynamics"),
    )
    normalizer_rate: float = option(
        0.01, "rate of the running percentiles of the return", low=0.0, high=1.0
    )
    slow_rate: float = option(0.02, "rate of the slow critic", low=0.0, high=1.0)
    slow_scale: float = option(1.0, "weight of the pull towards the slow critic", low=0.0)
    replay_scale: float = option(
        0.3, "weight of the critic's loss on logged rewards (joint training only)", low=0.0
    )


# ----------------------------------------------------------------------------------------- training


@dataclass
class StageOptions:
    """One stage of training."""

    steps: int = option(MISSING, "updates", low=1)
    batch_size: int = option(16, "windows in a batch", low=1)
    window: int = option(64, "rows in a window", low=2)
    learning_rate: float = option(4e-5, "peak learning rate", low=0.0)
    warmup: int = option(1000, "updates over which the learning rate rises from 0", low=0)
    decay: float = option(
        0.0, "last share of the updates, over which the learning rate falls to 0", low=0.0, high=1.0
    )
    clip: float = option(0.3, "adaptive gradient clipping, per tensor (0: none)", low=0.0)
    beta1: float = option(0.9, "momentum", low=0.0, high=1.0)
    beta2: float = option(0.999, "decay of the squared gradients", low=0.0, high=1.0)
    epsilon: float = option(1e-20, "added to the root of the squared gradients", low=0.0)


@dataclass
class TrainingOptions:
    """How training runs."""

    autoencoder: StageOptions = dataclasses.field(
        default_factory=lambda: StageOptions(
            steps=2000, window=16, learning_rate=1e-3, warmup=100, decay=0.5
        )
    )
    world_model: StageOptions = dataclasses.field(default_factory=StageOptions)
    policy: StageOptions = dataclasses.field(default_factory=StageOptions)
    joint: bool = option(
        False, "model and policy together, in one stage with the world model's settings"
    )
    precision: str = option(
        "float32", "compute type; parameters stay float32", choices=("float32", "bfloat16")
    )
    steps_per_dispatch: int = option(25, "most updates per call to the device", low=1)
    log_every: int = option(100, "updates between rows of metrics.jsonl", low=1)
    checkpoint_every: int = option(1000, "updates between checkpoints", low=1)
    keep: int = option(2, "checkpoints kept per stage", low=1)
    compilation_cache: str | None = option(
        "~/.cache/worldmodel/xla", "folder of compiled programs (none: no cache)"
    )


# ------------------------------------------------------------------------------ logging, evaluation


@dataclass
class LoggingOptions:
    """Where progress and metrics go; metrics.jsonl is always written."""

    wandb: str = option(
        "auto",
        "Weights & Biases, if installed; auto: online where a key is configured, else offline",
        choices=("auto", "online", "offline", "disabled"),
    )
    project: str = option("worldmodel", "W&B project")
    progress: str = option(
        "auto",
        "progress display; auto: a bar on a terminal",
        choices=("auto", "bar", "plain", "none"),
    )


@dataclass
class EvaluationOptions:
    """How a checkpoint is judged."""

    horizons: list[int] = option([1, 5, 15, 50], "open-loop horizons, in steps", low=1)
    context: int = option(10, "logged rows the model sees before it predicts", low=1)
    starts: int = option(5, "starts per held-out episode", low=1)
    samples: int = option(8, "sampled futures whose mean is the prediction", low=1)
    episodes: int = option(50, "episodes in the real environment", low=1)
    seed: int = option(1000, "seed of the first episode; episode j has seed + j", low=0)
    resamples: int = option(2000, "bootstrap resamples behind an interval", low=100)
    confidence: float = option(0.95, "coverage of the intervals", low=0.5, high=0.999)


# ---------------------------------------------------------------------------------------------- all


@dataclass
class Config:
    """A whole run."""

    name: str = option(
        "${data.name}-${model.name}-${policy.name}-${seed}", "the run directory is runs_dir/name"
    )
    seed: int = option(
        0, "seed of initial parameters, batches and all noise in training", low=0, high=2**31 - 1
    )
    runs_dir: str = option("runs", "folder of run directories")
    fresh: bool = option(False, "start over: moves an older run of this name aside")
    data: DataOptions = MISSING
    model: ModelOptions = MISSING
    policy: PolicyOptions = MISSING
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    logging: LoggingOptions = dataclasses.field(default_factory=LoggingOptions)
    evaluation: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)


@dataclass
class EvalConfig:
    """What eval.py accepts; evaluation options that are not given come from the run."""

    run: str = option(MISSING, "run directory to judge, such as runs/NAME")
    checkpoint: str = option("last", "checkpoint to judge: last or a step")
    evaluation: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)


# Group -> schema name -> dataclass. A file configs/GROUP/CHOICE.yaml names the schema it starts
# from; several choices may share one, as data=pendulum and data=gymnasium do.
SCHEMAS: dict[str, dict[str, type]] = {
    "data": {
        "tfds": TFDSData,
        "hdf5": HDF5Data,
        "npz": NPZData,
        "minari": MinariData,
        "table": TableData,
        "gymnasium": GymnasiumData,
    },
    "model": {
        "rssm": RSSMOptions,
        "koopman": KoopmanOptions,
        "gru": GRUOptions,
        "mlp": MLPOptions,
        "diffusion": DiffusionOptions,
        "trajectory_diffusion": TrajectoryDiffusionOptions,
    },
    "policy": {"none": NoPolicy, "actor_critic": ActorCriticOptions},
    "training": {"default": TrainingOptions},
    "logging": {"default": LoggingOptions},
    "evaluation": {"default": EvaluationOptions},
}
