"""Options of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from worldmodel.config.option import option

NORMALIZATIONS = ("none", "standardize", "min_max")


def feedthrough() -> Any:
    """The option of formats that hold sampled inputs and outputs of a system."""
    help = "inputs act on the output of their own row: each is the action of the row before"
    return option(False, help)


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
    rows: list[int] | None = option(
        None, "[FIRST,LAST] rows of every file that are read, counted from 0 (none: all)", low=0
    )
    feedthrough: bool = feedthrough()


@dataclass
class RecordsData(DataOptions):
    """Inputs and outputs of a system in npy files: a folder of u_*.npy and y_*.npy."""

    name: str = option("records", "data source")
    inputs: str = option("u_*.npy", "names of the files of inputs, which become actions")
    outputs: str = option(
        "y_*.npy", "those of the files of outputs, in the order of the inputs', which are observed"
    )
    feedthrough: bool = feedthrough()


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
