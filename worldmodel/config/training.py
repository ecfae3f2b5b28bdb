"""Options of training and logging."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from omegaconf import MISSING

from worldmodel.config.option import option
from worldmodel.system.compilation import DEFAULT_CACHE


@dataclass
class StageOptions:
    """One stage of training."""

    steps: int = option(MISSING, "updates", low=1)
    batch_size: int = option(16, "windows in a batch", low=1)
    window: int = option(64, "timesteps in a window", low=2)
    learning_rate: float = option(4e-5, "peak learning rate", low=0.0)
    warmup_steps: int = option(1000, "updates over which the learning rate rises from 0", low=0)
    lr_decay_fraction: float = option(
        0.0, "last share of the updates, over which the learning rate falls to 0", low=0.0, high=1.0
    )
    agc_clip: float = option(0.3, "adaptive gradient clipping, per tensor (0: none)", low=0.0)
    beta1: float = option(0.9, "momentum", low=0.0, high=1.0)
    beta2: float = option(0.999, "decay of the squared gradients", low=0.0, high=1.0)
    epsilon: float = option(1e-20, "added to the root of the squared gradients", low=0.0)
    best_metric: str | None = option(
        None, "metric in metrics.jsonl by which the best checkpoint is kept too (null: none)"
    )
    best_mode: str = option(
        "min", "whether the best is the lowest or the highest", choices=("min", "max")
    )


@dataclass
class DistributedOptions:
    """Several processes that train together, each with its own devices."""

    cluster_detection: str = option(
        "auto",
        "whether JAX detects the processes of a job; auto: under srun, mpirun and on TPU hosts",
        choices=("auto", "always", "never"),
    )
    coordinator_address: str | None = option(
        None, "host:port of process 0, for processes started by hand"
    )
    num_processes: int = option(2, "number of processes, with an address", low=1)
    process_id: int = option(0, "number of this process, with an address", low=0)
    initialization_timeout: int = option(300, "seconds to wait for the other processes", low=1)


@dataclass
class TrainingOptions:
    """How training runs."""

    autoencoder: StageOptions = dataclasses.field(
        default_factory=lambda: StageOptions(
            steps=2000, window=16, learning_rate=1e-3, warmup_steps=100, lr_decay_fraction=0.5
        )
    )
    world_model: StageOptions = dataclasses.field(default_factory=StageOptions)
    policy: StageOptions = dataclasses.field(default_factory=StageOptions)
    joint: bool = option(
        False, "model and policy together, in one stage with the world model's settings"
    )
    pretrained_model: str | None = option(
        None, "run whose world model is used instead of training one"
    )
    num_seeds: int = option(1, "seeds trained at once, each with its own batches", low=1)
    precision: str = option(
        "float32", "compute type; parameters stay float32", choices=("float32", "bfloat16")
    )
    gradient_accumulation_steps: int = option(
        1, "microbatches of a world model's batch, one after the other", low=1
    )
    remat: bool = option(
        False, "world model: rematerialize all but matrix products for the gradient"
    )
    fsdp_shards: int = option(
        1, "devices over which large parameters and their optimizer state are split", low=1
    )
    steps_per_dispatch: int = option(25, "most updates per call to the device", low=1)
    log_every: int = option(100, "updates between rows of metrics.jsonl", low=1)
    checkpoint_every: int = option(1000, "updates between checkpoints", low=1)
    on_divergence: str = option(
        "stop",
        "what a loss that is not finite causes; rollback: resume from the last checkpoint with "
        "other batches",
        choices=("stop", "rollback"),
    )
    dry_run: bool = option(
        False, "compile every stage, print parameters, memory and steps, and exit"
    )
    max_to_keep: int = option(2, "newest checkpoints to keep per stage", low=1)
    compilation_cache: str | None = option(
        DEFAULT_CACHE, "cache of compiled programs (null: no cache)"
    )
    distributed: DistributedOptions = dataclasses.field(default_factory=DistributedOptions)


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
