"""The command line of train.py: one run, a sweep, or the help."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from worldmodel.cli.sweep import run_sweep
from worldmodel.config import Config
from worldmodel.config import help as help_text
from worldmodel.config.arguments import HELP_FLAGS, SWEEP_FLAGS, Arguments, parse_overrides
from worldmodel.config.compose import GROUPS, blank, build_config, choices_of, compose_files
from worldmodel.errors import ConfigError
from worldmodel.system.exit_status import run_cli


def run_training(job: Callable[[Config], int | None], script: str, description: str) -> int:
    """Calls `job` with the config of the command line; returns the exit status.

    `configs/` is in the folder of `script`; `description` is the first paragraph of the help.
    """
    return run_cli(lambda: _train(job, Path(script).resolve().parent / "configs", description))


def _train(job: Callable[[Config], int | None], configs: Path, description: str) -> int | None:
    arguments = Arguments.parse(sys.argv[1:], flags=HELP_FLAGS + SWEEP_FLAGS)
    if arguments.has(HELP_FLAGS):
        print(training_help(configs, arguments.options, description))
        return 0
    if arguments.has(SWEEP_FLAGS):
        return run_sweep(job, configs, arguments.options)
    overrides = parse_overrides(arguments.options)
    config = build_config(configs, overrides)
    if sweep_params := compose_files(configs, overrides).sweep_params:
        swept = ", ".join(sweep_params)
        raise ConfigError(f"the chosen files sweep over {swept}: add --multirun")
    return job(config)


def training_help(configs: Path, words: Sequence[str], description: str) -> str:
    """Returns the text of `train.py --help`, for the choices made on the same command line."""
    files = compose_files(configs, parse_overrides(words))
    defaults = cast("dict[str, Any]", OmegaConf.to_container(files.tree))
    groups = {group: choices_of(configs, group) for group in GROUPS}
    return help_text.training(description, groups, files.chosen, blank(files.tree), defaults)
