"""The options that all formats, all families and all algorithms have: base classes of theirs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from worldmodel.config.environment_ids import EnvironmentId, argument_errors, form_errors
from worldmodel.config.option import option
from worldmodel.errors import did_you_mean

if TYPE_CHECKING:
    from worldmodel.config import Config

NORMALIZATIONS = ("none", "standardize", "min_max")
# What a field of a log may mean (`data.roles`); the help of a field that is not understood.
ROLES = {
    "observation": "an observation",
    "next_observation": "the observation after the row's action",
    "action": "the action",
    "reward": "the reward of the action",
    "terminal": "true where the environment really ended",
    "not_terminal": "false there, as masks and discounts are",
    "truncated": "true where an episode was cut, as by a time limit",
    "end": "true in the last row of an episode, which is not terminal for that",
    "not_end": "false there",
    "final": "true in a row that holds the final observation alone",
    "start": "true in the first row of an episode",
    "length": "the number of transitions or rows of each episode",
    "episode": "the number or name of the episode of a row",
    "ignore": "left out",
}
VECTOR = "vector"  # in place of the layout of an image
# Orders of the axes of an image: height, width, channels, stacked frames; height before width.
LAYOUTS = tuple(
    "".join(order)
    for axes in ("hw", "hwc", "hwk", "hwck")
    for order in permutations(axes)
    if order.index("h") < order.index("w")
)
# Further entries of Hydra's defaults list of a choice that has no YAML file.
ComposeWith = tuple[str | dict[str, str], ...]


def feedthrough() -> Any:
    """Returns the option `feedthrough`, of formats with sampled inputs and outputs of a system."""
    help = "inputs act on the output of their own sample: each is the action of the previous one"
    return option(False, help)


@dataclass
class DataOptions:
    """Options of every data format."""

    name: str = option(MISSING, "data source")
    path: str | None = option(None, "file, folder or glob pattern of the dataset")
    environment: str | None = option(
        None, "Gymnasium id of the real environment, for returns (null: not measured)"
    )
    environment_options: dict[str, Any] = option(
        {}, "arguments of the environment's constructor, such as {exclude_x: true}"
    )
    holdout: float = option(
        0.1, "share of the episodes held out from training, for evaluation", low=0.0, high=0.9
    )
    normalize: list[str] = option(
        ["standardize"],
        "normalization of vectors by training statistics: standardize, min_max or none (symlog); "
        "KIND for all, KEY:KIND for one observation",
    )
    observations: list[str] | None = option(
        None, "names of the observations to read (null: all of numbers and images)"
    )
    images: dict[str, Any] | None = option(
        None,
        "layouts of images, where they are not certain: KEY: order of the axes h (height), w "
        "(width), c (channels), k (stacked frames), as in chw; KEY: vector for numbers",
    )
    image_range: dict[str, Any] | None = option(
        None, "KEY: [BLACK, WHITE], the numbers of black and white of images that are not uint8"
    )
    image_size: list[int] | None = option(
        None, "[HEIGHT,WIDTH] to which images are resized (null: not resized)", low=1, high=4096
    )
    image_method: str = option(
        "area",
        "how images are resized: the mean of the covered area, bilinear or the nearest pixel",
        choices=("area", "bilinear", "nearest"),
    )
    action_low: list[float] | None = option(
        None, "lower bounds of the actions, one per dimension (null: declared, or the minimum)"
    )
    action_high: list[float] | None = option(
        None, "upper bounds of the actions, one per dimension (null: declared, or the maximum)"
    )
    roles: dict[str, Any] = option(
        {}, f"what fields of other names mean, {{NAME: ROLE}}: {', '.join(ROLES)}"
    )
    classes: list[int] | None = option(
        None,
        "number of classes of each column of actions, 0: a number (null: declared, by the "
        "environment, or by the data)",
        low=0,
        high=2**16,
    )
    max_episode_steps: int | None = option(
        None, "longer episodes are cut after so many transitions, as by a time limit", low=1
    )
    on_invalid_episode: str = option(
        "error", "an invalid episode stops the run, or is left out", choices=("error", "skip")
    )
    cache: str = option(
        "auto",
        "cache the decoded dataset on disk, memory-mapped; auto: if it is large",
        choices=("auto", "always", "never"),
    )
    cache_dir: str = option("datasets", "folder of collected and decoded datasets")
    loader: str = option(
        "auto",
        "where batches are gathered: on the device, or streamed from the host; auto: by size",
        choices=("auto", "device", "host"),
    )
    num_workers: int = option(
        0, "worker processes for streamed batches (0: threads of the main process)", low=0, high=256
    )

    @property
    def environment_id(self) -> EnvironmentId | None:
        """The real environment with the arguments of its constructor, if there is one."""
        if self.environment is None:
            return None
        return EnvironmentId(self.environment, self.environment_options)

    def column_names(self) -> dict[str, list[str]]:
        """Returns the names of columns, by vector observation and for `action`, if known."""
        return {}

    def chosen_observations(self) -> list[str] | None:
        """Returns the names of the observations to read; None: all."""
        return self.observations

    def recorded_environment(self) -> str | None:
        """Returns the environment that the dataset's own metadata names, if it does."""
        return None

    def recorded_seeds(self) -> list[int | None] | None:
        """Returns the seeds of the environment's resets, one for each episode, if recorded."""
        return None

    def errors(self) -> Iterator[str]:
        """Yields what is wrong with these options together; a format adds its own rules."""
        yield from form_errors(self, "data.")
        yield from argument_errors(self.environment_options, "data.environment_options")
        low, high = self.action_low, self.action_high
        if low is None or high is None:
            if low is not high:
                yield "data.action_low, data.action_high: set both or neither"
        elif len(low) != len(high):
            yield (
                f"data.action_low has {len(low)} numbers and data.action_high {len(high)}; accepts "
                "one per action dimension"
            )
        elif self.classes is not None and len(low) != len(self.classes):
            yield (
                f"data.classes has {len(self.classes)} numbers and data.action_low {len(low)}; "
                "accepts one per column of actions"
            )
        elif not all(a < b for a, b in zip(low, high, strict=True)):
            yield "data.action_low must be less than data.action_high in every dimension"
        for field, role in self.roles.items():
            if role not in ROLES:
                hint = did_you_mean(str(role), ROLES)
                yield f"data.roles={{{field}: {role}}}: accepts {', '.join(ROLES)}{hint}"
        yield from image_errors(self)
        for entry in self.normalize:
            kind = entry.rpartition(":")[2]
            if kind not in NORMALIZATIONS:
                hint = did_you_mean(kind, NORMALIZATIONS)
                yield (
                    f"data.normalize={entry}: accepts {', '.join(NORMALIZATIONS)}, or KEY:KIND "
                    f"for one observation{hint}"
                )


def image_errors(options: DataOptions) -> Iterator[str]:
    """Yields what is wrong with the options of images."""
    for key, layout in (options.images or {}).items():
        if layout not in (VECTOR, *LAYOUTS):
            hint = did_you_mean(str(layout), LAYOUTS)
            yield f"data.images={{{key}: {layout}}}: accepts {VECTOR}, {', '.join(LAYOUTS)}{hint}"
    for key, ends in (options.image_range or {}).items():
        numbers = isinstance(ends, list) and all(type(x) in (int, float) for x in ends)
        if not (numbers and len(ends) == 2 and math.isfinite(sum(ends)) and ends[0] != ends[1]):
            yield f"data.image_range={{{key}: {ends}}}: accepts two numbers [BLACK, WHITE]"
    if options.image_size is not None and len(options.image_size) != 2:
        yield f"data.image_size={options.image_size}: accepts [HEIGHT,WIDTH]"


def ema_decay_option(default: float) -> Any:
    """Returns the option `ema_decay`, for which each family has a default of its own."""
    help = "decay of the averaged parameters, used for evaluation and imagination (0: the last)"
    return option(default, help, low=0.0, high=0.99999)


@dataclass
class ModelOptions:
    """Options of every family of world models."""

    compose_with: ClassVar[ComposeWith] = ()

    name: str = option(MISSING, "family of the world model")
    ema_decay: float = ema_decay_option(0.0)

    @property
    def ensemble_size(self) -> tuple[int, int] | None:
        """Numbers of members and of elites; None for a family that is no ensemble."""
        return None

    @property
    def uses_best_snapshot(self) -> bool:
        """Whether each member's best parameters on held-out data are used in place of its last. The
        family then has `networks`, `errors` and `holdout_errors` (see `BestMembersLearner`).
        """
        return False

    def errors(self, config: Config) -> Iterator[str]:
        """Yields what is wrong with these options, given the whole `config`."""
        yield from ()


@dataclass
class PolicyOptions:
    """Options of every policy algorithm."""

    compose_with: ClassVar[ComposeWith] = ()

    name: str = option(MISSING, "policy algorithm")

    @property
    def imagined_horizon(self) -> int | None:
        """Steps of the rollouts that the policy learns from; None if it learns from the dataset."""
        return None

    def errors(self, config: Config) -> Iterator[str]:
        """Yields what is wrong with these options, given the whole `config`."""
        yield from ()


@dataclass
class NoPolicy(PolicyOptions):
    """No policy: only the world model is trained."""

    name: str = option("none", "policy algorithm")
