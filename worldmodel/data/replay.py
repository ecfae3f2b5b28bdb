"""The command `replay`: logged actions in the real environment."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from omegaconf import MISSING
from rich.console import Console
from rich.text import Text

from worldmodel.config import DataOptions, option
from worldmodel.config.arguments import Arguments
from worldmodel.data import sources
from worldmodel.data.readers import load
from worldmodel.errors import ConfigError, printable

USAGE = "python -m worldmodel.data replay SOURCE environment=ID [OPTION=VALUE ...]"
# By name: environments come after the data in the order of imports.
REPLAYS, REPORTS = "worldmodel.environments.replay", "worldmodel.environments.replay_report"


@dataclass
class ReplayOptions:
    """Options of `replay`."""

    data: DataOptions = MISSING
    episodes: int = option(20, "number of episodes to replay, evenly spaced", low=1)


def replay(arguments: Arguments) -> int:
    """Replays logged actions in the environment and prints whether both agree."""
    (word,) = arguments.take("SOURCE", usage=USAGE)
    options = ReplayOptions()
    source = sources.parse_source_options(word, arguments.options, options)
    data = options.data
    recorded = data.recorded_environment()
    if isinstance(recorded, str) and ":" not in recorded:  # else the logs name code to import
        data.environment = data.environment or recorded
    identity = data.environment_id
    if identity is None:
        raise ConfigError(
            f"environment: needs a value, {source.name} names "
            f"{printable(recorded or 'none')}; accepted: environment=ID, with "
            "environment_options={NAME: VALUE, ...} for its constructor"
        )
    dataset = load(data)
    seeds = data.recorded_seeds()
    if seeds is not None and len(seeds) != dataset.num_episodes:
        seeds = None  # episodes were cut or left out
    found = import_module(REPLAYS).replay(dataset, identity, options.episodes, seeds)
    reports = import_module(REPORTS)
    count = len({step.episode for step in found.steps})
    console = Console()
    head = (
        f"{dataset.source}: {count} of {dataset.num_episodes:,} episodes, {len(found.steps):,} "
        f"steps replayed in {identity}, from {found.setting}"
    )
    lines = [head, *reports.sentences(found, str(identity))]
    first, *verdict = (Text(printable(line)) for line in lines)
    console.print(first, "", reports.table(found), *verdict, sep="\n")
    return 0
